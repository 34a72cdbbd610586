# SPDX-License-Identifier: Apache-2.0
"""What a running poise tells of itself: `poise status`, `events` and `counters`."""
# ruff: noqa: PLC0415  # a command imports what it needs when it runs: the others must answer at once

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from poise.api import DEFAULT_SOCKET
from poise.cli.options import SocketOption
from poise.cli.output import OutputOption, print_table, show
from poise.words import local_time

_EVENT_COLUMNS: Final = ("id", "at", "kind", "vip", "server", "message")


def register(app: typer.Typer) -> None:
    """Make these commands of `poise`."""
    for command in (status, events, counters):
        app.command()(command)


def status(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table") -> None:
    """Print how the running poise does: its version, configuration, interfaces and last reload."""
    from poise.api.client import Client

    found = Client(socket).status()
    rows = [{"what": what, "value": value} for what, value in _status(found)]
    show(output, found, lambda: print_table(("what", "value"), rows))


def events(
    since: Annotated[int, typer.Option(metavar="ID", min=0, help="Only those after this one.")] = 0,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "table",
) -> None:
    """List what happened lately: servers that went down, drains that ended, reloads."""
    from poise.api.client import Client

    found = Client(socket).events(since)
    rows = [event | {"at": local_time(event["at"])} for event in found]
    show(output, found, lambda: print_table(_EVENT_COLUMNS, rows))


def counters(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table") -> None:
    """Print what a running poise has counted."""
    from poise.api.client import Client

    counted = Client(socket).counters()
    rows = [{"counter": name, "value": value} for name, value in counted.items()]
    show(output, counted, lambda: print_table(("counter", "value"), rows))


def _status(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "version", found["version"]
    yield "since", str(local_time(found["since"]))
    yield "configuration", found["config"]
    yield "digest", found["digest"]
    yield "interfaces", ", ".join(f"{each['name']} ({each['mode']})" for each in found["interfaces"])
    yield "VIPs", f"{found['vips']:,}"
    yield "servers", f"{found['servers']:,}"
    if (last := found["reload"]) is not None:
        yield "last reload", f"{local_time(last['at'])}, {'ok' if last['ok'] else 'refused'}"
        for sentence in (last["error"] or "").splitlines():
            yield "", sentence
