# SPDX-License-Identifier: Apache-2.0
"""How far drains are: pure functions from what is seen of a server's flows to what becomes of its drain.

Intervals are on the monotonic clock. A deadline is a time of the wall clock, so that it survives a restart;
it is turned into one of the monotonic clock once, when the drain is first followed, so that a wall clock
which is set neither ends nor prolongs a running drain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from poise.servers.care import Drain

K = TypeVar("K")


class Outcome(StrEnum):
    """What a look at a drain may find, each of them once: it is done, or its deadline has passed."""

    DONE = "done"
    KEPT = "kept"
    CUT = "cut"


@dataclass(frozen=True)
class Draining:
    """A drain that is to be followed; deadline: seconds since 1970, None if it has none."""

    drain: Drain
    deadline: float | None = None


@dataclass(frozen=True)
class Seen:
    """What is seen of a draining server's flows.

    remaining: how many it has. estimated: they were counted from samples, so silent ones are missing. age:
    seconds since a packet of any of them, None if there was none.
    """

    remaining: int
    estimated: bool
    age: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far a drain is; times in seconds of the monotonic clock.

    begun: when it was first followed. last_seen: when there was a flow, at first `begun`. ends: its
    deadline, None if it has none. outcome: what was found last, None while it runs.
    """

    what: Draining
    begun: float
    last_seen: float
    ends: float | None
    remaining: int | None = None
    estimated: bool = True
    outcome: Outcome | None = None


def begin(what: Draining, wall: float, now: float) -> Progress:
    """Return the progress of a drain that is followed from now on; wall: now in seconds since 1970."""
    raise NotImplementedError


def follow(
    running: Mapping[K, Progress], draining: Mapping[K, Draining], wall: float, now: float
) -> dict[K, Progress]:
    """Return the progress of all drains: those that run go on, others begin, the rest is dropped."""
    raise NotImplementedError


def observe(progress: Progress, seen: Seen, now: float) -> tuple[Progress, Outcome | None]:
    """Return the progress after another look, and what is to be told or done now, if anything."""
    raise NotImplementedError


def described(progress: Progress, now: float) -> dict[str, object]:
    """Return what users are shown: remaining, estimated, seconds, quiet_in, deadline_in, outcome."""
    raise NotImplementedError
