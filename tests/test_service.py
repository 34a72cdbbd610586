# SPDX-License-Identifier: Apache-2.0
"""examples/poise.service, held against the program."""

import os
import re
import shlex
import socket as sockets
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from poise.api.client import Client
from poise.cli import app
from poise.lab.namespaces import end
from tests.site import POISE, Site

UNIT = Path(__file__).parent.parent / "examples" / "poise.service"
WITHIN = 30.0  # seconds


def settings(key: str) -> list[str]:
    """The values of a key of the unit, in their order."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_commands() -> None:
    """Each command of the unit exists, and a reload looks for mistakes first."""
    commands = {
        key: [shlex.split(value)[1:] for value in settings(key)] for key in ("ExecStart", "ExecReload")
    }
    assert commands == {
        "ExecStart": [["up", "-c", "/etc/poise/poise.yaml"]],
        "ExecReload": [["check", "-c", "/etc/poise/poise.yaml"], ["reload"]],
    }
    known = getattr(get_command(app), "commands", {})
    for verb, *options in (*commands["ExecStart"], *commands["ExecReload"]):
        assert {option for option in options if option.startswith("-")} <= {
            option for parameter in known[verb].params for option in parameter.opts
        }


@pytest.fixture
def site() -> Iterator[Site]:
    """A machine between a client and a server."""
    with Site() as found:
        yield found


@pytest.mark.root
def test_capabilities(site: Site) -> None:
    """The capabilities that the unit leaves to poise are enough to start it and to take its programs away."""
    [kept] = settings("CapabilityBoundingSet")
    names = [name.removeprefix("CAP_").lower() for name in kept.split()]
    limited = ["setpriv", f"--bounding-set=-all,{','.join(f'+{name}' for name in names)}", "--inh-caps=-all"]
    log = site.directory / "log"
    for _ in ("first start", "adoption"):
        start_and_end(site, limited, log)
    assert "traceback" not in log.read_text().lower()
    done = site.poise("down", wrapper=limited)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "detached from eth0" in done.stdout


def start_and_end(site: Site, wrapper: list[str], log: Path) -> None:
    """Run `poise up` as systemd does, until it says that it is ready, then end it."""
    path = site.directory / "notify"
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as manager, log.open("a") as file:
        manager.bind(str(path))
        manager.settimeout(WITHIN)
        command = [*wrapper, str(POISE), "up", "-c", str(site.configuration)]
        environment = os.environ | {"NOTIFY_SOCKET": str(path)}
        running = site.here.popen(command, stdout=file, stderr=file, env=environment)
        try:
            assert manager.recv(4096) == b"READY=1"
            assert Client(site.socket).status()["servers"] == 1
        finally:
            end(running)
            path.unlink()
        assert manager.recv(4096) == b"STOPPING=1"
