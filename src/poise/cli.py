# SPDX-License-Identifier: Apache-2.0
"""The `poise` command."""
# ruff: noqa: PLC0415  # a command imports what it needs when it runs: `poise servers list` must answer at once

import os
import sys
from functools import partial
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from poise.api import DEFAULT_SOCKET
from poise.cli_output import OutputOption, print_json, print_table
from poise.endpoints import read_end, write_end
from poise.errors import PoiseError

_SERVER_COLUMNS: Final = (
    "vip",
    "name",
    "address",
    "port",
    "id",
    "weight",
    "state",
    "reachable",
    "connections",
    "packets",
    "bytes",
)
_STATES: Final = {
    "ready": "{name} ({end}) gets new connections of VIP {vip}",
    "drain": "{name} gets no new connections of VIP {vip}, those it has go on",
    "removed": "{name} is removed from VIP {vip}, connections it still has go on",
    "cut": "{name} is removed from VIP {vip}, and its connections are cut",
}

app = typer.Typer(
    help="Balance load across servers with XDP.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
servers = typer.Typer(help="See and change the servers of a running poise.", no_args_is_help=True)
bench = typer.Typer(help="Measure poise on this machine.", no_args_is_help=True)
app.add_typer(servers, name="servers")
app.add_typer(bench, name="bench")

ConfigOption = Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration.")]
SocketOption = Annotated[
    Path, typer.Option(metavar="PATH", envvar="POISE_SOCKET", help="The socket of the running poise.")
]
VipOption = Annotated[str | None, typer.Option(metavar="NAME", help="The VIP, if poise has several.")]
ServerArgument = Annotated[str, typer.Argument(metavar="NAME", help="The server.")]


def main() -> None:
    """Run the command line: expected failures end with a sentence on stderr and exit status 1."""
    try:
        try:
            app(prog_name="poise")
        finally:
            sys.stdout.flush()
    except PoiseError as error:
        for sentence in str(error).splitlines():
            typer.echo(f"poise: {sentence}", err=True)
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        raise SystemExit(1) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from poise import __version__

        typer.echo(f"poise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options of `poise` itself."""


@app.command()
def up(
    config: ConfigOption,
    xdp_mode: Annotated[
        Literal["auto", "native", "generic"] | None,
        typer.Option(help="Run XDP in the driver or in the network stack, whatever FILE says."),
    ] = None,
    no_host_setup: Annotated[
        bool, typer.Option("--no-host-setup", help="Leave sysctls and interface settings as they are.")
    ] = False,
) -> None:
    """Balance load until told to end; the packets flow on even then."""
    import anyio

    from poise import daemon
    from poise.cli_log import set_up_log
    from poise.config import load

    configuration = load(config)
    if xdp_mode is not None:
        configuration = configuration.model_copy(update={"xdp_mode": xdp_mode})
    set_up_log()
    try:
        anyio.run(partial(daemon.up, configuration, set_up_host=not no_host_setup))
    except ExceptionGroup as group:  # what a task group raises
        _, defects = group.split(PoiseError)
        if defects is not None:
            raise
        raise PoiseError("\n".join(map(str, _leaves(group)))) from None


@app.command()
def down(config: ConfigOption, output: OutputOption = "text") -> None:
    """Stop balancing, and undo the settings of the host."""
    from poise import daemon
    from poise.config import load

    undone = daemon.down(load(config))
    if output == "json":
        print_json({"undone": undone})
    else:
        typer.echo("\n".join(undone) or "there was nothing to undo")


@app.command()
def check(config: ConfigOption, output: OutputOption = "text") -> None:
    """Find every mistake in a configuration."""
    from poise.config import ConfigError, load

    try:
        configuration = load(config)
    except ConfigError as error:
        if output == "json":
            print_json({"ok": False, "mistakes": [mistake._asdict() for mistake in error.mistakes]})
        else:
            typer.echo(str(error))
        raise typer.Exit(1) from None
    if output == "json":
        print_json({"ok": True, "mistakes": []})
    else:
        vips = _count(len(configuration.vips), "VIP")
        servers = _count(sum(len(vip.servers) for vip in configuration.vips), "server")
        typer.echo(f"{config}: ok, {vips}, {servers}")


@app.command()
def counters(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "text") -> None:
    """Print what a running poise has counted."""
    from poise.api.client import Client

    counted = Client(socket).counters()
    if output == "json":
        print_json(counted)
    else:
        print_table(
            ("counter", "value"), [{"counter": name, "value": value} for name, value in counted.items()]
        )


@app.command()
def demo(
    what: Annotated[Literal["servers"], typer.Argument(help="What to show.")] = "servers",
    output: OutputOption = "text",
) -> None:
    """Show poise at work in network namespaces of this machine."""
    raise typer.Exit(import_module(f"poise.demo.{what}").main(output))


@servers.command("list")
def list_servers(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "text") -> None:
    """List the servers of all VIPs."""
    from poise.api.client import Client

    found = Client(socket).servers()
    if output == "json":
        print_json(found)
    else:
        print_table(_SERVER_COLUMNS, found)


@servers.command()
def add(  # noqa: PLR0917  # typer takes each option as an argument
    endpoint: Annotated[
        str, typer.Argument(metavar="ADDRESS:PORT", help="Where the server listens; of IPv6, [ADDRESS]:PORT.")
    ],
    name: Annotated[str | None, typer.Option(help="Its name, ADDRESS:PORT unless given.")] = None,
    weight: Annotated[
        int | None, typer.Option(min=1, max=100, help="Its share of what is placed by hash, 1 unless given.")
    ] = None,
    vip: VipOption = None,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "text",
) -> None:
    """Let a server, new or drained, take new connections."""
    from poise.api.client import Client

    try:
        address, port = read_end(endpoint)
    except ValueError:
        message = f"{endpoint} is not ADDRESS:PORT, like 10.0.0.1:8080 or [2001:db8::1]:8080"
        raise typer.BadParameter(message, param_hint="ADDRESS:PORT") from None
    _print_server(Client(socket).add(address, port, name=name, vip=vip, weight=weight), output)


@servers.command()
def drain(
    name: ServerArgument,
    vip: VipOption = None,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "text",
) -> None:
    """Give a server no new connections."""
    from poise.api.client import Client

    _print_server(Client(socket).drain(name, vip=vip), output)


@servers.command()
def remove(
    name: ServerArgument,
    vip: VipOption = None,
    now: Annotated[bool, typer.Option("--now", help="Cut the connections that it has.")] = False,
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = "text",
) -> None:
    """Remove a server from its VIP."""
    from poise.api.client import Client

    _print_server(Client(socket).remove(name, vip=vip, now=now), output)


@bench.command()
def decision(
    flows: Annotated[str, typer.Option(metavar="N,N,...", help="How many flows to draw packets from.")] = (
        "1,1000,100000,1000000,4000000"
    ),
    output: OutputOption = "text",
) -> None:
    """Time how long a packet takes to be decided on, beside other ways to do it."""
    try:
        numbers = [int(number) for number in flows.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"{flows} is not a list of numbers like 1,1000", param_hint="--flows")
    rows = import_module("poise.bench.decision").run(numbers)
    if output == "json":
        print_json({"rows": rows})
    else:
        print_table(("program", "flows", "ns"), rows)


def _print_server(server: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(server)
    else:
        end = write_end(ip_address(server["address"]), server["port"])
        typer.echo(_STATES[server["state"]].format(**server, end=end))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
