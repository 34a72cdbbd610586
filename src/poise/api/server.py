# SPDX-License-Identifier: Apache-2.0
"""Serve the API on a unix socket with uvicorn, to a bounded number of clients at a time."""

import asyncio
import contextlib
import json
import socket as sockets
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Final

import anyio
import h11
import uvicorn
from anyio.abc import TaskStatus
from uvicorn.protocols.http.h11_impl import H11Protocol

from poise.api.facade import Facade
from poise.api.routes import application
from poise.errors import PoiseError

CONNECTIONS: Final = 128  # that are served; each has at most one request at work
_OPEN: Final = 512  # that may be open, if only to be refused: files are few, and poise needs some itself
_BACKLOG: Final = 128  # connections that the kernel keeps waiting, and that are accepted at once
_SECONDS_TO_ASK: Final = 5  # until a connection without a request is closed
_SECONDS_TO_ANSWER: Final = 1  # open requests, once the server ends


async def serve(
    socket: Path, facade: Facade, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve the API until cancelled, then remove the socket.

    With `TaskGroup.start` it returns once clients can connect. Only the owner of the process may connect.
    Raises PoiseError if another process serves there, or the socket cannot be made.
    """
    listener = _listen(socket)
    config = uvicorn.Config(
        application(facade),
        http=_BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_SECONDS_TO_ASK,
        timeout_graceful_shutdown=_SECONDS_TO_ANSWER,
    )
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_run, server, listener)
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            _end(server, socket)


class _BoundedProtocol(H11Protocol):
    """HTTP/1.1 for the first CONNECTIONS clients, and 503 for those beyond."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        self._refused = len(self.connections) >= CONNECTIONS
        super().connection_made(transport)
        if len(self.connections) > _OPEN:
            self._refuse()
        else:
            self._close_later()

    def data_received(self, data: bytes) -> None:
        # Not before the request is here: to write to a closed socket would be the client's own error.
        if self._refused:
            self._refuse()
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._close_later()

    def _close_later(self) -> None:
        self._unset_keepalive_if_required()
        loop = asyncio.get_running_loop()
        self.timeout_keep_alive_task = loop.call_later(self.timeout_keep_alive, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self) -> None:
        self._unset_keepalive_if_required()
        self.transport.write(_TOO_MANY)
        self.transport.close()


def _too_many() -> bytes:
    sentence = f"poise serves {CONNECTIONS} clients already: ask again in a second"
    body = json.dumps({"error": sentence}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "retry-after: 1",
        "connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body


_TOO_MANY: Final = _too_many()


class _Server(uvicorn.Server):
    """uvicorn, leaving the signals of the process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def _run(server: uvicorn.Server, listener: sockets.socket) -> None:
    with anyio.CancelScope(shield=True):  # ends by should_exit, so that open requests are answered
        await server.serve([listener])


def _end(server: uvicorn.Server, socket: Path) -> None:
    socket.unlink(missing_ok=True)  # while it still listens, so that nobody takes it for stale
    server.should_exit = True


def _listen(path: Path) -> sockets.socket:
    """A listening unix socket at `path` with mode 0600; makes its directory, replaces a stale socket."""
    check_free(path)
    listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)  # whatever the umask
        listener.bind(str(path))
        path.chmod(0o600)  # before listen(): until then nobody can connect
        listener.listen()
    except OSError as error:
        listener.close()
        raise PoiseError(f"cannot listen on {path}: {error.strerror or error}") from error
    return listener


def check_free(path: Path) -> None:
    """Remove a socket that nobody listens on; raises PoiseError if somebody does, or it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise PoiseError(f"cannot listen on {path}: a file that is no socket is there, move it away")
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:  # somebody listens and is busy
        pass
    except OSError as error:
        raise PoiseError(f"cannot listen on {path}: {error.strerror or error}") from error
    raise PoiseError(f"another process listens on {path}: stop it first")
