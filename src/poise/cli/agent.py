# SPDX-License-Identifier: Apache-2.0
"""`poise agent`, which runs on servers."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Make this a command of `poise`."""
    app.command()(agent)


def agent(
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT", help="Where to serve.")] = "127.0.0.1:9110",
    service: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS:PORT", help="The service whose open connections are counted."),
    ] = None,
    probe: Annotated[
        str | None, typer.Option(metavar="URL", help="A page of the service whose answers are timed.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the token that callers must send.")
    ] = None,
) -> None:
    """Tell balancers how loaded this server is; needs no root."""
    import_module("poise.agent").main(listen, service, probe, token_file)
