# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from poise.cli.output import print_table
from tests.cli.program import poise

EXAMPLES = Path(__file__).parents[2] / "examples"
CELLS = st.none() | st.booleans() | st.integers() | st.text("abc-é", min_size=1, max_size=20)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    "arguments",
    [
        ("servers", "list"),
        ("servers", "drains"),
        ("servers", "connections"),
        ("servers", "drain", "web1"),
        ("servers", "why", "198.51.100.7:40000", "192.0.2.10:80"),
        ("vips", "list"),
        ("status",),
        ("events",),
        ("counters",),
        ("reload",),
        ("plan", "-c", str(EXAMPLES / "minimal.yaml")),
        ("check", "-c", str(EXAMPLES / "minimal.yaml")),
        ("check", "-c", "absent.yaml"),
    ],
    ids=" ".join,
)
def test_formats(arguments: tuple[str, ...]) -> None:
    """JSON and YAML are one and the same value, and a table is neither of them."""
    printed = {output: poise(*arguments, "-o", output) for output in ("table", "json", "yaml")}
    assert len({done.returncode for done in printed.values()}) == 1
    assert not any(done.stderr for done in printed.values())
    value: Any = json.loads(printed["json"].stdout)
    assert value
    assert yaml.safe_load(printed["yaml"].stdout) == value
    with pytest.raises(json.JSONDecodeError):
        json.loads(printed["table"].stdout)
    assert poise(*arguments).stdout == printed["table"].stdout


def shown(value: object) -> str:
    """How a value stands in a table."""
    if value is None:
        return "-"
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"


@given(rows=st.lists(st.fixed_dictionaries(dict.fromkeys("xyz", CELLS)), max_size=5))
def test_table(rows: list[dict[str, object]]) -> None:
    """A table has a line for its columns and one a row, each with all that is known of it."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("typer.echo", lines.append)
        print_table(("x", "y", "z"), rows)
    header, *body = lines
    known = [name for name in "yz" if not rows or any(row[name] is not None for row in rows)]
    assert header.split() == ["x", *known]
    assert [line.split() for line in body] == [[shown(row[name]) for name in ("x", *known)] for row in rows]


@pytest.mark.usefixtures("running")
def test_nothing_to_list() -> None:
    """A list of nothing still names its columns."""
    assert poise("servers", "list", "--vip", "none").stdout.split()[:2] == ["vip", "name"]
