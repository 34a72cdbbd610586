# SPDX-License-Identifier: Apache-2.0
"""How many connections the servers of stateless VIPs have open: estimated, as nothing is kept per connection.

Three things are known: every connection that was placed; of a sample of them, when they spoke last and
whether their end was seen; and how often, in this VIP, a flow as silent as this one spoke again. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.servers.load.look import SHIFT, Look
from poise.servers.load.survival import BINS, STEP, Survival
from poise.servers.model import SERVER_IDS
from poise.servers.samples import KEPT, ONE_IN, Numbers, Rows, Samples, crowded

_MISSED: Final = (
    0.25  # ends that may have been missed, to each that was seen; more silent flows are idle ones
)
_HALF_LIFE: Final = 3600.0  # seconds, of what is known of how many flows are sampled
_MODEST: Final = 1.0  # sampled flows that the configured share of samples counts as
_SMOOTH: Final = 0.1  # of the servers' spread, a step
_REFRESH: Final = 4.5  # seconds
_MOST_KEPT: Final = 0.9
_MOST_THINNED: Final = 3.0  # as a power of e
_LEAST_SPREAD: Final = 1e-4


@dataclass(frozen=True)
class Opened:
    """Of one VIP: the servers that take connections (ids), and how many were placed on each, ever.

    counts_for: seconds since each came back from a drain, in which all of its flows were sampled: those that
    have not been seen since do not count. ends: flows say when they are over, as TCP's do.
    """

    servers: NDArray[np.int64]
    placed: Numbers
    counts_for: Numbers | None = None
    ends: bool = True


class Estimator:
    """Learns from one look at the samples to the next, and estimates."""

    def __init__(self, vips: int = SERVER_IDS, one_in: int = ONE_IN) -> None:
        """Know nothing; vips: one more than the largest index. one_in: of how many flows one is sampled."""
        self._one_in = one_in
        self._survival = Survival(2 * vips)  # of each VIP: flows that spoke after their first packet, or not
        self._former: Look | None = None
        self._taken = 0.0  # a second, of the rows that may be taken by another flow
        self._books: dict[int, _Book] = {}
        self._table, self._indexes, self._refresh = np.zeros((0, BINS)), np.zeros(0, np.int64), 0.0

    @property
    def looked(self) -> float | None:
        """When observe() was called last."""
        return self._former.clock if self._former else None

    def observe(self, samples: Samples, vips: Mapping[int, Opened], clock: float) -> dict[int, Numbers]:
        """Take in the samples, and return how many connections are open, by VIP, in the order of `servers`.

        vips: by index, those to estimate. clock: monotonic seconds, about STEP later than the time before.
        """
        for vip in self._books.keys() - vips.keys():
            del self._books[vip]
            self._survival.forget(np.array([2 * vip, 2 * vip + 1]))
        former, now = self._former, Look(samples, vips, clock)
        self._former = now
        size = (max(vips, default=0) + 1) * SERVER_IDS
        elapsed = 0.0
        new = np.zeros(size // SERVER_IDS, np.int64)
        if former and clock > former.clock:
            elapsed = clock - former.clock
            same = now.same(former)
            if elapsed < 2 * STEP:
                places, spoke = now.outcomes(former, same)
                self._survival.learn(places, spoke, elapsed)
            new = np.bincount(now.vips_begun(~same, elapsed), minlength=len(new))
            self._taken += (now.taken(former, same) / elapsed - self._taken) * _SMOOTH
        weights = self._open(now, vips) * self._thinned(now)
        weights[now.silence > _counts_for(vips, size)[now.row]] = 0.0
        # Rows that are kept hide other flows: those that begin, and of those that go on about half as many.
        kept = min(now.kept / len(samples), _MOST_KEPT)
        weights *= crowded(now.kept, len(samples)) / max(now.kept, 1)
        begun = _sums(now.row, weights * now.begun, size)
        other = _sums(now.row, weights, size) - begun
        result = {}
        for vip, opened in vips.items():
            book = self._books.setdefault(vip, _Book())
            book.enter(opened, float(new[vip]) / (1.0 - kept), elapsed)
            rows_ = vip * SERVER_IDS + opened.servers
            result[vip] = book.open(opened, begun[rows_], other[rows_], self._one_in)
        return result

    def _open(self, now: "Look", vips: Mapping[int, Opened]) -> Numbers:
        """Return the chance of each flow to be open."""
        indexes = np.array(sorted(vips), np.int64)
        size = int(indexes.max(initial=0)) + 1
        ends = np.zeros(size, np.bool_)
        ends[[vip for vip, opened in vips.items() if opened.ends]] = True
        chances = self._chances(indexes, now.clock)
        silent = 1.0 - chances.reshape(-1)[now.place]
        vip = now.row >> SHIFT
        over = now.ended[:size]
        dead = np.bincount(vip, silent * ~now.unspoken, minlength=size)
        # If more flows are silent than can have ended unseen, it is their way, and too little was seen of it.
        most = np.where(ends, over * _MISSED, np.inf)
        scale = np.minimum(most / np.maximum(dead, 1e-9), 1.0)
        silent *= np.where(now.unspoken, 1.0, scale[vip])
        # A flow whose end will be missed will not speak again either, but is open until then. How many there
        # are of these is what a flow's chance lacks that has just spoken: but no more than ends were missed.
        dead = np.minimum(dead, np.where(ends, most, 0.0))
        missed = np.minimum(1.0 - chances[: 2 * size, 0], np.repeat(dead / np.maximum(dead + over, 1e-9), 2))
        chance: Numbers = (1.0 - silent) / (1.0 - missed[2 * vip + now.unspoken])
        return np.minimum(chance, 1.0)

    def _chances(self, indexes: Rows, clock: float) -> Numbers:
        """Return the chances to speak again, by kind: those of a few seconds ago are as good."""
        if clock >= self._refresh or not np.array_equal(indexes, self._indexes):
            kinds = np.concatenate([2 * indexes, 2 * indexes + 1])
            self._table = np.zeros((2 * int(indexes.max(initial=0)) + 2, BINS))
            self._table[kinds] = self._survival.chances(kinds)
            self._indexes, self._refresh = indexes, clock + _REFRESH
        return self._table

    def _thinned(self, now: "Look") -> Numbers:
        """Return how many flows there are for each that was silent for so long and still has its row.

        Horvitz and Thompson, "A Generalization of Sampling Without Replacement From a Finite Universe", 1952.
        """
        many = np.ones(len(now.row))
        long = np.flatnonzero(now.silence > KEPT)
        many[long] = np.exp(np.minimum(self._taken * (now.silence[long] - KEPT), _MOST_THINNED))
        return many


def _sums(places: Rows, numbers: Numbers, size: int) -> Numbers:
    return np.bincount(places, numbers, minlength=size).astype(np.float64, copy=False)


def _counts_for(vips: Mapping[int, Opened], size: int) -> Numbers:
    result = np.full(size, np.inf)
    for vip, opened in vips.items():
        if opened.counts_for is not None:
            result[vip * SERVER_IDS + opened.servers] = opened.counts_for
    return result


class _Book:
    """What is known of one VIP besides the samples."""

    def __init__(self) -> None:
        self._counters = np.full(SERVER_IDS, np.nan)
        self._placed = 0.0  # in the last hour or so
        self._sampled = 0.0  # of these
        self._recent = np.zeros(SERVER_IDS)  # placed within about the time that a connection lasts
        self._rate = 0.0  # placed a second
        self._lasts = 60.0  # seconds, of a connection on average
        self._spread = 0.01  # by how much servers differ in open connections for as many placed, squared

    def enter(self, opened: Opened, sampled: float, elapsed: float) -> None:
        """Book the connections that were placed, and how many of them were sampled, since the time before."""
        new = np.nan_to_num(np.maximum(opened.placed - self._counters[opened.servers], 0.0))
        self._counters[:] = np.nan  # of a server that leaves and comes back, what was placed is not known
        self._counters[opened.servers] = opened.placed
        recent = self._recent[opened.servers] * np.exp(-elapsed / self._lasts) + new
        self._recent[:] = 0.0
        self._recent[opened.servers] = recent
        fade = 0.5 ** (elapsed / _HALF_LIFE)
        placed = float(new.sum())
        self._placed = self._placed * fade + placed
        self._sampled = self._sampled * fade + (sampled if elapsed else 0.0)
        self._rate += (placed / elapsed - self._rate) * min(elapsed / 10.0, 1.0) if elapsed else 0.0

    def open(self, opened: Opened, begun: Numbers, other: Numbers, one_in: int) -> Numbers:
        """Return how many connections each server has open, from how many sampled ones it has.

        The servers' sampled flows are few, those of the VIP are many; so what a server's samples say is
        drawn towards its part of the connections placed: the less, the more the servers differ beyond what
        chance explains (a gamma-Poisson model with the spread as its prior; Robbins, "An Empirical Bayes
        Approach to Statistics", 1956).
        """
        # It is known how many connections were placed, so that chance in who is sampled drops out.
        factor = (self._placed + _MODEST * one_in) / (self._sampled + _MODEST)
        measured = begun * factor + other * one_in
        unseen = min(self._placed, factor) / (1.0 + self._sampled)  # open, while perhaps none is sampled
        total = float(measured.sum()) + unseen
        self._lasts = min(max(total / max(self._rate, 1e-9), STEP), 3600.0)
        recent = self._recent[opened.servers]
        if not recent.sum():
            return measured + unseen / max(len(measured), 1)
        expected = total * recent / recent.sum()
        seen, awaited = measured / factor, expected / factor
        noise = float(((seen - awaited) ** 2 - awaited).sum()) / max(float((awaited**2).sum()), 1e-9)
        self._spread += (min(max(noise, 0.0), 1.0) - self._spread) * _SMOOTH
        trust = 1.0 / max(self._spread, _LEAST_SPREAD)
        drawn: Numbers = (trust + seen) / (trust / np.maximum(expected, 1e-6) + 1.0 / factor)
        return drawn * (total / float(drawn.sum()))
