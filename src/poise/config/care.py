# SPDX-License-Identifier: Apache-2.0
"""How poise.yaml asks poise to look after the servers of a VIP: checks, drains and load signals.

Their defaults are those of `poise.servers.care`.
"""

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from poise.config.addresses import OptionalAddress
from poise.config.asked import (
    Argument,
    Connections,
    Fall,
    Host,
    Metric,
    Pattern,
    Query,
    RequestPath,
    Rise,
    Statuses,
    Url,
    Variable,
)
from poise.config.base import Written
from poise.config.fields import OptionalPath, OptionalPort
from poise.config.measures import Interval, Jitter, OptionalSpan, Percent, Span, Truth
from poise.config.wording import unknown_value
from poise.config.yaml_lines import show
from poise.servers.care import DEFAULT_DRAIN, Passive

MAXIMUM_CHECKS: Final = 8  # of a VIP
AGENT_URL: Final = "http://{address}:9110/load"
AGENT_METRICS: Final = ("cpu", "run_queue", "in_flight", "latency_ms")
_TIMEOUT: Final = 1.0
_STALE_INTERVALS: Final = 3
_PASSIVE: Final = Passive()


def _timeout(fields: dict[str, Any]) -> float:
    return min(_TIMEOUT, float(fields.get("interval", _TIMEOUT)))


def _stale(fields: dict[str, Any]) -> float:
    return _STALE_INTERVALS * float(fields.get("interval", 1.0))


def _used_to_verify(ca_file: Path | None, info: ValidationInfo) -> Path | None:
    if ca_file is not None and info.data.get("verify") is False:
        raise ValueError("ca_file is only for certificates that are verified: write `verify: true`, too")
    return ca_file


def _url(fields: dict[str, Any]) -> str | None:
    return AGENT_URL if fields.get("source") == "agent" else None


class _CheckConfig(Written):
    interval: Interval = 2.0
    """The time between two checks of a server."""
    timeout: Interval = Field(default_factory=_timeout)
    """How long a check may take: 1s, or the interval if that is shorter."""
    rise: Rise = 2
    """How many checks in a row must succeed before a server that is down is up."""
    fall: Fall = 3
    """How many checks in a row must fail before a server that is up is down."""
    jitter: Jitter = 0.1
    """The part of the interval that is left to chance, so that not all servers are checked at once."""

    @field_validator("timeout")
    @classmethod
    def _fits_interval(cls, timeout: float, info: ValidationInfo) -> float:
        if timeout > info.data.get("interval", timeout):
            raise ValueError(
                "timeout is longer than the interval between two checks: write less, or a longer interval"
            )
        return timeout


class TcpCheckConfig(_CheckConfig):
    """Whether a server accepts connections."""

    type: Literal["tcp"]
    port: OptionalPort = None
    """Another port than that of the server."""


class HttpCheckConfig(_CheckConfig):
    """Whether a server answers an HTTP request as it should."""

    type: Literal["http"]
    port: OptionalPort = None
    """Another port than that of the server."""
    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    """The method of the request."""
    path: RequestPath = "/"
    """The path of the request, with its query."""
    host: Host = None
    """What the Host header says, the server's address unless given; of https, also the name in TLS."""
    status: Annotated[list[Statuses], Field(min_length=1, max_length=20)] = [(200, 399)]
    """The statuses that are right: numbers, and ranges like 200-299."""
    body: Pattern = None
    """A regular expression of Python's kind that must be found in the answer's first 64 KiB."""


class HttpsCheckConfig(HttpCheckConfig):
    """Whether a server answers an HTTP request over TLS as it should."""

    type: Literal["https"]  # type: ignore[assignment]  # what tells the checks apart
    verify: Truth = False
    """Whether the server's certificate must be valid, for `host`."""
    ca_file: OptionalPath = None
    """The authorities that certificates are verified with, those of the system unless given."""

    @field_validator("ca_file")
    @classmethod
    def _is_used(cls, ca_file: Path | None, info: ValidationInfo) -> Path | None:
        return _used_to_verify(ca_file, info)


class TlsCheckConfig(_CheckConfig):
    """Whether a server completes a TLS handshake."""

    type: Literal["tls"]
    port: OptionalPort = None
    """Another port than that of the server."""
    host: Host = None
    """The name in TLS."""
    verify: Truth = False
    """Whether the server's certificate must be valid, for `host`."""
    ca_file: OptionalPath = None
    """The authorities that certificates are verified with, those of the system unless given."""

    @field_validator("ca_file")
    @classmethod
    def _is_used(cls, ca_file: Path | None, info: ValidationInfo) -> Path | None:
        return _used_to_verify(ca_file, info)


