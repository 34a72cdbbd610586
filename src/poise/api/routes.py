# SPDX-License-Identifier: Apache-2.0
"""Which request calls which method of the facade."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from poise.api.errors import handlers
from poise.api.facade import Facade
from poise.api.requests import (
    Addition,
    EventsSince,
    Nothing,
    OfVip,
    Plan,
    Removal,
    StateChange,
    Why,
    from_body,
    from_query,
)
from poise.api.threads import Threads


def application(facade: Facade) -> Starlette:
    """The API as an ASGI application."""
    routes = _Routes(facade)
    return Starlette(
        routes=[
            Route("/servers", routes.servers, methods=["GET"]),
            Route("/servers", routes.add, methods=["POST"]),
            Route("/servers/{name:path}/state", routes.set_state, methods=["POST"]),
            Route("/servers/{name:path}/drain", routes.drain, methods=["POST"]),
            Route("/servers/{name:path}", routes.remove, methods=["DELETE"]),
            Route("/vips", routes.vips, methods=["GET"]),
            Route("/connections", routes.connections, methods=["GET"]),
            Route("/counters", routes.counters, methods=["GET"]),
            Route("/drains", routes.drains, methods=["GET"]),
            Route("/events", routes.events, methods=["GET"]),
            Route("/why", routes.why, methods=["GET"]),
            Route("/plan", routes.plan, methods=["POST"]),
            Route("/reload", routes.reload, methods=["POST"]),
            Route("/status", routes.status, methods=["GET"]),
            Route("/metrics", routes.metrics, methods=["GET"]),
        ],
        exception_handlers=handlers(),
    )


class _Routes:
    """One method a route; each calls the facade in a thread, so that the event loop never waits for it."""

    def __init__(self, facade: Facade) -> None:
        self._facade = facade
        self._threads = Threads()

    async def servers(self, request: Request) -> Response:
        wanted = from_query(OfVip, request)
        return await self._json(partial(self._facade.list_servers, wanted.vip))

    async def add(self, request: Request) -> Response:
        wanted = await from_body(Addition, request)
        server = (wanted.vip, wanted.name, wanted.address, wanted.port, wanted.weight)
        return await self._json(partial(self._facade.add, *server))

    async def set_state(self, request: Request) -> Response:
        return await self._change(request, await from_body(StateChange, request))

    async def drain(self, request: Request) -> Response:
        wanted = await from_body(OfVip, request, default=b"{}")
        return await self._change(request, StateChange(state="drain", vip=wanted.vip))

    async def remove(self, request: Request) -> Response:
        wanted = from_query(Removal, request)
        name, now = request.path_params["name"], wanted.now == "true"
        return await self._json(partial(self._facade.remove, name, wanted.vip, now=now))

    async def vips(self, request: Request) -> Response:
        return await self._plain(request, self._facade.vips)

    async def connections(self, request: Request) -> Response:
        return await self._plain(request, self._facade.connections)

    async def counters(self, request: Request) -> Response:
        return await self._plain(request, self._facade.counters)

    async def drains(self, request: Request) -> Response:
        return await self._plain(request, self._facade.drains)

    async def events(self, request: Request) -> Response:
        wanted = from_query(EventsSince, request)
        return await self._json(partial(self._facade.events, wanted.since))

    async def why(self, request: Request) -> Response:
        wanted = from_query(Why, request)
        call = partial(self._facade.why, wanted.client, wanted.vip, wanted.wait, wanted.protocol)
        if wanted.wait is None:
            return await self._json(call)
        return _response(await self._threads.wait(partial(_written, call)))

    async def plan(self, request: Request) -> Response:
        wanted = await from_body(Plan, request)
        return await self._json(partial(self._facade.plan, wanted.path))

    async def reload(self, request: Request) -> Response:
        await from_body(Nothing, request, default=b"{}")
        return await self._json(self._facade.reload)

    async def status(self, request: Request) -> Response:
        return await self._plain(request, self._facade.status)

    async def metrics(self, request: Request) -> Response:
        wanted = from_query(OfVip, request)
        text, media_type = await self._threads.run(partial(_exposed, self._facade, wanted.vip))
        return Response(text, media_type=media_type)

    async def _change(self, request: Request, wanted: StateChange) -> Response:
        call = partial(
            self._facade.set_state,
            request.path_params["name"],
            wanted.state,
            wanted.vip,
            wanted.deadline,
            now=wanted.now,
        )
        return await self._json(call)

    async def _plain(self, request: Request, call: Callable[[], object]) -> Response:
        from_query(Nothing, request)
        return await self._json(call)

    async def _json(self, call: Callable[[], object]) -> Response:
        return _response(await self._threads.run(partial(_written, call)))


def _response(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _exposed(facade: Facade, vip: str | None) -> tuple[bytes, str]:
    metrics = import_module("poise.api.metrics")  # its library costs memory that not everybody needs
    return metrics.exposition(facade.metrics_snapshot(), vip), metrics.MEDIA_TYPE


def _written(call: Callable[[], object]) -> bytes:
    """The JSON of what a call returns; a list row by row, as nothing else runs while a piece is written."""
    value = call()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_compact, value))}]".encode()
    return _compact(value).encode()


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
