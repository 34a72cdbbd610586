# SPDX-License-Identifier: Apache-2.0
"""`poise up` and `poise down`."""
# ruff: noqa: PLC0415  # a command imports what it needs when it runs: the others must answer at once

from functools import partial
from typing import Annotated, Literal

import typer

from poise.cli.options import ConfigOption
from poise.cli.output import OutputOption, show


def register(app: typer.Typer) -> None:
    """Make these commands of `poise`."""
    app.command()(up)
    app.command()(down)


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
    from poise.cli.log import set_up_log

    set_up_log()
    path = config.absolute()  # as `poise status` and reloads name it, whoever asks from wherever
    anyio.run(partial(daemon.up, path, xdp_mode=xdp_mode, set_up_host=not no_host_setup))


def down(config: ConfigOption, output: OutputOption = "table") -> None:
    """Stop balancing, and undo the settings of the host."""
    from poise import daemon
    from poise.config import load

    undone = daemon.down(load(config))
    people = partial(typer.echo, "\n".join(undone) or "there was nothing to undo")
    show(output, {"undone": undone}, people)
