# SPDX-License-Identifier: Apache-2.0
"""What happened lately to VIPs and servers: the last 1,000 events, numbered, and each of them logged."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from threading import Lock

import structlog

KEPT = 1000


class Kind(StrEnum):
    """What kinds of events there are; metrics count them by these names."""

    STATE = "state"  # ready, drain, maint: as an operator or poise.yaml asked
    ADDED = "added"
    REMOVED = "removed"
    CUT = "cut"
    UP = "up"
    DOWN = "down"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    PANIC = "panic"
    CALM = "calm"
    DRAINED = "drained"
    DEADLINE = "deadline"
    SIGNAL_LOST = "signal-lost"
    SIGNAL_BACK = "signal-back"
    RELOADED = "reloaded"
    REFUSED = "refused"
    STARTED = "started"


@dataclass(frozen=True)
class Event:
    """An event; id: rises by 1. at: seconds since 1970. vip and server: names, None if it is of neither."""

    id: int
    at: float
    kind: Kind
    vip: str | None
    server: str | None
    message: str


class Events:
    """The last events; may be used by several threads."""

    def __init__(self, kept: int = KEPT, clock: Callable[[], float] = time.time) -> None:
        """Keep that many; clock: seconds since 1970."""
        self._ring: deque[Event] = deque(maxlen=kept)
        self._counts: Counter[Kind] = Counter()
        self._clock = clock
        self._last = 0
        self._lock = Lock()
        self._log = structlog.get_logger()

    def add(self, kind: Kind, message: str, *, vip: str | None = None, server: str | None = None) -> Event:
        """Note and log an event; message: one sentence."""
        with self._lock:
            self._last += 1
            event = Event(self._last, self._clock(), kind, vip, server, message)
            self._ring.append(event)
            self._counts[kind] += 1
        named = {"vip": vip, "server": server}
        self._log.info(message, kind=kind.value, **{key: name for key, name in named.items() if name})
        return event

    def since(self, number: int = 0) -> list[dict[str, object]]:
        """Return the events after that id, the oldest first; all of them if no event had it yet."""
        with self._lock:
            after = number if number <= self._last else 0
            return [asdict(event) for event in self._ring if event.id > after]

    def counts(self) -> dict[str, int]:
        """Return how many events of each kind there were since the start, also those no longer kept."""
        with self._lock:
            return {kind.value: self._counts[kind] for kind in Kind}
