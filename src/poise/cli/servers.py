# SPDX-License-Identifier: Apache-2.0
"""`poise servers`: see and change the servers of a running poise."""
# ruff: noqa: PLC0415  # a command imports what it needs when it runs: `poise servers list` must answer at once

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Final, Literal

import typer

from poise.api import DEFAULT_SOCKET
from poise.cli.options import ServerArgument, SocketOption, VipOption
from poise.cli.output import Output, OutputOption, print_table, show
from poise.endpoints import read_end, write_end
from poise.words import local_time, percent

_COLUMNS: Final = (
    *("vip", "name", "address", "port", "id", "weight", "state", "reachable", "share", "load", "open"),
    *("connections", "packets", "bytes", "reason"),
)
_DRAIN_COLUMNS: Final = ("vip", "name", "since", "deadline", "remaining", "silent", "done")
_CONNECTION_COLUMNS: Final = (
    *("vip", "client", "port", "server", "state", "age", "idle"),
    *("packets_to_server", "bytes_to_server", "packets_to_client", "bytes_to_client"),
)
_CANDIDATE_COLUMNS: Final = ("name", "id", "state", "share", "chance", "load", "reason")

_STATES: Final = {
    "ready": "{name} ({end}) gets new connections of VIP {vip}",
    "unused": "{name} ({end}) gets no new connections of VIP {vip} yet: {reason}",
    "down": "{name} ({end}) is down, and gets new connections of VIP {vip} once it is up",
    "drain": "{name} gets no new connections of VIP {vip}, those it has go on",
    "maint": "{name} gets no new connections of VIP {vip} and no health checks, those it has go on",
    "removed": "{name} is removed from VIP {vip}, connections it still has go on",
    "cut": "{name} is removed from VIP {vip}, and its connections are cut",
}

app = typer.Typer(help="See and change the servers of a running poise.", no_args_is_help=True)

NowOption = Annotated[bool, typer.Option("--now", help="Cut the connections that it has, and remove it.")]
EndArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS:PORT", help="Where the server listens; of IPv6, [ADDRESS]:PORT.")
]


@app.command("list")
def list_servers(
    vip: VipOption = None, socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table"
) -> None:
    """List the servers of a VIP, or of all."""
    from poise.api.client import Client

    found = Client(socket).servers(vip)
    show(output, found, lambda: print_table(_COLUMNS, [_shares(_marked(row, "open")) for row in found]))


@app.command()
def add(  # noqa: PLR0917  # typer takes each option as an argument
    endpoint: EndArgument,
    name: Annotated[str | None, typer.Option(help="Its name, ADDRESS:PORT unless given.")] = None,
    weight: Annotated[
        int | None, typer.Option(min=1, max=100, help="Its share of new connections, 1 unless given.")
    ] = None,
    vip: VipOption = None,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "table",
) -> None:
    """Let a server, new or known, take new connections."""
    from poise.api.client import Client

    address, port = _end(endpoint, "ADDRESS:PORT")
    _show(output, Client(socket).add(address, port, name=name, vip=vip, weight=weight))


@app.command()
def ready(
    name: ServerArgument,
    vip: VipOption = None,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "table",
) -> None:
    """Let a server that was drained or in maintenance take new connections again."""
    from poise.api.client import Client

    _show(output, Client(socket).set_state(name, "ready", vip=vip))


@app.command()
def drain(  # noqa: PLR0917  # typer takes each option as an argument
    name: ServerArgument,
    vip: VipOption = None,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When to end it at the latest: seconds, or like 90s, 30m or 1h."),
    ] = None,
    now: NowOption = False,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "table",
) -> None:
    """Give a server no new connections; its health is still checked."""
    from poise.api.client import Client

    seconds = int(deadline) if deadline and deadline.isascii() and deadline.isdecimal() else deadline
    _show(output, Client(socket).set_state(name, "drain", vip=vip, deadline=seconds, now=now))


@app.command()
def maint(
    name: ServerArgument,
    vip: VipOption = None,
    now: NowOption = False,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "table",
) -> None:
    """Give a server no new connections and no health checks, for maintenance."""
    from poise.api.client import Client

    _show(output, Client(socket).set_state(name, "maint", vip=vip, now=now))


@app.command()
def remove(
    name: ServerArgument,
    vip: VipOption = None,
    now: NowOption = False,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "table",
) -> None:
    """Remove a server from its VIP."""
    from poise.api.client import Client

    _show(output, Client(socket).remove(name, vip=vip, now=now))


@app.command()
def drains(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table") -> None:
    """List the servers that drain, and how many connections each still has."""
    from poise.api.client import Client

    found = Client(socket).drains()
    rows = [_marked(row, "remaining") for row in found]
    rows = [
        row | {"since": local_time(row["since"]), "deadline": local_time(row["deadline"])} for row in rows
    ]
    show(output, found, lambda: print_table(_DRAIN_COLUMNS, rows))


@app.command()
def connections(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table") -> None:
    """List the connections of stateful VIPs."""
    from poise.api.client import Client

    found = Client(socket).connections()
    show(output, found, lambda: print_table(_CONNECTION_COLUMNS, found))


@app.command()
def why(  # noqa: PLR0917  # typer takes each option as an argument
    client: Annotated[str, typer.Argument(metavar="SRC:PORT", help="The client's end of a connection.")],
    vip: Annotated[str, typer.Argument(metavar="VIP:PORT", help="The VIP's address and port.")],
    protocol: Annotated[
        Literal["tcp", "udp"],
        typer.Option(help="Which VIP is meant, where there is one of TCP and one of UDP or QUIC."),
    ] = "tcp",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the next packet of this connection.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=60, help="How long --wait waits.")
    ] = 10.0,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "table",
) -> None:
    """Say which server a new connection would get, or where its next packet goes, and by which rule."""
    from poise.api.client import Client

    ends = (_end(client, "SRC:PORT"), _end(vip, "VIP:PORT"))
    answer = Client(socket).why(*ends, wait=timeout if wait else None, protocol=protocol)
    show(output, answer, lambda: _explain(answer))


def _explain(answer: Mapping[str, Any]) -> None:
    typer.echo(answer["sentence"])
    if candidates := answer.get("servers"):
        print_table(_CANDIDATE_COLUMNS, [_shares(row) for row in candidates])


def _show(output: Output, server: Mapping[str, Any]) -> None:
    end = write_end(ip_address(server["address"]), server["port"])
    state = "unused" if server["state"] == "ready" and server["reason"] else server["state"]
    show(output, server, lambda: typer.echo(_STATES[state].format(**server, end=end)))


def _end(
    text: str, what: Literal["ADDRESS:PORT", "SRC:PORT", "VIP:PORT"]
) -> tuple[IPv4Address | IPv6Address, int]:
    try:
        return read_end(text)
    except ValueError:
        message = f"{text} is not ADDRESS:PORT, like 10.0.0.1:8080 or [2001:db8::1]:8080"
        raise typer.BadParameter(message, param_hint=what) from None


def _shares(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(row) | {key: percent(row.get(key)) for key in ("share", "chance")}


def _marked(row: Mapping[str, Any], count: str) -> dict[str, Any]:
    """The row with a count that is only estimated marked as such."""
    estimated = row.get("estimated") and row.get(count) is not None
    return dict(row) | ({count: f"~{row[count]:.0f}"} if estimated else {})
