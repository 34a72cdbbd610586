# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 connection on a plain non-blocking socket, cheap enough for thousands of them on one core."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from poise.lab.addresses import socket_family

_REASONS = {
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timed out",
}


@dataclass(frozen=True)
class Address:
    """Where a client connects to."""

    host: str
    port: int


class Connection:
    """Opens, asks `GET /`, and tells each answer's body (the server's name) or why the connection ended.

    `on_open` comes once, when the handshake is done. `on_answer` gets the body of every answer with status
    200. `on_end` gets a reason: "reset", "refused", "closed", "timed out", "status NNN", or the name of an
    errno. It comes at most once, and not after `close`. At most one request may be outstanding.
    """

    def __init__(
        self,
        address: Address,
        on_open: Callable[[], None],
        on_answer: Callable[[str], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_open = on_open
        self._on_answer = on_answer
        self._on_end = on_end
        self._received = b""
        self._socket = socket.socket(socket_family(address.host), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._fd = self._socket.fileno()
        self._loop.add_writer(self._fd, self._opened)
        error = self._socket.connect_ex((address.host, address.port))
        if error not in (0, errno.EINPROGRESS):
            # Not before the caller has got hold of this object.
            self._loop.call_soon(self._end, _reason(error))

    def request(self, text: bytes) -> None:
        """Send a request, small enough for the socket's buffer."""
        try:
            self._socket.send(text)
        except OSError as error:
            self._end(_reason(error.errno))

    def close(self) -> None:
        """Close the socket without telling `on_end`."""
        self._loop.remove_writer(self._fd)
        self._loop.remove_reader(self._fd)
        self._socket.close()

    def _end(self, reason: str) -> None:
        if self._socket.fileno() != -1:
            self.close()
            self._on_end(reason)

    def _opened(self) -> None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._end(_reason(error))
            return
        self._loop.remove_writer(self._fd)
        self._loop.add_reader(self._fd, self._readable)
        self._on_open()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_reason(error.errno))
            return
        if not data:
            self._end("closed")
            return
        self._received += data
        body = self._body()
        if body is not None:
            self._received = b""
            self._on_answer(body)

    def _body(self) -> str | None:
        head, complete, body = self._received.partition(b"\r\n\r\n")
        if not complete:
            return None
        status = head[9:12]
        if status != b"200":
            self._end(f"status {status.decode('latin-1')}")
            return None
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return body.decode("latin-1").strip() if len(body) >= int(length) else None


def _reason(number: int | None) -> str:
    if number is None:
        return "unknown"
    return _REASONS.get(number) or errno.errorcode.get(number) or os.strerror(number)
