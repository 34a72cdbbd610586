# SPDX-License-Identifier: Apache-2.0
"""Serve the state of a running poise, and changes to it, as HTTP and JSON on a unix socket."""

import contextlib
import json
import socket as sockets
import stat
from collections.abc import Generator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import anyio
import uvicorn
from anyio.abc import TaskStatus
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from poise.config.addresses import Address
from poise.config.fields import Name, Port, Weight
from poise.config.wording import Place, findings
from poise.errors import NotFoundError, PoiseError

_SECONDS_TO_ANSWER: Final = 1  # open requests, once the server ends


class Controller(Protocol):
    """What the API serves: `poise.servers.control.Controller`; its methods are short and do not block."""

    def list(self) -> list[dict[str, object]]:
        """One dict a server, of all VIPs."""

    def add(
        self,
        vip: str | None,
        name: str | None,
        address: IPv4Address | IPv6Address,
        port: int,
        weight: int | None = None,
    ) -> dict[str, object]:
        """Let a server take new connections, and return it."""

    def drain(self, name: str, vip: str | None = None) -> dict[str, object]:
        """Give a server no new connections, and return it."""

    def remove(self, name: str, vip: str | None = None, *, now: bool = False) -> dict[str, object]:
        """Remove a server, once its connections have ended or now, and return it."""

    def counters(self) -> dict[str, int]:
        """Packets and events counted so far, by name."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Addition(_Request):
    address: Address
    port: Port
    name: Name | None = None
    vip: Name | None = None
    weight: Weight | None = None


class _Drain(_Request):
    vip: Name | None = None


class _Removal(_Request):
    vip: Name | None = None
    now: Literal["true", "false"] = "false"


class _BadRequestError(PoiseError):
    """A request that cannot be understood."""


_R = TypeVar("_R", bound=_Request)


class _Routes:
    """One method a route; each calls the controller on the event loop, so one call ends before the next."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def list(self, _: Request) -> JSONResponse:
        return JSONResponse(self._controller.list())

    async def add(self, request: Request) -> JSONResponse:
        wanted = _checked(_Addition, _decoded(await request.body()))
        added = self._controller.add(wanted.vip, wanted.name, wanted.address, wanted.port, wanted.weight)
        return JSONResponse(added)

    async def drain(self, request: Request) -> JSONResponse:
        wanted = _checked(_Drain, _decoded(await request.body() or b"{}"))
        return JSONResponse(self._controller.drain(request.path_params["name"], wanted.vip))

    async def remove(self, request: Request) -> JSONResponse:
        wanted = _checked(_Removal, dict(request.query_params))
        now = wanted.now == "true"
        return JSONResponse(self._controller.remove(request.path_params["name"], wanted.vip, now=now))

    async def counters(self, _: Request) -> JSONResponse:
        return JSONResponse(self._controller.counters())


def application(controller: Controller) -> Starlette:
    """The API as an ASGI application; errors are 4xx with ``{"error": sentence}``."""
    routes = _Routes(controller)
    return Starlette(
        routes=[
            Route("/servers", routes.list, methods=["GET"]),
            Route("/servers", routes.add, methods=["POST"]),
            Route("/servers/{name:path}/drain", routes.drain, methods=["POST"]),
            Route("/servers/{name:path}", routes.remove, methods=["DELETE"]),
            Route("/counters", routes.counters, methods=["GET"]),
        ],
        exception_handlers={
            _BadRequestError: _bad_request,
            NotFoundError: _not_found,
            PoiseError: _refused,
            404: _no_such_route,
            405: _no_such_method,
            Exception: _failed,
        },
    )


async def serve(
    socket: Path, controller: Controller, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve the API until cancelled, then remove the socket.

    With `TaskGroup.start` it returns once clients can connect. Only the owner of the process may connect.
    Raises PoiseError if another process serves there, or the socket cannot be made.
    """
    listener = _listen(socket)
    config = uvicorn.Config(
        application(controller),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
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


def _decoded(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _BadRequestError(f"the body of the request is not JSON: {error}") from error
    return value


def _checked(model: type[_R], value: object) -> _R:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = findings(error.errors(), {"": Place("the request", model)})
        raise _BadRequestError("; ".join(finding.message for finding in found)) from error


async def _bad_request(_: Request, error: Exception) -> JSONResponse:
    return _error(400, str(error))


async def _not_found(_: Request, error: Exception) -> JSONResponse:
    return _error(404, str(error))


async def _refused(_: Request, error: Exception) -> JSONResponse:
    return _error(409, str(error))


async def _no_such_route(request: Request, _: Exception) -> JSONResponse:
    return _error(404, f"the API has no {request.url.path}: it has /servers and /counters")


async def _no_such_method(request: Request, error: Exception) -> JSONResponse:
    response = _error(405, f"{request.url.path} cannot be used with {request.method}")
    response.headers.update(getattr(error, "headers", None) or {})  # Allow, as RFC 9110 wants it
    return response


async def _failed(_: Request, __: Exception) -> JSONResponse:
    return _error(500, "poise failed to answer, which is a defect of poise: its log says more")


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)
