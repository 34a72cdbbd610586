# SPDX-License-Identifier: Apache-2.0
"""The connection that a check makes: a socket and the event loop, with nothing between, as there are many."""

import asyncio
import errno
import os
import socket
import ssl
import struct
from types import TracebackType
from typing import Final, Self

from poise.servers.health.target import CannotCheck
from poise.servers.model import Address

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: leaves no port in TIME_WAIT behind
_OWN_FAULTS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)


class NotWell(Exception):
    """What a check found wrong, in words that can follow the name of a server."""


class Wire:
    """A socket towards a server; `doing` says in words what it is waiting for."""

    def __init__(self, address: Address, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        """Make the socket; raises CannotCheck if there is none to be had."""
        self.doing = "connecting"
        self._loop = asyncio.get_running_loop()
        self._to = (str(address), port)
        self._tls: ssl.SSLSocket | None = None
        try:
            self._socket = socket.socket(
                socket.AF_INET if address.version == 4 else socket.AF_INET6, kind | socket.SOCK_NONBLOCK
            )
        except OSError as error:
            raise _cannot(error) from None
        self._fd = self._socket.fileno()
        self._broke = "broke the connection off" if kind == socket.SOCK_STREAM else "takes no datagrams"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        (self._tls or self._socket).close()

    @property
    def tls_version(self) -> str:
        """The version of TLS that is spoken, such as TLSv1.3; empty if none is."""
        return (self._tls.version() if self._tls is not None else None) or ""

    async def connect(self) -> None:
        """Connect; of UDP this sends nothing."""
        if self._socket.type == socket.SOCK_STREAM:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        fault = self._socket.connect_ex(self._to)
        if fault == errno.EINPROGRESS:
            await self._ready(writable=True)
            fault = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if fault:
            raise _fault(OSError(fault, os.strerror(fault)), "does not take connections")

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Shake hands as a TLS client that asks for `name`."""
        self.doing = "shaking hands for TLS"
        try:
            self._tls = context.wrap_socket(self._socket, server_hostname=name, do_handshake_on_connect=False)
        except ValueError as error:
            raise CannotCheck(f"TLS cannot ask for a server named {name!r} ({error})") from None
        except OSError as error:
            raise _fault(error, "broke the handshake of TLS off") from None
        while (writable := _step(self._tls)) is not None:
            await self._ready(writable=writable)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        stream = self._tls or self._socket
        while data:
            try:
                data = data[stream.send(data) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._ready(writable=True)
            except ssl.SSLWantReadError:
                await self._ready(writable=False)
            except OSError as error:
                raise _fault(error, self._broke) from None

    async def receive(self, most: int = 16_384) -> bytes:
        """Return what comes next, at most so many bytes; nothing at the end."""
        stream = self._tls or self._socket
        while True:
            try:
                return stream.recv(most)
            except (BlockingIOError, ssl.SSLWantReadError):
                await self._ready(writable=False)
            except ssl.SSLWantWriteError:
                await self._ready(writable=True)
            except ssl.SSLEOFError:
                return b""  # it closed without TLS' goodbye, as many do
            except OSError as error:
                raise _fault(error, self._broke) from None

    async def _ready(self, *, writable: bool) -> None:
        ready = self._loop.create_future()
        add, remove = (
            (self._loop.add_writer, self._loop.remove_writer)
            if writable
            else (self._loop.add_reader, self._loop.remove_reader)
        )
        add(self._fd, _set, ready)
        try:
            await ready
        finally:
            remove(self._fd)


def _step(stream: ssl.SSLSocket) -> bool | None:
    """Go on with a handshake; returns whether it waits to write, or to read, and None when it is done."""
    try:
        stream.do_handshake()
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLWantWriteError:
        return True
    except ssl.SSLCertVerificationError as error:
        raise NotWell(f"has a certificate that does not hold: {error.verify_message}") from None
    except ssl.SSLEOFError:
        raise NotWell("closed the connection in the handshake of TLS") from None
    except ssl.SSLError as error:
        raise NotWell(f"failed the handshake of TLS: {_said(error)}") from None
    except OSError as error:
        raise _fault(error, "broke the handshake of TLS off") from None
    return None


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _cannot(error: OSError) -> CannotCheck:
    return CannotCheck(f"this machine has no socket left for it ({error.strerror})")


def _fault(error: OSError, doing: str) -> Exception:
    if error.errno in _OWN_FAULTS:
        return _cannot(error)
    return NotWell(f"{doing} ({_said(error)})")


def _said(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return str(reason).replace("_", " ").lower()
