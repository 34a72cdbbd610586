# SPDX-License-Identifier: Apache-2.0
"""What is done with a configuration: `poise check`, `schema`, `plan` and `reload`."""
# ruff: noqa: PLC0415  # a command imports what it needs when it runs: the others must answer at once

from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final

import typer

from poise.api import DEFAULT_SOCKET
from poise.cli.options import ConfigOption, SocketOption
from poise.cli.output import Output, OutputOption, show
from poise.words import count, listed

_COMES_OR_GOES: Final = frozenset({"vip-added", "vip-removed"})  # where no connection can move


def register(app: typer.Typer) -> None:
    """Make these commands of `poise`."""
    for command in (check, schema, plan, reload):
        app.command()(command)


def check(config: ConfigOption, output: OutputOption = "table") -> None:
    """Find every mistake in a configuration."""
    from poise.config import ConfigError, load

    try:
        configuration = load(config)
    except ConfigError as error:
        mistakes = [mistake._asdict() for mistake in error.mistakes]
        show(output, {"ok": False, "mistakes": mistakes}, partial(typer.echo, str(error)))
        raise typer.Exit(1) from None
    vips = count(len(configuration.vips), "VIP")
    servers = count(sum(len(vip.servers) for vip in configuration.vips), "server")
    people = partial(typer.echo, f"{config}: ok, {vips}, {servers}")
    show(output, {"ok": True, "mistakes": []}, people)


def schema(output: OutputOption = "json") -> None:
    """Print the JSON Schema of configurations, for editors and other programs."""
    written = import_module("poise.config.schema").schema()
    wanted: Output = "json" if output == "table" else output  # it has no other form for people
    show(wanted, written, lambda: None)


def plan(config: ConfigOption, socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table") -> None:
    """Show what would change if the running poise had this configuration; nothing is changed."""
    from poise.api.client import Client

    planned = Client(socket).plan(config)
    show(output, planned, lambda: typer.echo("\n".join(_plan(planned)) or "nothing would change"))


def reload(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = "table") -> None:
    """Have the running poise read its configuration again, and apply what differs."""
    from poise.api.client import Client

    done = Client(socket).reload()
    show(output, done, lambda: typer.echo(_reloaded(done)))


def _plan(planned: Mapping[str, Any]) -> Iterator[str]:
    """What changes, by VIP, and what that does to connections."""
    for vip, moved in planned["moved"].items():
        changes = [change for change in planned["changes"] if change["vip"] == vip]
        yield f"VIP {vip}:"
        yield from (f"  {change['sentence']}" for change in changes)
        if _COMES_OR_GOES.isdisjoint(change["kind"] for change in changes):
            yield f"  new connections that another server gets: {moved:.1%}"
        yield f"  open connections: {planned['open_connections'][vip]}"
    if planned["restart"]:
        yield f"a reload would be refused: only a restart changes {', '.join(planned['restart'])}"


def _reloaded(done: Mapping[str, Any]) -> str:
    changes = [f"{what} {listed(done[what])}" for what in ("added", "changed", "removed") if done[what]]
    return f"{'; '.join(changes) or 'nothing differs'} ({done['milliseconds']:.0f} ms)"
