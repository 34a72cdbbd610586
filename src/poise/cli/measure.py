# SPDX-License-Identifier: Apache-2.0
"""`poise demo`, which shows poise at work, and `poise bench`, which measures it."""

from importlib import import_module
from typing import Annotated, Literal

import typer

from poise.cli.output import OutputOption, print_table, show

bench = typer.Typer(help="Measure poise on this machine.", no_args_is_help=True)


@bench.callback()
def _options() -> None:
    """Measure poise on this machine."""


def register(app: typer.Typer) -> None:
    """Make the demo a command of `poise`."""
    app.command()(demo)


def demo(
    what: Annotated[Literal["servers"], typer.Argument(help="What to show.")] = "servers",
    output: OutputOption = "table",
) -> None:
    """Show poise at work in network namespaces of this machine."""
    raise typer.Exit(import_module(f"poise.demo.{what}").main(output))


@bench.command()
def decision(
    flows: Annotated[str, typer.Option(metavar="N,N,...", help="How many flows to draw packets from.")] = (
        "1,1000,100000,1000000,4000000"
    ),
    output: OutputOption = "table",
) -> None:
    """Time how long a packet takes to be decided on, beside other ways to do it."""
    try:
        numbers = [int(number) for number in flows.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"{flows} is not a list of numbers like 1,1000", param_hint="--flows")
    rows = import_module("poise.bench.decision").run(numbers)
    show(output, {"rows": rows}, lambda: print_table(("program", "flows", "ns"), rows))
