# SPDX-License-Identifier: Apache-2.0
"""TCP sockets with what few connections have: several subflows, data in the SYN, a signature."""

import select
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from poise.lab.namespaces import LabError, Namespace
from poise.lab.nginx import Nginx

MPTCP = socket.IPPROTO_MPTCP
_FAST_OPEN_QUEUE = 16
_TCP_MD5SIG = 14  # linux/tcp.h
_STEP = 10.0  # seconds that an answer may take


class Servers:
    """A listening socket on each of several servers, as a context manager; `protocol`: TCP or MPTCP."""

    def __init__(self, servers: Iterable[Nginx], port: int, *, protocol: int = socket.IPPROTO_TCP) -> None:
        self._stack = ExitStack()
        self._listening: dict[socket.socket, str] = {}
        for server in servers:
            with server.namespace.enter():
                listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
            self._stack.enter_context(listening)
            if protocol == socket.IPPROTO_TCP:  # only where net.ipv4.tcp_fastopen allows it
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, _FAST_OPEN_QUEUE)
            listening.bind((str(server.address), port))
            listening.listen()
            self._listening[listening] = server.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def accept(self) -> tuple[str, socket.socket]:
        """Wait for a connection; return the name of the server that has it, and its end.

        It is closed with the others. Raises LabError if none comes.
        """
        ready, _, _ = select.select(list(self._listening), (), (), _STEP)
        if not ready:
            raise LabError(f"no server accepted a connection within {_STEP:g} s")
        end, _ = ready[0].accept()
        _limit(end)
        return self._listening[ready[0]], self._stack.enter_context(end)


def client(namespace: Namespace, *, protocol: int = socket.IPPROTO_TCP) -> socket.socket:
    """Return a socket of a client, not connected."""
    with namespace.enter():
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    _limit(end)
    return end


def sign(end: socket.socket, peer: str, key: bytes) -> None:
    """Have a socket sign what it sends to an IPv4 address, and ask the same of it: struct tcp_md5sig."""
    address = struct.pack("=HH4s120x", socket.AF_INET, 0, socket.inet_aton(peer))
    option = address + struct.pack("=BBHi80s", 0, 0, len(key), 0, key)
    end.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG, option)


def _limit(end: socket.socket) -> None:
    """Limit how long it blocks, as settimeout() would; but after that, MSG_FASTOPEN would not wait."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", round(_STEP), 0))


def carry(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Send data that the kernels' buffers may not hold, and receive it; raises LabError if it differs."""
    view, received = memoryview(data), b""
    while len(received) < len(data):
        _, writable, _ = select.select((), (sender,) if view else (), (), 0)
        if writable:
            view = view[sender.send(view[: 1 << 14]) :]
        readable, _, _ = select.select((receiver,), (), (), 0 if view else _STEP)
        if readable:
            more = receiver.recv(1 << 16)
            if not more:
                break
            received += more
        elif not view:
            break
    if received != data:
        raise LabError(f"{len(received)} bytes arrived of {len(data)}, or they differ")


def counted(namespace: Namespace, prefix: str) -> Mapping[str, int]:
    """Return the counters of a kernel whose names begin so, without this, zeros left out."""
    return {
        name.removeprefix(prefix): count
        for name, count in namespace.counters().items()
        if name.startswith(prefix) and count
    }
