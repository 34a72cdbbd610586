# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables and sentences for people, one value as JSON or YAML for programs."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, Final, Literal

import typer

Output = Literal["table", "json", "yaml"]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="Print for people or for programs.")]

_BOLD: Final = "\x1b[1m{}\x1b[0m"
_GAP: Final = "  "


def show(output: Output, value: object, people: Callable[[], None]) -> None:
    """Print a value for programs, or call what prints it for people."""
    match output:
        case "json":
            typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))
        case "yaml":
            yaml = import_module("yaml")  # slow to import
            dumped: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
            typer.echo(dumped, nl=False)
        case "table":
            people()


def print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows under the names of their columns, one line a row: numbers to the right, "yes" for True.

    A column of which no row knows anything is left out, but for the first one. Written here because there
    may be 256,000 rows, for which rich takes minutes.
    """
    known = [*columns[:1], *(name for name in columns[1:] if not rows or _any_knows(rows, name))]
    laid_out = [_column(name, [row.get(name) for row in rows]) for name in known]
    lines = (_GAP.join(cells).rstrip() for cells in zip(*laid_out, strict=True))
    header = next(lines, "")
    typer.echo(_BOLD.format(header) if sys.stdout.isatty() else header)
    for line in lines:
        typer.echo(line)


def _column(name: str, values: Sequence[object]) -> list[str]:
    """The cells of a column, its name first, all of one width."""
    cells = [name, *map(_cell, values)]
    width = max(map(len, cells))
    numbers = all(value is None or _is_number(value) for value in values)
    return [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]


def _any_knows(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(row.get(name) is not None for row in rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case _:
            return str(value)
