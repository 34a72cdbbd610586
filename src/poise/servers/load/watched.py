# SPDX-License-Identifier: Apache-2.0
"""One VIP whose policy looks at loads: what was measured of its servers, and what follows. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.servers.care import LoadKind
from poise.servers.load.level import HOT_ABOVE, Measured, Noise, Scale, Words, border, level, with_means
from poise.servers.load.poll import Heard
from poise.servers.model import SERVER_IDS, Mode, Policy, Protocol, Vip
from poise.servers.samples import Numbers
from poise.servers.schedule import awrr_shares
from poise.servers.standing import Choice

OWN: Final = frozenset({LoadKind.CONNECTIONS, LoadKind.PACKETS, LoadKind.BYTES})
_LATEST: Final = 0.5  # what the latest load counts in a moving average
_CHANGE: Final = 0.1  # of a share, below which a new schedule is not worth it
_ENOUGH: Final = 0.5  # of the servers whose reports must be fresh


@dataclass(frozen=True)
class Shown:
    """The load of a server, as shown to operators.

    load: in the unit of its signal, not per weight; None if nothing is known. latency: milliseconds. age:
    seconds since it was measured. estimated: it is not an exact count. fault: a sentence on why there is no
    usable signal, or "".
    """

    load: float | None = None
    latency: float | None = None
    age: float | None = None
    estimated: bool = False
    fault: str = ""


@dataclass(frozen=True)
class Lives:
    """What is to be written of a VIP's servers: struct live by row."""

    rows: NDArray[np.int64]
    load: Words
    step: Words
    latency: Words


@dataclass(frozen=True)
class Counted:
    """What poise itself counted of the servers of a VIP, by server id (arrays of 512): ever, and now.

    open: None if nothing is known of it yet. opened_at: when that was, seconds of the clock.
    """

    connections: Numbers
    packets: Numbers
    bytes: Numbers
    open: Numbers | None
    opened_at: float


