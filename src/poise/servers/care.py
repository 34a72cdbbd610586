# SPDX-License-Identifier: Apache-2.0
"""How poise looks after the servers of a VIP: drains, health checks and load signals, as poise.yaml asks."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


@dataclass(frozen=True)
class Drain:
    """How a drain ends: when no flow was seen for `quiet` seconds, or at its `deadline`.

    deadline: seconds after it began. cut: whether connections that remain at the deadline are reset;
    otherwise there is only an event.
    """

    quiet: float = 60.0
    deadline: float | None = None
    cut: bool = False


DEFAULT_DRAIN: Final = Drain()


class CheckKind(StrEnum):
    """How a server is asked whether it works."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"
    TLS = "tls"
    DNS = "dns"
    SCRIPT = "script"


@dataclass(frozen=True)
class Check:
    """A health check; times in seconds.

    interval: between two checks, of which up to `jitter` (a fraction) is left to chance. rise and fall:
    successes, or failures, in a row that change the verdict. port: None for the server's own. HTTP(S): the
    request and what must come back: statuses as (lowest, highest), body a regular expression. host: of the
    Host header, of TLS' server name, and verified where `verify` is set; None for the server's address.
    ca_file: for `verify`, None for the system's authorities. DNS: the query name and type, and the address
    that an answer must have. script: the command and its arguments.
    """

    kind: CheckKind
    interval: float = 2.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3
    jitter: float = 0.1
    port: int | None = None
    method: str = "GET"
    path: str = "/"
    host: str | None = None
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)
    body: str | None = None
    verify: bool = False
    ca_file: str | None = None
    query: str = "."
    record: str = "NS"
    answer: str | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passive:
    """What is judged from packets alone: fractions of new connections in a window of `window` seconds.

    resets: answered by the server with a reset; repeats: SYNs that had to be sent again. A server over
    either of them, with at least `connections` new ones in the window, is down for `hold` seconds, and doubly
    so each time it comes back as bad, up to 16 times as long. 1 or more: not looked at.
    """

    window: float = 10.0
    connections: int = 20
    resets: float = 0.5
    repeats: float = 0.5
    hold: float = 30.0


class LoadKind(StrEnum):
    """Where a VIP's load signal comes from: counted by poise itself, the first three, or asked for."""

    CONNECTIONS = "connections"
    PACKETS = "packets"
    BYTES = "bytes"
    AGENT = "agent"
    URL = "url"


@dataclass(frozen=True)
class LoadSource:
    """The load signal of a VIP's servers; times in seconds.

    url: what is asked, with {address} and {port} for the server's, of an agent too. metric: of an agent, one
    of cpu, run_queue, in_flight and latency_ms; of a URL that answers JSON, the path of the number with dots.
    latency: likewise, of a latency in milliseconds, for Prequal. stale: age at which a report no longer
    counts. token: sent as a bearer token.
    """

    kind: LoadKind = LoadKind.CONNECTIONS
    interval: float = 1.0
    stale: float = 3.0
    url: str | None = None
    metric: str | None = None
    latency: str | None = None
    token: str | None = None


DEFAULT_LOAD: Final = LoadSource()
