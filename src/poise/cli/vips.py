# SPDX-License-Identifier: Apache-2.0
"""`poise vips`: the VIPs of a running poise."""
# ruff: noqa: PLC0415  # a command imports what it needs when it runs: the others must answer at once

from typing import Final

import typer

from poise.api import DEFAULT_SOCKET
from poise.cli.options import SocketOption
from poise.cli.output import OutputOption, print_table, show

_COLUMNS: Final = (
    *("name", "address", "port", "protocol", "mode", "policy", "servers", "usable", "panicking"),
    *("connections", "packets", "bytes"),
)

app = typer.Typer(help="See the VIPs of a running poise.", no_args_is_help=True)


@app.callback()
def _options() -> None:
    """See the VIPs of a running poise."""


@app.command("list")
def list_vips(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table") -> None:
    """List all VIPs with how many of their servers take new connections."""
    from poise.api.client import Client

    found = Client(socket).vips()
    show(output, found, lambda: print_table(_COLUMNS, found))
