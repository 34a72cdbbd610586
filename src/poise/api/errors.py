# SPDX-License-Identifier: Apache-2.0
"""How errors are answered: a status of 4xx or 5xx with ``{"error": SENTENCE}``."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from poise.api.requests import BadRequestError, TooLargeError
from poise.config import ConfigError
from poise.errors import NotFoundError, PoiseError

Handler = Callable[[Request, Any], Awaitable[JSONResponse]]


def handlers() -> Mapping[Any, Handler]:
    """What starlette calls for each kind of exception, or status of its own."""
    return {
        BadRequestError: _answer(400),
        TooLargeError: _answer(413),
        NotFoundError: _answer(404),
        ConfigError: _mistakes,
        PoiseError: _answer(409),
        404: _no_such_route,
        405: _no_such_method,
        Exception: _failed,
    }


def _answer(status: int) -> Handler:
    async def answer(_: Request, error: PoiseError) -> JSONResponse:
        return _error(status, str(error))

    return answer


async def _mistakes(_: Request, error: ConfigError) -> JSONResponse:
    mistakes = [mistake._asdict() for mistake in error.mistakes]
    return JSONResponse({"error": str(error), "mistakes": mistakes}, 409)


async def _no_such_route(request: Request, _: Exception) -> JSONResponse:
    return _error(404, f"the API has no {request.url.path}: docs/reference/api.md lists what it has")


async def _no_such_method(request: Request, error: Exception) -> JSONResponse:
    response = _error(405, f"{request.url.path} cannot be used with {request.method}")
    response.headers.update(getattr(error, "headers", None) or {})  # Allow, as RFC 9110 wants it
    return response


async def _failed(_: Request, __: Exception) -> JSONResponse:
    return _error(500, "poise failed to answer, which is a defect of poise: its log says more")


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)
