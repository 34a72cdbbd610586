# SPDX-License-Identifier: Apache-2.0
"""Configurations for tests."""

from pathlib import Path

import pytest

from poise.config import ConfigError, Mistake, load


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
