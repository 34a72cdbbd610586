# SPDX-License-Identifier: Apache-2.0
"""What the packet side compares (struct live): from measured loads to a load and a step for each server.

A load is always late. The packet side adds `step` to it for each connection that it places, and Python
foresees which part of the load will have gone, with connections that end, by the time that a new one is
known. Both follow from the load per connection as it is observed, so no constant needs to fit the
application. Pure.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.servers.samples import Numbers

HOT_ABOVE: Final = 1 << 30
"""Where Prequal's border always stands: so it changes together with the loads, and VIPs need no new row."""

_LARGEST: Final = (1 << 32) - 1  # of a member of struct live
_LOADS_FROM: Final = 1 << 18  # so that there is something to compare
_STEPS: Final = 16  # that are to have room at least
_LEAST_LOAD: Final = 1e-12
_LEAST_GAIN: Final = 0.02
_LATEST: Final = 0.1  # what the latest loads count in a moving average of their noise

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Measured:
    """Of the servers of one VIP that take connections, arrays of their number.

    load: in any unit. shares: the weights that loads are to be in proportion to. placed: connections in the
    interval after which the next loads are known. since: those placed after the load was measured. open:
    connections of all of them together. gain: how much of a difference in load is to be made good in one
    interval, 0 to 1. ended: connections of all that ended in the interval, None if that is not known: then as
    many are taken to have ended as were placed.
    """

    load: Numbers
    shares: Numbers
    placed: Numbers
    since: Numbers
    open: float
    gain: float = 1.0
    ended: float | None = None


@dataclass(frozen=True)
class Level:
    """Loads per weight, and what one more connection adds to each, in the unit of the measure."""

    load: Numbers
    step: Numbers


class Noise:
    """How much of the loads is chance: one that is read at a moment varies more than one over an interval."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._turns = self._squares = 0.0

    def gain(self, before: Numbers, last: Numbers, load: Numbers, placed: float) -> float:
        """Return the gain that makes chance in loads do no more to shares than chance in a hash would.

        before, last, load: of the same servers, at three looks in a row. placed: connections in an interval,
        of all. What goes up by chance comes down the next time, while what a change of shares has done stays;
        loads that swing from look to look, for any reason, are answered with a lower gain, so that they
        settle.
        """
        if not len(load) or placed <= 0:
            return 1.0
        turns = -float(((load - last) * (last - before)).sum())
        self._turns += (turns - self._turns) * _LATEST
        self._squares += (float((load**2).sum()) - self._squares) * _LATEST
        variance = max(self._turns, 0.0) / max(self._squares, _LEAST_LOAD)  # relative, of a load
        return min(max(len(load) / placed / max(variance, _LEAST_LOAD), _LEAST_GAIN), 1.0)


def level(measured: Measured) -> Level:
    """Return the loads that the servers are foreseen to have with nothing placed any more, and the steps.

    With long connections that is the load as it is, and the step is the load per open connection. With short
    ones most of the load will have gone, and what is left of it is what other things than these connections
    cause. In between, of connections that last for D, exp(-T/D) of the load is left after T. Connections may
    be credited with what they did not cause: then loads meet more slowly, but they meet all the same. As with
    a gain below 1, where each server is expected to get again what it got, but for a part of the difference.
    """
    whole = float(measured.load.sum())
    ended = float(measured.placed.sum()) if measured.ended is None else measured.ended
    opened = max(measured.open, _LEAST_LOAD)
    gone = -np.expm1(-ended / opened)  # D = open/rate (Little), so T/D = ended/open
    if whole <= 0:
        return Level(np.zeros(len(measured.load)), 1.0 / measured.shares)
    per_connection = whole * gone / ended if ended > 0 else whole / max(opened, 1.0)
    per_connection *= 1.0 + gone * (1.0 / max(measured.gain, _LEAST_GAIN) - 1.0)
    load = measured.load + per_connection * (measured.since - measured.placed * gone)
    return Level(load / measured.shares, per_connection / measured.shares)


class Scale:
    """Makes whole numbers of loads, by a factor that changes only when it must."""

    def __init__(self) -> None:
        """Begin with no factor."""
        self._factor = 0.0

    def __call__(self, level: Level, border: float | None = None) -> tuple[Words, Words]:
        """Return load and step as struct live has them, of which only differences count.

        border: a load that is to be HOT_ABOVE; otherwise the lowest one is 0.
        """
        lowest = float(level.load.min(initial=np.inf)) if len(level.load) else 0.0
        spread = float(level.load.max(initial=lowest)) - lowest
        largest = max(spread, float(level.step.max(initial=0.0)) * _STEPS, _LEAST_LOAD)
        if not _LOADS_FROM <= largest * self._factor <= HOT_ABOVE:
            self._factor = float(2.0 ** np.floor(np.log2((HOT_ABOVE >> 4) / largest)))
        load = (level.load - (lowest if border is None else border)) * self._factor
        return (
            _whole(load if border is None else load + HOT_ABOVE),
            _whole(np.maximum(level.step * self._factor, 1.0)),
        )


def _whole(numbers: Numbers) -> Words:
    return np.clip(np.rint(numbers), 0, _LARGEST).astype(np.uint32)


def border(level: Level) -> float:
    """Return the load above which a server is hot: Prequal's quantile.

    Wydrowski et al., "Load is not what you should balance: Introducing Prequal", NSDI 2024, section 4:
    Q_RIF = 2^-0.25. It is of the loads as they are written, with nothing placed since: servers of low latency
    get hot by what is placed on them, so that no more than that is placed by a latency that is late.
    """
    return float(np.quantile(level.load, _QUANTILE, method="lower"))


_QUANTILE: Final = 2**-0.25


def with_means(load: Numbers, known: NDArray[np.bool_], shares: Numbers) -> Numbers:
    """Return the loads, with the mean of the known ones by weight where a load is not known."""
    mean = load[known].sum() / max(float(shares[known].sum()), _LEAST_LOAD)
    return np.where(known, load, mean * shares)
