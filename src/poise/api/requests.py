# SPDX-License-Identifier: Apache-2.0
"""What may stand in a request to the API, and the sentence for what may not."""

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Final, Literal, TypeVar

import anyio
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from starlette.requests import Request

from poise.api.facade import TransportProtocol
from poise.config.addresses import Address
from poise.config.fields import AbsolutePath, Name, Port, Weight
from poise.config.measures import Duration
from poise.config.wording import Place, findings
from poise.config.yaml_lines import show
from poise.endpoints import read_end
from poise.errors import PoiseError

LONGEST_WAIT: Final = 60.0  # seconds, for the next packet of a flow
_SECONDS_TO_SEND: Final = 5  # a body
_LARGEST_BODY: Final = 65536  # bytes; the longest that means something has some hundred


class BadRequestError(PoiseError):
    """A request that cannot be understood."""


class TooLargeError(PoiseError):
    """A request whose body cannot mean anything."""


def _parse_end(value: object) -> tuple[IPv4Address | IPv6Address, int]:
    try:
        return read_end(value if isinstance(value, str) else "")
    except ValueError:
        example = "192.0.2.10:80 or [2001:db8::10]:80"
        raise ValueError(f"{show(value)} is not ADDRESS:PORT: write it like {example}") from None


def _parse_wait(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str) else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= LONGEST_WAIT:
        raise ValueError(f"wait {show(value)} is not understood: write seconds, at most {LONGEST_WAIT:.0f}")
    return seconds


def _parse_since(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 18:
        return int(value)
    raise ValueError(f"since {show(value)} is not the id of an event: write a whole number")


def _parse_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"now {show(value)} is unknown: write true or false")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(_Request):
    """A request without any key."""


class OfVip(_Request):
    """Which VIP, if not all."""

    vip: Name | None = None


class Addition(_Request):
    """A server that is to take new connections."""

    address: Address
    port: Port
    name: Name | None = None
    vip: Name | None = None
    weight: Weight | None = None


class StateChange(_Request):
    """What an operator wants of a server."""

    state: Literal["ready", "drain", "maint"]
    vip: Name | None = None
    deadline: Duration | None = None
    now: Annotated[bool, BeforeValidator(_parse_flag)] = False

    @model_validator(mode="after")
    def _fits_the_state(self) -> "StateChange":
        if self.deadline is not None and self.state != "drain":
            raise ValueError(f"only a drain has a deadline: leave it out with {self.state}")
        if self.now and self.state == "ready":
            raise ValueError("a server that is to be ready keeps its connections: leave out now")
        return self


class Removal(_Request):
    """Which of the servers of that name is to go, and how."""

    vip: Name | None = None
    now: Literal["true", "false"] = "false"


class EventsSince(_Request):
    """Which event was seen last."""

    since: Annotated[int, BeforeValidator(_parse_since)] = 0


class Why(_Request):
    """Both ends of a connection, its protocol, and for how long to wait for its next packet."""

    client: Annotated[tuple[IPv4Address | IPv6Address, int], BeforeValidator(_parse_end)]
    vip: Annotated[tuple[IPv4Address | IPv6Address, int], BeforeValidator(_parse_end)]
    wait: Annotated[float | None, BeforeValidator(_parse_wait)] = None
    protocol: TransportProtocol = "tcp"


class Plan(_Request):
    """The file that might become the configuration."""

    path: AbsolutePath


_R = TypeVar("_R", bound=_Request)


async def from_body(model: type[_R], request: Request, *, default: bytes = b"") -> _R:
    """The JSON of a request's body; raises BadRequestError or TooLargeError.

    default: what an empty body stands for.
    """
    body = b""
    with anyio.move_on_after(_SECONDS_TO_SEND) as waiting:
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_BODY:
                raise TooLargeError(f"the body of the request has more than {_LARGEST_BODY} bytes")
    if waiting.cancelled_caught:
        raise BadRequestError(f"the body of the request did not come within {_SECONDS_TO_SEND} seconds")
    try:
        value: Any = json.loads(body or default)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body of the request is not JSON: {error}") from error
    return _checked(model, value)


def from_query(model: type[_R], request: Request) -> _R:
    """What stands behind the question mark; raises BadRequestError."""
    return _checked(model, dict(request.query_params))


def _checked(model: type[_R], value: object) -> _R:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = findings(error.errors(), {"": Place("the request", model)})
        raise BadRequestError("; ".join(finding.message for finding in found)) from error
