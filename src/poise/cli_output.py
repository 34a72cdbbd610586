# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables and sentences for people, one JSON value for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import typer

Output = Literal["text", "json"]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="Print for people or for programs.")]

_WIDTH: Final = 10_000  # characters: a terminal wraps a long line more legibly than a table its columns


def print_json(value: object) -> None:
    """Print one JSON value."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows under the names of their columns: numbers to the right, "yes" for True, one line a row."""
    from rich.console import Console  # noqa: PLC0415  # slow to import, and `-o json` does not need it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numbers = all(_is_number(row[column]) for row in rows)
        table.add_column(Text(column), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    Console(width=_WIDTH, highlight=False).print(table)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case _:
            return str(value)
