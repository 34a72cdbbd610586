# SPDX-License-Identifier: Apache-2.0
"""Single connections of which the caller holds both ends, for laws about one connection and its kernels."""

import selectors
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from poise.lab.addresses import IPAddress, socket_family
from poise.lab.namespaces import LabError, Namespace
from poise.lab.nginx import Nginx

_QUESTION, _ANSWER = b"what does the server say?\n", b"it says that all is well\n"
# linux/tcp.h: the begin of struct tcp_info, and the bits of its tcpi_options
_TCP_INFO_BYTES = 8
_AGREED_OPTIONS = {1: "timestamps", 2: "SACK", 4: "window scale"}
_STATE_CLOSE = 7
_TCP_REPAIR = 19  # linux/tcp.h


@dataclass(frozen=True)
class Agreed:
    """What one end of a connection believes to be agreed on: the options, and both window scales."""

    options: frozenset[str]
    send_scale: int
    receive_scale: int


class Listeners:
    """Servers on one port that accept, say a greeting if there is one, and hand their ends to the caller.

    As a context manager; what nobody took is closed with it.
    """

    def __init__(self, port: int, *, greeting: bytes = b"") -> None:
        self.port = port
        self.greeting = greeting
        self._accepted: dict[tuple[str, int], tuple[str, socket.socket]] = {}
        self._news = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ, "")
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        for _, end in self._accepted.values():
            end.close()

    def beside(self, servers: Iterable[Nginx]) -> None:
        """Listen on the servers' machines, under their names."""
        for server in servers:
            self.listen(server.namespace, server.name, server.address)

    def listen(self, namespace: Namespace, name: str, address: IPAddress) -> None:
        """Listen in a namespace, as a server of this name."""
        with namespace.enter():
            listening = socket.create_server(
                (str(address), self.port), family=socket_family(address), backlog=1024
            )
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ, name)

    def take(self, client: tuple[str, int], timeout: float) -> tuple[str, socket.socket]:
        """The name of the server that a client's address and port are connected to, and the server's end.

        It is the caller's to close. Raises LabError if none accepts within `timeout` seconds.
        """
        with self._news:
            if not self._news.wait_for(lambda: client in self._accepted, timeout):
                raise LabError(f"no server accepted the connection from {client} within {timeout:g} s")
            return self._accepted.pop(client)

    def _accept(self) -> None:
        while True:
            for key, _ in self._selector.select():
                listening = key.fileobj
                if listening is self._stopped or not isinstance(listening, socket.socket):
                    return
                with suppress(BlockingIOError):  # it was reset before we came
                    accepted, client = listening.accept()
                    self._hand_over(key.data, accepted, client[:2])

    def _hand_over(self, name: str, end: socket.socket, client: tuple[str, int]) -> None:
        with suppress(ConnectionError):  # whoever asks for this end finds out
            end.sendall(self.greeting)
        with self._news:
            self._accepted[client] = (name, end)
            self._news.notify_all()


class Conversation:
    """An open connection: `client` and `server` are its ends, `server_name` tells who accepted it.

    As a context manager, which closes both.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: IPAddress,
        listeners: Listeners,
        *,
        port: int | None = None,
        source_port: int = 0,
        timeout: float = 30,
    ) -> None:
        """Connect to `port`, else that of the listeners, and read their greeting, if they have one.

        source_port: 0 for any. timeout: seconds that each step may take. Raises LabError, or OSError as the
        client's kernel tells it.
        """
        with namespace.enter():
            self.client = socket.socket(socket_family(address), socket.SOCK_STREAM)
        try:
            self.client.settimeout(timeout)
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.client.bind(("", source_port))
            self.client.connect((str(address), port or listeners.port))
            _expect(self.client, listeners.greeting)
            self.name: tuple[str, int] = self.client.getsockname()[:2]
            self.server_name, self.server = listeners.take(self.name, timeout)
        except BaseException:
            self.client.close()
            raise
        self.server.settimeout(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both ends, the client's first."""
        self.client.close()
        self.server.close()

    def exchange(self) -> None:
        """Have the client ask and the server answer; raises OSError or LabError if either does not arrive."""
        self.client.sendall(_QUESTION)
        _expect(self.server, _QUESTION)
        self.server.sendall(_ANSWER)
        _expect(self.client, _ANSWER)

    def agreed(self) -> tuple[Agreed, Agreed]:
        """What the client and the server believe to be agreed on."""
        return _agreed(self.client), _agreed(self.server)

    def end(self, timeout: float = 5) -> None:
        """Close it from the server's side, which then has it in TIME_WAIT; the client's port is free again.

        Raises LabError if the client's kernel still has the connection after `timeout` seconds.
        """
        self.server.close()
        if self.client.recv(1):
            raise LabError("the server said something before it closed")
        self.client.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + timeout
        while not is_closed(self.client):  # the kernel tells nobody
            if time.monotonic() > deadline:
                raise LabError("the connection did not end")
            time.sleep(0.001)
        self.client.close()

    def hang_up(self) -> None:
        """Have the client's program end; its kernel says so once, and resets what it hears afterwards."""
        self.client.close()

    def vanish(self) -> None:
        """Have the client's kernel forget the connection without a word to the server."""
        self.client.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        self.client.close()


def is_closed(end: socket.socket) -> bool:
    """Whether the kernel has no connection any more behind this socket."""
    return _info(end)[0] == _STATE_CLOSE


def _agreed(end: socket.socket) -> Agreed:
    info = _info(end)
    options = frozenset(name for bit, name in _AGREED_OPTIONS.items() if info[5] & bit)
    return Agreed(options, info[6] & 15, info[6] >> 4)


def _info(end: socket.socket) -> bytes:
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)


def _expect(end: socket.socket, message: bytes) -> None:
    received = b""
    while len(received) < len(message):
        more = end.recv(len(message) - len(received))
        if not more:
            raise LabError("the other end closed the connection")
        received += more
    if received != message:
        raise LabError(f"{received!r} arrived instead of {message!r}")
