# SPDX-License-Identifier: Apache-2.0
"""What the results of checks mean: pure functions, with the clock given; times are monotonic, in seconds."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from poise.servers.care import Check

LEAST_SHARE = 0.1  # of a server that has just recovered


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found: whether the server is well, after how many seconds, and in words."""

    ok: bool
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a server is up; None: not known yet, and it is used as if it were.

    since: when `up` became what it is. reason: what the last check said. streak: results in a row that speak
    against `up`. seconds: how long the last check took, None before the first. recovered: when it came up
    again after it was down, None if it never was.
    """

    up: bool | None = None
    since: float = 0.0
    reason: str = "not checked yet"
    streak: int = 0
    seconds: float | None = None
    recovered: float | None = None


def judge(former: Verdict, result: Result, check: Check, now: float) -> Verdict:
    """Return the verdict after one more result of one check.

    The first result decides at once. Afterwards it takes `rise` successes, or `fall` failures, in a row to
    change it.
    """
    told = replace(former, reason=result.reason, seconds=result.seconds)
    if result.ok is former.up:
        return replace(told, streak=0)
    streak = former.streak + 1
    if former.up is not None and streak < (check.rise if result.ok else check.fall):
        return replace(told, streak=streak)
    recovered = now if result.ok and former.up is False else former.recovered
    return replace(told, up=result.ok, since=now, streak=0, recovered=recovered)


def together(former: Verdict, parts: Iterable[Verdict], now: float) -> Verdict:
    """Return the verdict on a server of which each part must be up: one for each check, one from its packets.

    It is down if a part is, and known to be up when each part is.
    """
    parts = tuple(parts)
    down = [part for part in parts if part.up is False]
    unknown = [part for part in parts if part.up is None]
    up = False if down else None if unknown or not parts else True
    # The one that tells most: what is down, else what is about to be, else what is not known yet.
    spokesman = max(down or parts, key=lambda part: (part.streak, part.up is None), default=Verdict())
    seconds = max((part.seconds for part in parts if part.seconds is not None), default=None)
    told = replace(former, reason=spokesman.reason, streak=spokesman.streak, seconds=seconds)
    if up is former.up:
        return told
    recovered = now if up is not False and former.up is False else former.recovered
    return replace(told, up=up, since=now, recovered=recovered)


def share(recovered: float | None, slow_start: float, now: float) -> float:
    """Return the fraction, 0.1 to 1, of its full share that a server gets `now`.

    recovered: when it came up after it was down, None if it never was down. slow_start: seconds in which its
    share rises evenly to the full one; 0: at once.
    """
    if recovered is None or slow_start <= 0 or now - recovered >= slow_start:
        return 1.0
    return max(LEAST_SHARE, (now - recovered) / slow_start)
