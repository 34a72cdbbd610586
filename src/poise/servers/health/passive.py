# SPDX-License-Identifier: Apache-2.0
"""What packets alone tell of a server: pure functions over its counters; times are monotonic, in seconds."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from poise.servers.care import Passive

LONGEST = 16  # times the configured hold
_REST = 0.5  # of a second: looks closer to each other than this are not all kept


class Counted(NamedTuple):
    """What was counted of one server, since whenever.

    connections: new ones. resets: those that it answered with a reset. repeats: SYNs that were sent again.
    """

    connections: int
    resets: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is held against one server.

    history: counters by time, the oldest first, over one window. until: when its hold ends, None while it is
    not held. hold: length of its last hold, 0.0 before the first. back: when that ended. reason: of the hold.
    """

    history: tuple[tuple[float, Counted], ...] = ()
    until: float | None = None
    hold: float = 0.0
    back: float = 0.0
    reason: str = "nothing in its packets speaks against it"


NOT_SUSPECTED = Suspicion()


def suspect(passive: Passive, former: Suspicion, counted: Counted, now: float) -> Suspicion:
    """Return what is held against a server after one more look at its counters.

    One that is as bad when it comes back is held twice as long; one that was well for as long as it
    was held starts anew.
    """
    former = released(former, now)
    if former.until is not None or (former.history and former.history[-1][1] == counted):
        return former  # held, or it got no connection since
    history = _extended(former.history, counted, now, passive.window)
    hold = 0.0 if former.hold and now - former.back >= max(former.hold, passive.window) else former.hold
    fault = _fault(passive, history[0][1], counted)
    if fault is None:
        return replace(former, history=history, hold=hold)
    return held(passive, replace(former, hold=hold), fault, now)


def released(former: Suspicion, now: float) -> Suspicion:
    """Return a suspicion whose hold is over as that: without what was counted before, or meanwhile."""
    if former.until is None or now < former.until:
        return former
    return Suspicion(hold=former.hold, back=now)


def held(passive: Passive, former: Suspicion, reason: str, now: float) -> Suspicion:
    """Return a hold from `now` on, twice as long as the last one."""
    hold = min(2 * former.hold, LONGEST * passive.hold) if former.hold else passive.hold
    return Suspicion(until=now + hold, hold=hold, reason=reason)


def _extended(
    history: tuple[tuple[float, Counted], ...], counted: Counted, now: float, window: float
) -> tuple[tuple[float, Counted], ...]:
    if history and any(new < old for new, old in zip(counted, history[-1][1], strict=True)):
        history = ()  # the counters began anew
    begin = now - window
    # One look from before the window stays, so that what is judged is never shorter than it.
    first = max((place for place, (at, _) in enumerate(history) if at <= begin), default=0)
    if len(history) > 1 and now - history[-2][0] < min(_REST, window / 4):
        return (*history[first:-1], (now, counted))
    return (*history[first:], (now, counted))


def _fault(passive: Passive, before: Counted, counted: Counted) -> str | None:
    connections = counted.connections - before.connections
    if connections < max(passive.connections, 1):
        return None
    resets, repeats = counted.resets - before.resets, counted.repeats - before.repeats
    if passive.resets < 1 and resets > passive.resets * connections:
        return (
            f"answered {resets} of {connections} new connections with a reset, more than {passive.resets:.0%}"
        )
    if passive.repeats < 1 and repeats > passive.repeats * connections:
        times = f"{repeats} times for {connections} new connections"
        return f"let SYNs be sent again {times}, more than {passive.repeats:.0%}"
    return None
