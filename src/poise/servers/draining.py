# SPDX-License-Identifier: Apache-2.0
"""How far drains are: pure functions from what is seen of a server's flows to what becomes of its drain.

Intervals are on the monotonic clock. A deadline is a time of the wall clock, so that it survives a restart;
it is turned into one of the monotonic clock once, when the drain is first followed, so that a wall clock
which is set neither ends nor prolongs a running drain.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from poise.servers.care import Drain

K = TypeVar("K")


class Outcome(StrEnum):
    """What a look at a drain may find.

    DONE: it has become done. KEPT and CUT: its deadline has passed before that, and the flows that remain
    are to be left alone, or to be cut; told once.
    """

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

    remaining: how many it has. estimated: they were counted from packets, so silent ones are missing;
    otherwise from a table of them. age: seconds since a packet of any of them, None if there was none.
    """

    remaining: int
    estimated: bool
    age: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far a drain is; times in seconds of the monotonic clock.

    begun: when it was first followed. last_seen: when there was a packet, or of exact counts a flow; at
    first `begun`. ends: its deadline, None if it has none. remaining: None before the first look. done: no
    flow is left, as far as can be seen; not for good: one that was silent for longer than `quiet` may speak
    again. overdue: its deadline passed before it was done.
    """

    what: Draining
    begun: float
    last_seen: float
    ends: float | None
    remaining: int | None = None
    estimated: bool = True
    done: bool = False
    overdue: bool = False


def begin(what: Draining, wall: float, now: float) -> Progress:
    """Return the progress of a drain that is followed from now on; wall: now in seconds since 1970."""
    return Progress(what, now, now, _ends(what, wall, now))


def _ends(what: Draining, wall: float, now: float) -> float | None:
    return None if what.deadline is None else now + max(what.deadline - wall, 0.0)


def follow(
    running: Mapping[K, Progress], draining: Mapping[K, Draining], wall: float, now: float
) -> dict[K, Progress]:
    """Return the progress of all drains: those that run go on, others begin, the rest is dropped.

    A deadline that somebody changed counts from now on.
    """
    return {
        key: _go_on(running[key], what, wall, now) if key in running else begin(what, wall, now)
        for key, what in draining.items()
    }


def _go_on(progress: Progress, what: Draining, wall: float, now: float) -> Progress:
    if progress.what == what:
        return progress
    if progress.what.deadline == what.deadline:
        return replace(progress, what=what)
    return replace(progress, what=what, ends=_ends(what, wall, now), overdue=False)


def observe(progress: Progress, seen: Seen, now: float) -> tuple[Progress, Outcome | None]:
    """Return the progress after another look, and what is to be told or done now, if anything.

    A drain is done when an exact count is 0, or when no packet was seen for `quiet` seconds.
    """
    last_seen = progress.last_seen
    if seen.estimated:
        if seen.age is not None:
            last_seen = max(last_seen, now - max(seen.age, 0.0))
        done = now - last_seen >= progress.what.drain.quiet
    else:
        if seen.remaining:
            last_seen = now
        done = not seen.remaining
    late = not done and progress.ends is not None and now >= progress.ends
    after = replace(
        progress,
        last_seen=last_seen,
        remaining=seen.remaining,
        estimated=seen.estimated,
        done=done,
        overdue=progress.overdue or late,
    )
    if done and not progress.done:
        return after, Outcome.DONE
    if late and not progress.overdue:
        return after, Outcome.CUT if progress.what.drain.cut else Outcome.KEPT
    return after, None


def described(progress: Progress, now: float) -> dict[str, object]:
    """Return what users are shown: remaining, estimated, silent, deadline_in (seconds), done, overdue."""
    return {
        "remaining": progress.remaining,
        "estimated": progress.estimated,
        "silent": max(now - progress.last_seen, 0.0),
        "deadline_in": None if progress.ends is None else max(progress.ends - now, 0.0),
        "done": progress.done,
        "overdue": progress.overdue,
    }
