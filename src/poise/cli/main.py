# SPDX-License-Identifier: Apache-2.0
"""The `poise` command as a whole: its parts, and how it ends."""

import os
import re
import sys
from typing import Annotated

import typer

from poise.cli import agent, config, daemon, measure, running, servers, vips
from poise.errors import PoiseError

app = typer.Typer(
    help="Balance load across servers with XDP.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for part in (daemon, config, running, agent, measure):
    part.register(app)
app.add_typer(servers.app, name="servers")
app.add_typer(vips.app, name="vips")
app.add_typer(measure.bench, name="bench")


def main() -> None:
    """Run the command line: a failure ends with a sentence on stderr, and with status 1, or 2 for usage."""
    try:
        try:
            status = app(prog_name="poise", standalone_mode=False)
        finally:
            sys.stdout.flush()
    except PoiseError as error:
        for sentence in str(error).splitlines():
            typer.echo(f"poise: {sentence}", err=True)
        raise SystemExit(1) from None
    except typer.TyperException as error:
        typer.echo(_usage(error), err=True)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        raise SystemExit(1) from None
    raise SystemExit(status or 0)


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the command line, in one sentence that names the help; the help if it is empty."""
    message = error.format_message()
    if message.startswith("Usage: "):
        return message
    mistake = message.replace("Value error, ", "").rstrip(".").replace(". ", ": ")
    mistake = re.sub(
        r"^No such option: (\S+) \(Possible options: (.*)\)$", r"No such option \1: did you mean \2?", mistake
    )
    mistake = mistake[0].lower() + mistake[1:]
    context = getattr(error, "ctx", None)
    command = "poise" if context is None else context.command_path
    return f"poise: {mistake}, see `{command} --help`"


def _print_version(wanted: bool) -> None:
    if wanted:
        from poise import __version__  # noqa: PLC0415  # other commands need not know it

        typer.echo(f"poise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options of `poise` itself."""
