# SPDX-License-Identifier: Apache-2.0
"""More clients than the API serves at a time."""

import re
import socket as sockets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from poise.api import server
from poise.api.client import Client
from poise.errors import PoiseError
from tests.api.serving import ListFacade, serving

ROOT = Path(__file__).parents[2]
REQUESTS = 10_000
AT_ONCE = 400
FILES = 600  # that the server may have open: it has to refuse clients before it runs out of them

_PROGRAM = """
import sys
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
import anyio
from poise.api.server import serve
from tests.api.serving import ListFacade

async def run():
    facade = ListFacade()
    for number in range(1, 101):
        facade.add("web", f"web{number}", IPv4Address(f"10.0.0.{number}"), 80)
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve, Path(sys.argv[1]), facade))
        print("serving", flush=True)

anyio.run(run)
"""


@contextmanager
def process(socket: Path) -> Iterator["subprocess.Popen[str]"]:
    """A server in a process of its own, with few files; it must end without having said anything."""
    program = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES})){_PROGRAM}"
    command = [sys.executable, "-c", program, str(socket)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "serving\n"
            yield running
            assert running.poll() is None
        finally:
            running.kill()
            _, said = running.communicate()
        assert said == ""


def outcome(client: Client) -> str:
    """What becomes of a request."""
    try:
        return f"{len(client.servers())} servers"
    except PoiseError as error:
        return str(error)


def test_flood(tmp_path: Path) -> None:
    """Each of 10,000 requests is answered, or refused with a sentence, and then the server is as before."""
    socket = tmp_path / "poise.sock"
    with process(socket), ThreadPoolExecutor(AT_ONCE) as threads:
        found = Counter(threads.map(outcome, [Client(socket)] * REQUESTS))
        refused = found.pop(f"poise serves {server.CONNECTIONS} clients already: ask again in a second", 0)
        answered = found.pop("100 servers", 0)
        assert not found
        assert answered + refused == REQUESTS
        assert answered >= server.CONNECTIONS
        assert outcome(Client(socket)) == "100 servers"


def silent(socket: Path, sent: bytes = b"") -> sockets.socket:
    """A client that does not ask, or not to the end."""
    client = sockets.socket(sockets.AF_UNIX)
    client.connect(str(socket))
    client.settimeout(10)
    client.sendall(sent)
    return client


@pytest.mark.parametrize("sent", [b"", b"GET /servers HTTP/1.1\r\nHost:"], ids=["nothing", "half a request"])
def test_silent_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Clients that keep their connections without a request are let go, and make room for others."""
    monkeypatch.setattr(server, "_SECONDS_TO_ASK", 1)
    socket = tmp_path / "poise.sock"
    with serving(socket, ListFacade()) as client, ExitStack() as opened:
        holding = [opened.enter_context(silent(socket, sent)) for _ in range(server.CONNECTIONS)]
        with pytest.raises(PoiseError, match="clients already"):
            client.servers()
        for each in holding:
            assert each.recv(1) == b""
        assert client.servers() == []


def test_silent_clients_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond those that may be open in all, a client is refused before it has asked."""
    monkeypatch.setattr(server, "_OPEN", server.CONNECTIONS + 10)
    socket = tmp_path / "poise.sock"
    with serving(socket, ListFacade()), ExitStack() as opened:
        for _ in range(server.CONNECTIONS + 10):
            opened.enter_context(silent(socket))
        with silent(socket) as refused:
            told = b"".join(iter(lambda: refused.recv(4096), b"")).decode()
        assert told.startswith("HTTP/1.1 503 ")
        assert int(re.findall(r"content-length: (\d+)", told)[0]) == len(told.split("\r\n\r\n")[1])


def test_body_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that announces a body and never sends it is refused with a sentence."""
    monkeypatch.setattr("poise.api.requests._SECONDS_TO_SEND", 0.2)
    socket = tmp_path / "poise.sock"
    request = b"POST /servers HTTP/1.1\r\nHost: poise\r\nContent-Length: 10\r\nConnection: close\r\n\r\n{"
    with serving(socket, ListFacade()), silent(socket, request) as client:
        told = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    assert told.startswith("HTTP/1.1 400 ")
    assert "did not come within" in told
