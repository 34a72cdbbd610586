# SPDX-License-Identifier: Apache-2.0
import os
import signal
import socket as sockets
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from poise.api.client import Client
from poise.api.server import serve
from poise.errors import PoiseError
from tests.api.serving import ListFacade, serving

ROOT = Path(__file__).parents[2]
WEB1 = IPv4Address("10.0.0.1")


def test_only_the_owner_may_connect(socket: Path, facade: ListFacade) -> None:
    """The socket is its owner's alone and its directory readable, whatever the umask."""
    umask = os.umask(0o077)
    try:
        with serving(socket, facade):
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o755
    finally:
        os.umask(umask)


def test_socket_is_removed_and_can_be_served_again(socket: Path, facade: ListFacade) -> None:
    """A server that ends leaves nothing behind that would keep the next from starting."""
    for _ in range(2):
        with serving(socket, facade) as client:
            assert client.servers() == []
        assert not socket.exists()


def test_stale_socket_is_replaced(socket: Path, facade: ListFacade) -> None:
    """The socket of a process that was killed does not keep the next from starting."""
    socket.parent.mkdir()
    with sockets.socket(sockets.AF_UNIX) as killed:
        killed.bind(str(socket))
    with serving(socket, facade) as client:
        assert client.servers() == []


def test_live_socket_is_left_alone(client: Client, socket: Path) -> None:
    """A second server on the same socket is refused, and the first goes on."""
    with pytest.raises(PoiseError, match="another process listens on"), serving(socket, ListFacade()):
        pass
    assert client.servers() == []


@pytest.mark.parametrize("name", ["file", "directory", "file/poise.sock", "x" * 200])
def test_places_where_no_socket_can_be(tmp_path: Path, name: str) -> None:
    """What is in the way of the socket is named and left as it is."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "directory").mkdir()
    with pytest.raises(PoiseError, match="cannot listen on"), serving(tmp_path / name, ListFacade()):
        pass
    assert (tmp_path / "file").read_text() == "precious"


def test_signals_are_left_to_the_process(socket: Path, facade: ListFacade) -> None:
    """Serving in the main thread does not take over signals."""

    async def run() -> object:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve, socket, facade)
            await anyio.to_thread.run_sync(Client(socket).servers)
            handler = signal.getsignal(signal.SIGTERM)
            tasks.cancel_scope.cancel()
        return handler

    before = signal.getsignal(signal.SIGTERM)
    assert anyio.run(run) is before


def test_end_while_clients_wait(tmp_path: Path) -> None:
    """A client that waits for a packet of the next minute does not keep the process from ending."""
    program = """
import sys
import time
from functools import partial
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
import anyio
from poise.api.server import serve
from tests.api.serving import ListFacade

class Patient(ListFacade):
    def why(self, client, vip, wait=None, protocol=None):
        print("waiting", flush=True)
        time.sleep(wait)
        return {}

async def run():
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve, Path(sys.argv[1]), Patient()))
        print("serving", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        tasks.cancel_scope.cancel()

anyio.run(run)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "poise.sock")]
    with (
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running,
        ThreadPoolExecutor(1) as thread,
    ):
        assert running.stdout is not None
        assert running.stdout.readline() == "serving\n"
        end = (WEB1, 80)
        asked = thread.submit(partial(Client(tmp_path / "poise.sock").why, end, end, wait=60))
        assert running.stdout.readline() == "waiting\n"
        running.communicate("end\n", timeout=20)
        assert running.returncode == 0
        with pytest.raises(PoiseError):
            asked.result()