class DnsCheckConfig(_CheckConfig):
    """Whether a server answers a query of DNS over UDP."""

    type: Literal["dns"]
    port: OptionalPort = None
    """Another port than that of the server."""
    query: Query = "."
    """The name that is asked for."""
    record: Literal["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "TXT"] = "NS"
    """The type of the records that are asked for."""
    answer: OptionalAddress = None
    """The address that must be among the answers; for records A and AAAA."""

    @field_validator("answer")
    @classmethod
    def _fits_record(
        cls, answer: IPv4Address | IPv6Address | None, info: ValidationInfo
    ) -> IPv4Address | IPv6Address | None:
        if answer is None or "record" not in info.data:
            return answer
        wanted = "A" if answer.version == 4 else "AAAA"
        if info.data["record"] != wanted:
            raise ValueError(
                f"answer {answer} can only be in records of type {wanted}: write `record: {wanted}`"
            )
        return answer


class ScriptCheckConfig(_CheckConfig):
    """Whether a command ends with status 0."""

    type: Literal["script"]
    command: Annotated[list[Argument], Field(min_length=1, max_length=100)]
    """The command and its arguments, beginning with an absolute path; no shell is involved."""

    @field_validator("command")
    @classmethod
    def _begins_with_path(cls, command: list[str]) -> list[str]:
        if not command[0].startswith("/"):
            raise ValueError(f"command {show(command[0])} is not an absolute path: begin it with /")
        return command


CheckConfig = Annotated[
    TcpCheckConfig | HttpCheckConfig | HttpsCheckConfig | TlsCheckConfig | DnsCheckConfig | ScriptCheckConfig,
    Field(discriminator="type"),
]


class PassiveConfig(Written):
    """What is judged from the packets of new connections alone."""

    window: Span = _PASSIVE.window
    """The time over which they are counted."""
    connections: Connections = _PASSIVE.connections
    """How many there must be in it for a judgement."""
    resets: Percent = _PASSIVE.resets
    """A server that answers more than this part of them with a reset is down; 100%: not looked at."""
    repeats: Percent = _PASSIVE.repeats
    """Likewise, if for this part of them the SYN had to be sent again."""
    hold: Span = _PASSIVE.hold
    """How long it is down; doubly so each time it comes back as bad, up to 16 times as long."""


class DrainConfig(Written):
    """How a drain ends."""

    quiet: Span = DEFAULT_DRAIN.quiet
    """It is done when no packet of an old connection was seen for this long."""
    deadline: OptionalSpan = None
    """How long it may take; as long as it will unless given."""
    at_deadline: Literal["keep", "cut"] = "keep"
    """What becomes of connections that remain then: they go on, or are reset."""

    @field_validator("at_deadline")
    @classmethod
    def _has_deadline(cls, at_deadline: str, info: ValidationInfo) -> str:
        if "deadline" in info.data and info.data["deadline"] is None:
            raise ValueError("at_deadline needs a deadline: write one, like `deadline: 1h`")
        return at_deadline


class LoadConfig(Written):
    """Where the load of the servers is seen, for policies that ask for it."""

    source: Literal["connections", "packets", "bytes", "agent", "url"] = Field("connections", alias="from")
    """What poise counts itself, or asks `poise agent` or another URL for."""
    interval: Interval = 1.0
    """The time between two looks."""
    stale: Interval = Field(default_factory=_stale)
    """How old a report may be before it no longer counts; three times the interval unless given."""
    url: Url = Field(default_factory=_url)
    """What is asked, with {address} and {port} for those of the server; an agent has a usual one."""
    metric: Metric = None
    """Of an agent: cpu, run_queue, in_flight or latency_ms; in an answer in JSON: where the number is."""
    latency: Metric = None
    """Likewise, of a latency in milliseconds, for prequal."""
    token_file: OptionalPath = None
    """A file with a token that is sent along; others than its owner must not be able to read it."""
    token_env: Variable = None
    """An environment variable of poise with a token that is sent along."""

    @field_validator("stale")
    @classmethod
    def _fits_interval(cls, stale: float, info: ValidationInfo) -> float:
        if stale < info.data.get("interval", stale):
            raise ValueError(
                "stale is shorter than the interval between two looks: write more, or a shorter interval"
            )
        return stale

    @field_validator("url", "metric", "latency", "token_file", "token_env")
    @classmethod
    def _is_asked(cls, value: object, info: ValidationInfo) -> object:
        source = info.data.get("source")
        if value is not None and source in {"connections", "packets", "bytes"}:
            raise ValueError(
                f"{info.field_name} is only for loads that are asked for: write `from: agent` or `from: url`"
            )
        if (
            info.field_name in {"metric", "latency"}
            and source == "agent"
            and value not in {None, *AGENT_METRICS}
        ):
            raise ValueError(unknown_value(info.field_name, value, AGENT_METRICS))
        return value

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.source == "url" and self.url is None:
            raise ValueError("load has no url: write what is asked, like `url: http://{address}:9110/load`")
        if self.token_file is not None and self.token_env is not None:
            raise ValueError("load has a token_file and a token_env: leave out one of the two")
        return self
