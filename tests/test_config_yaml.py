# SPDX-License-Identifier: Apache-2.0
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from poise.config import yaml_lines

SCALARS = st.sampled_from(
    [
        *("80", "-1", "010", "0x50", "8_0", "1.5", "10.1", "10.0.0.1", "1e3", ".inf", "10:50", "2026-11-22"),
        *("off", "yes", "true", "null", "~", "web", "200-299", "2001:db8::1", "10%", "500ms", "=", "<"),
        *('"80"', "'off'", '""', '"\\n"', '"10.0.0.1"', "a b", "a#b", "GET", "/a"),
    ]
)
KEYS = st.sampled_from(["a", "b", "port", "off", "1", '"quoted"'])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(KEYS, inner, max_size=4).map(
            lambda items: f"{{{', '.join(f'{key}: {value}' for key, value in items.items())}}}"
        )
    ),
    max_leaves=12,
)
BLOCKS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=5).map(
    lambda items: "".join(f"{key}:\n  - {value}\n  # a comment\n  - x\n" for key, value in items.items())
)

each_reader = pytest.mark.parametrize(
    "parser", [yaml.CBaseLoader, yaml.BaseLoader], ids=["libyaml", "PyYAML"]
)


def _closely(text: str) -> object:
    document = yaml_lines.Document(text)
    walk = yaml_lines.Walk()
    data = yaml_lines.read_with(walk.read, text, document.faults)
    assert not document.faults
    assert not walk.faults
    return data


@given(BLOCKS)
def test_quick_and_close_reading_agree(text: str) -> None:
    """What is read quickly is what is read when lines are wanted."""
    document = yaml_lines.read(text)
    assert not document.faults
    assert document.data == _closely(text)


@given(BLOCKS)
def test_readers_agree(text: str) -> None:
    """Both readers find the same, unless there is a `?` in brackets, which PyYAML's own refuses."""
    found = []
    for parser in (yaml.CBaseLoader, yaml.BaseLoader):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yaml_lines, "PARSER", parser)
            found.append(yaml_lines.read(text))
    assert found[0] == found[1]


@each_reader
@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a:\n\t- b\n", 2, "use spaces"),
        ("a: [b\nc: d\n", 1, "a bracket of this line is not closed"),
        ("a: [\n", 1, "a bracket above is not closed"),
        ("a: [b,, c]\n", 1, "a value is missing here"),
        ('a: ["b]\n', 1, "a quote of this line is not closed"),
        ("a: b\nc\nd: e\n", 2, "without a colon"),
        ("a: b\n  c: d\n", 2, "indent"),
        ("a: b\n---\nc: d\n", 2, "second document"),
        ("a: \x07\n", 1, "U+0007"),
        ('a:\n- "\\UFFFFFFFF"\n', 2, "an escape in quotes"),
        ("[\n" * 100, 21, "nested too deeply"),
        ("? " + "[" * 100 + "\n", 1, "nested too deeply"),
        ("a: @b\n", 1, "needs quotes"),
    ],
)
def test_broken_text(
    parser: object, text: str, line: int, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either reader's wording of broken YAML becomes ours, on the right line."""
    monkeypatch.setattr(yaml_lines, "PARSER", parser)
    document = yaml_lines.read(text)
    assert document.data is None
    assert [fault.line for fault in document.faults][-1] == line
    assert part in document.faults[-1].message


def test_lines() -> None:
    """Keys and values are found on their lines, and what is not there on those of what is around it."""
    document = yaml_lines.read("a:\n  - b: c\n    d:\n      e\n  - {f: g}\n")
    assert document.line(("a", 0, "d")) == 4
    assert document.line(("a", 0, "d"), at_key=True) == 3
    assert document.line(("a", 1, "f")) == 5
    assert document.line(("a", 1, "absent")) == 5
    assert document.line(("absent",)) == 1
