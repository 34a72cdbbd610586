# SPDX-License-Identifier: Apache-2.0
"""Whatever is written for any value of the full example: a configuration, or mistakes within its files."""

import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.config import ConfigError, Mistake, load
from tests.configs import EXAMPLES

FULL = EXAMPLES / "full"
NAMES = ("poise.yaml", "conf.d/others.yaml", "conf.d/shop.yaml")

ODD = st.sampled_from(
    [
        *(
            "",
            "~",
            "off",
            "true",
            "0",
            "-1",
            "1.5",
            "010",
            "10:50",
            "2026-11-22",
            "99999999999999999999",
            "''",
        ),
        *("[]", "{}", "[[]]", "[{}]", "{a: b}", "[1, x]", "{type: http}", "{from: url}", "*a", "!!set {}"),
        *(
            "10.0.0.1",
            '"2001:db8::1"',
            "192.0.2.10",
            "100%",
            "1h",
            "500ms",
            "http",
            "udp",
            "quic",
            "cookieless",
        ),
        *("prequal", "/etc", "x", "shop", "shop-tls", '"\\0"', '"a\\nb"', '"["', "{[]: 1}"),
    ]
)


def _values(node: yaml.Node | None) -> list[yaml.Node]:
    """All values in a text, whole mappings and lists included."""
    if node is None:
        return []
    inner = []
    if isinstance(node, yaml.MappingNode):
        inner = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    return [node, *(each for value in inner for each in _values(value))]


TEXTS = {name: (FULL / name).read_text() for name in NAMES}
PLACES = [
    (name, node) for name, text in TEXTS.items() for node in _values(yaml.compose(text, yaml.SafeLoader))
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the full example, to be changed again and again."""
    return Path(shutil.copytree(FULL, tmp_path_factory.mktemp("full") / "copy"))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(range(len(PLACES))), ODD), min_size=1, max_size=3))
def test_odd_values(directory: Path, changes: list[tuple[int, str]]) -> None:
    """Odd values of any kind in any place are mistakes of one line each, in the right files, or right."""
    texts = dict(TEXTS)
    taken: list[tuple[str, int, int]] = []
    for place, odd in sorted(
        changes, reverse=True
    ):  # from the end, so that what is before stays in its place
        name, node = PLACES[place]
        start, end = node.start_mark.index, node.end_mark.index
        if any(name == other and start < last and first < end for other, first, last in taken):
            continue
        taken.append((name, start, end))
        separator = "\n" if texts[name][:end].endswith("\n") else ""
        texts[name] = f"{texts[name][:start]}{odd}{separator}{texts[name][end:]}"
    for name, text in texts.items():
        (directory / name).write_text(text)
    for mistake in _mistakes(directory / "poise.yaml"):
        assert len(str(mistake).splitlines()) == 1
        if mistake.line is not None:
            text = texts[str(Path(mistake.file).relative_to(directory))]
            assert 1 <= mistake.line <= len(text.splitlines())


def _mistakes(file: Path) -> list[Mistake]:
    try:
        load(file)
    except ConfigError as error:
        return error.mistakes
    return []
