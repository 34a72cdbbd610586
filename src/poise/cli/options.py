# SPDX-License-Identifier: Apache-2.0
"""Options and arguments that several commands have, and how a shell completes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from poise.api import DEFAULT_SOCKET

_PATIENCE: Final = 0.5  # seconds that somebody who presses Tab waits for nothing


def _complete_vip(ctx: typer.Context, incomplete: str) -> list[str]:
    return _named(ctx, incomplete, lambda client: [vip["name"] for vip in client.vips()])


def _complete_server(ctx: typer.Context, incomplete: str) -> list[str]:
    vip = ctx.params.get("vip")
    return _named(ctx, incomplete, lambda client: [server["name"] for server in client.servers(vip)])


def _named(ctx: typer.Context, incomplete: str, names: Callable[[Any], list[str]]) -> list[str]:
    """The names that begin like that; none if there is any error, which nobody could read meanwhile."""
    try:
        from poise.api.client import Client  # noqa: PLC0415  # only a shell that completes needs it

        socket = cast("Path | str", ctx.params.get("socket") or DEFAULT_SOCKET)
        found = names(Client(Path(socket), patience=_PATIENCE))
        return sorted({name for name in found if name.startswith(incomplete)})
    except Exception:  # noqa: BLE001  # a traceback would be typed into the user's command line
        return []


# Not `readable`: whoever opens them says better what to do where that is not permitted.
ConfigOption = Annotated[
    Path,
    typer.Option("-c", "--config", metavar="FILE", readable=False, help="The configuration."),
]
SocketOption = Annotated[
    Path,
    typer.Option(
        metavar="PATH", envvar="POISE_SOCKET", readable=False, help="The socket of the running poise."
    ),
]
VipOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The VIP, if poise has several.", autocompletion=_complete_vip),
]
ServerArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The server.", autocompletion=_complete_server)
]
