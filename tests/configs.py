# SPDX-License-Identifier: Apache-2.0
"""Configurations for tests."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from poise.config import ConfigError, Mistake, load

EXAMPLES = Path(__file__).parent.parent / "examples"


def mistakes_in(directory: Path, content: str | bytes) -> list[Mistake]:
    """Loads a text that must have mistakes, and returns them."""
    file = directory / "poise.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as raised:
        load(file)
    mistakes = raised.value.mistakes
    assert str(raised.value) == "\n".join(map(str, mistakes))
    assert {mistake.file for mistake in mistakes} == {str(file)}
    return mistakes


def write(directory: Path, files: Mapping[str, str]) -> Path:
    """Writes the files of a configuration; returns the path of poise.yaml."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory / "poise.yaml"


def assert_mistakes(directory: Path, files: Mapping[str, str]) -> None:
    """Asserts that loading finds exactly what the files expect.

    They have `# ! part of the message` on the lines where a mistake is expected.
    """
    expected = sorted(
        (name, number, part.strip())
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        for part in line.partition("  # ! ")[2].split(" ! ")
        if part
    )
    with pytest.raises(ConfigError) as raised:
        load(write(directory, files))
    found = sorted(
        (str(Path(mistake.file).relative_to(directory)), mistake.line or 0, mistake.message)
        for mistake in raised.value.mistakes
    )
    assert [place[:2] for place in found] == [place[:2] for place in expected], found
    for name, line, part in expected:
        messages = [place[2] for place in found if place[:2] == (name, line)]
        assert any(part in message for message in messages), (part, messages)
    for _, _, message in found:
        assert len(message.splitlines()) == 1, message