class Watched:
    """What is known of one VIP from look to look."""

    def __init__(self, vip: Vip, choice: Choice) -> None:
        """Know nothing yet."""
        self.due = 0.0
        self.awrr: Mapping[int, float] | None = None
        self._scale = Scale()
        self._noise = Noise()
        self._last = np.full(SERVER_IDS, np.nan)  # loads
        self._before_last = np.full(SERVER_IDS, np.nan)
        self._former: Counted | None = None
        self._written: Lives | None = None
        self._looked = self._measured_at = 0.0
        self._rate = np.full(SERVER_IDS, np.nan)  # packets or bytes a second
        self._mean = np.full(SERVER_IDS, np.nan)  # of loads
        self._heard_at = np.full(SERVER_IDS, np.nan)
        self._connections_then = np.zeros(SERVER_IDS)  # when that report was made
        self.renew(vip, choice)

    def renew(self, vip: Vip, choice: Choice) -> None:
        """Take over a changed VIP or choice; what is known of servers that stay is kept."""
        self.vip, self.choice = vip, choice
        self.servers = np.array(sorted(choice.shares), np.int64)
        # The slow start is in the shares, so that a server just back is full with few connections.
        slow = dict(choice.shares)
        if vip.policy is Policy.AWRR:  # there the loads are in them too
            slow = {number: float(weight) for number, weight in choice.weights.items()}
        self._shares = np.array([slow[number] for number in self.servers.tolist()])
        gone = np.ones(SERVER_IDS, np.bool_)
        gone[self.servers] = False
        for kept in (self._rate, self._mean, self._heard_at, self._last, self._before_last):
            kept[gone] = np.nan

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the servers that take connections."""
        return self.vip.index * SERVER_IDS + self.servers

    @property
    def is_estimated(self) -> bool:
        """Whether there is no exact count of open connections."""
        return self.vip.mode is not Mode.STATEFUL

    @property
    def says_ends(self) -> bool:
        """Whether flows say when they are over."""
        return self.vip.protocol is Protocol.TCP

    def look(self, counted: Counted, heard: Callable[[int], Heard], now: float) -> Lives | None:
        """Take in what was counted and heard; returns what is to be written, or keeps AWRR's shares."""
        self.due = now + self.vip.load.interval
        if not len(self.servers):
            self.awrr, self._former = None, None
            return None
        former, elapsed = self._former or counted, now - self._looked
        self._former, self._looked = counted, now
        reports = []
        if self.vip.load.kind not in OWN:
            reports = [heard(number) for number in self.servers.tolist()]
        measured, latency = self._measure(counted, former, elapsed, reports, now)
        if self.vip.policy is Policy.AWRR:
            self._share_out(measured)
            return None
        if measured is None:
            return None
        levels = level(measured)
        hot = border(levels) if self.vip.policy is Policy.PREQUAL else None
        load, step = self._scale(levels, hot)
        self._written = Lives(self.rows, load, step, latency)
        return self._written

    def newcomers(self, rows: NDArray[np.int64]) -> Lives | None:
        """Return what is to be written of servers that join, until they are measured: they are as the others.

        With no load and no step they would get everything till then. None if nothing is written yet.
        """
        if self._written is None or not len(rows):
            return None
        load, step = (int(values.mean()) for values in (self._written.load, self._written.step))
        alike = np.ones(len(rows), np.uint32)
        return Lives(rows, alike * np.uint32(load), alike * np.uint32(max(step, 1)), alike * np.uint32(0))

    @property
    def hot_above(self) -> int:
        """Prequal's border, as lives have it."""
        return HOT_ABOVE if self.vip.policy is Policy.PREQUAL else 0

    def _since(self, counted: Counted, former: Counted) -> Numbers:
        return np.maximum(counted.connections - former.connections, 0.0)[self.servers]

    def _measure(
        self,
        counted: Counted,
        former: Counted,
        elapsed: float,
        reports: list[Heard],
        now: float,
    ) -> tuple[Measured | None, Words]:
        """Return the loads, None if there are none to trust, and the latencies in microseconds, 0 unknown."""
        placed = self._since(counted, former)
        opened = None if counted.open is None else counted.open[self.servers]
        in_interval = placed * (self.vip.load.interval / elapsed) if elapsed > 0 else placed
        latency = np.zeros(len(self.servers), np.uint32)
        since = (
            placed * min(max((now - counted.opened_at) / elapsed, 0.0), 1.0) if elapsed > 0 else placed * 0
        )
        load = opened
        kind = self.vip.load.kind
        if kind in OWN:
            if kind is not LoadKind.CONNECTIONS:
                load, since = self._rates(counted, former, elapsed), np.zeros(len(self.servers))
            self._measured_at = counted.opened_at if kind is LoadKind.CONNECTIONS else now
        else:
            fresh = self._is_fresh(reports, now)
            if fresh.mean() >= _ENOUGH:
                said = np.array([each.report.load if each.report else 0.0 for each in reports])
                load = with_means(said, fresh, self._shares)
                # Who says nothing is taken to be as the others are in all that counts: else he would get for
                # ever what he got when his report came, or ever less, the older it is.
                in_interval = with_means(in_interval, fresh, self._shares)
                since = self._since_reports(counted, former, elapsed, reports, now)
                since = with_means(since, fresh, self._shares)
                latency = _microseconds(reports, fresh)
            elif self.vip.policy is Policy.AWRR:
                load = None
        if load is None:
            return None, latency
        whole = float(opened.sum()) if opened is not None else float(in_interval.sum())
        gain = self._gain(load, float(in_interval.sum()))
        if kind is LoadKind.CONNECTIONS:  # counted at a moment: what is known is their chance, even at first
            gain = min(gain, whole / max(2 * float(in_interval.sum()), 1.0))
        ended = self._ended(counted, former, elapsed)
        return Measured(load, self._shares, in_interval, since, whole, gain, ended), latency

    def _ended(self, counted: Counted, former: Counted, elapsed: float) -> float | None:
        """Return how many connections end in an interval; None where open ones are not counted exactly."""
        if self.is_estimated or counted.open is None or former.open is None or elapsed <= 0:
            return None
        more = float((counted.open - former.open)[self.servers].sum())
        ended = max(float(self._since(counted, former).sum()) - more, 0.0)
        return ended * self.vip.load.interval / elapsed

    def _gain(self, load: Numbers, placed: float) -> float:
        before, last = self._before_last[self.servers], self._last[self.servers]
        self._before_last[self.servers], self._last[self.servers] = last, load
        known = ~np.isnan(before)
        return self._noise.gain(before[known], last[known], load[known], placed)

    def _rates(self, counted: Counted, former: Counted, elapsed: float) -> Numbers | None:
        """Return packets or bytes a second, as a moving average; None at the first look."""
        if elapsed <= 0 or counted is former:
            return None
        name = self.vip.load.kind.value
        now = np.maximum(getattr(counted, name) - getattr(former, name), 0.0) / elapsed
        kept = np.where(np.isnan(self._rate), now, self._rate)
        self._rate[self.servers] = (kept + (now - kept) * _LATEST)[self.servers]
        return self._rate[self.servers]

    def _since_reports(
        self, counted: Counted, former: Counted, elapsed: float, reports: list[Heard], now: float
    ) -> Numbers:
        """Return the connections placed on each server since its report."""
        at = np.array([each.at for each in reports])
        connections = counted.connections[self.servers]
        late = np.clip((now - at) / elapsed, 0.0, 1.0) if elapsed > 0 else np.zeros(len(at))
        between = connections - np.maximum(connections - former.connections[self.servers], 0.0) * late
        new = self._heard_at[self.servers] != at
        self._connections_then[self.servers[new]] = between[new]
        self._heard_at[self.servers] = at
        return np.maximum(connections - self._connections_then[self.servers], 0.0)

    def _share_out(self, measured: Measured | None) -> None:
        """Keep AWRR's shares, unless they would hardly change; None is the fallback to the weights."""
        if measured is None:
            self.awrr = None
            return
        per_weight = measured.load / self._shares
        kept = self._mean[self.servers]
        kept = np.where(np.isnan(kept), per_weight, kept)
        # As it is, the formula would answer its own echo: half the load one time, twice the load the next.
        mean = kept + (per_weight - kept) * min(measured.gain / 2, _LATEST)
        self._mean[self.servers] = mean
        ids = self.servers.tolist()
        loads = dict(zip(ids, mean.tolist(), strict=True))
        weights = dict(zip(ids, self._shares.tolist(), strict=True))
        shares = awrr_shares(loads, weights, self.vip.awrr_alpha)
        if self.awrr is None or _differ(self.awrr, shares):
            self.awrr = shares

    def _is_fresh(self, reports: list[Heard], now: float) -> NDArray[np.bool_]:
        at = np.array([each.at if each.report else -np.inf for each in reports])
        fresh: NDArray[np.bool_] = now - at <= self.vip.load.stale
        return fresh

    def shown(self, heard: Callable[[int], Heard], now: float) -> dict[int, Shown]:
        """Return the loads of the servers that take connections, by id."""
        ids = self.servers.tolist()
        if self.vip.load.kind not in OWN:
            return {number: _shown(heard(number), now, self.vip.load.stale) for number in ids}
        estimated = self.is_estimated and self.vip.load.kind is LoadKind.CONNECTIONS
        known = [(number, float(self._last[number])) for number in ids]
        age = now - self._measured_at
        return {
            number: Shown() if np.isnan(load) else Shown(load, None, age, estimated) for number, load in known
        }


def _shown(heard: Heard, now: float, stale: float) -> Shown:
    if heard.report is None:
        return Shown(fault=heard.fault or "it has not reported its load yet")
    age, fault = now - heard.at, heard.fault
    if age > stale:
        late = f"its last report is {age:.1f} s old, and does not count after {stale:g} s"
        return Shown(age=age, fault=f"{late}: {fault}" if fault else late)
    return Shown(heard.report.load, heard.report.latency, age, fault=fault)


def _microseconds(reports: list[Heard], fresh: NDArray[np.bool_]) -> Words:
    latencies = [each.report.latency if each.report and each.report.latency else 0.0 for each in reports]
    return np.where(fresh, np.minimum(np.array(latencies) * 1000, (1 << 32) - 1), 0.0).astype(np.uint32)


def _differ(former: Mapping[int, float], shares: Mapping[int, float]) -> bool:
    if former.keys() != shares.keys():
        return True
    before, after = sum(former.values()), sum(shares.values())
    return any(
        abs(share / after - former[number] / before) > _CHANGE * former[number] / before
        for number, share in shares.items()
    )
