# SPDX-License-Identifier: Apache-2.0
"""From readings and reports to the loads by which the packet side places new connections."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from poise.servers.care import LoadSource
from poise.servers.load.estimate import Estimator, Opened
from poise.servers.load.poll import Heard, Key, Poller
from poise.servers.load.report import url_of
from poise.servers.load.survival import STEP
from poise.servers.load.watched import OWN, Counted, Lives, Shown, Watched
from poise.servers.model import SERVER_IDS, Mode, Policy, Vip
from poise.servers.samples import Numbers
from poise.servers.standing import Choice

__all__ = ["BY_LOAD", "Readings", "Shown", "Steered", "Steering"]

BY_LOAD: Final = frozenset({Policy.POWER_OF_TWO, Policy.LEAST_LOADED, Policy.AWRR, Policy.PREQUAL})
_EARLY: Final = 0.02  # seconds by which a look may come too soon
# Seconds, that a server came back: flows from before, all sampled in its drain, age.
_REMEMBERED: Final = 3600.0


class Readings(Protocol):
    """What steering reads from the kernel's tables and writes to them; rows are VIP index × 512 + id."""

    @property
    def open_connections(self) -> NDArray[np.uint32]:
        """Connections of stateful VIPs that are open, by row; a view of the kernel's memory."""
        ...

    @property
    def samples(self) -> NDArray[Any]:
        """Of struct sample, the sampled flows; a view of the kernel's memory."""
        ...

    def traffic(self, vips: Collection[int] | None = None) -> NDArray[Any]:
        """Return struct traffic by row, summed over CPUs; only those of these VIPs need be right."""
        ...

    def set_loads(
        self, rows: NDArray[Any], load: NDArray[Any], step: NDArray[Any], latency: NDArray[Any]
    ) -> None:
        """Write struct live of these rows, `placed` as 0."""
        ...


@dataclass(frozen=True)
class Steered:
    """What standing.choice() takes of a VIP: AWRR's shares by server id, or None, and Prequal's border."""

    awrr: Mapping[int, float] | None = None
    hot_above: int = 0


class Steering:
    """Keeps the loads of all VIPs whose policy looks at loads (BY_LOAD)."""

    def __init__(self, readings: Readings, clock: Callable[[], float] = time.monotonic) -> None:
        """Read and write by `readings`; clock: seconds of CLOCK_MONOTONIC."""
        self._readings = readings
        self._clock = clock
        self._estimator = Estimator()
        self._poller = Poller(clock)
        self._watched: dict[int, Watched] = {}
        self._told: dict[int, Steered] = {}
        self._open: dict[int, Numbers] = {}
        self._joined: dict[int, float] = {}  # by row, when a server came (back) to its VIP
        self._asks = False
        self._lock = Lock()

    def watch(self, vips: Iterable[Vip], choices: Mapping[int, Choice]) -> None:
        """Look at these VIPs from now on; choices: by VIP index, who takes new connections in them.

        To be called after every change of the model or of a choice; what is known of servers that stay is
        kept. VIPs whose policy does not look at loads may be among them. May be called from any thread.
        """
        with self._lock:
            now, former = self._clock(), self._watched
            self._joined = {row: at for row, at in self._joined.items() if now - at < _REMEMBERED}
            self._watched = {
                vip.index: self._watch(vip, choices[vip.index], former.get(vip.index), now)
                for vip in vips
                if vip.policy in BY_LOAD and vip.mode is not Mode.COOKIELESS and vip.index in choices
            }
            for gone in former.keys() - self._watched.keys():
                self._told.pop(gone, None)
                self._open.pop(gone, None)
            targets = {
                vip: watched for vip, watched in self._watched.items() if watched.vip.load.kind not in OWN
            }
            if targets or self._asks:
                self._poller.watch(dict(_targets(targets.values())))
            self._asks = bool(targets)

    def _watch(self, vip: Vip, choice: Choice, known: Watched | None, now: float) -> Watched:
        """Return what is known of a VIP, brought up to date, or a new one if it is another one by now."""
        if not known or not _is_alike(known.vip, vip):
            self._told.pop(vip.index, None)
            self._open.pop(vip.index, None)
            return Watched(vip, choice)
        if known.vip is not vip or known.choice is not choice:  # most are as they were
            before = known.rows
            known.renew(vip, choice)
            new = np.setdiff1d(known.rows, before)
            self._joined |= dict.fromkeys(new.tolist(), now)
            lives = known.newcomers(new)
            if lives:
                self._readings.set_loads(lives.rows, lives.load, lives.step, lives.latency)
        return known

    def look(self) -> dict[int, Steered]:
        """Measure, write the loads of VIPs that are due, and return what is new for choices, by VIP index.

        To be called as often as the shortest interval of a load source asks, at least each second. May be
        called from any thread; never blocks on the network.
        """
        with self._lock:
            now = self._clock()
            if not self._watched:
                return {}
            due = [vip for vip, watched in self._watched.items() if now >= watched.due - _EARLY]
            estimated = self._estimated() if self._wants_estimate(now) else []
            if not due and not estimated:
                return {}
            traffic = self._readings.traffic(sorted({*due, *estimated}))
            if estimated:
                self._estimate(estimated, traffic, now)
            lives = [self._look_at(vip, traffic, now) for vip in due]
            written = [each for each in lives if each]
            if written:
                self._readings.set_loads(
                    np.concatenate([each.rows for each in written]),
                    np.concatenate([each.load for each in written]),
                    np.concatenate([each.step for each in written]),
                    np.concatenate([each.latency for each in written]),
                )
            return self._news(due)

    async def poll(self) -> None:
        """Ask agents and URLs for loads, until cancelled."""
        await self._poller.run()

    def shown(self) -> dict[Key, Shown]:
        """Return the load of each server that takes connections in a VIP whose policy looks at loads."""
        with self._lock:
            now = self._clock()
            return {
                (vip, number): shown
                for vip, watched in self._watched.items()
                for number, shown in watched.shown(self._heard_in(vip), now).items()
            }

    def _heard_in(self, vip: int) -> Callable[[int], Heard]:
        return lambda number: self._poller.heard((vip, number))

    def _wants_estimate(self, now: float) -> bool:
        looked = self._estimator.looked
        return looked is None or now >= looked + STEP - _EARLY

    def _estimate(self, vips: Iterable[int], traffic: NDArray[Any], now: float) -> None:
        found = self._estimator.observe(
            self._readings.samples,
            {vip: self._opened(self._watched[vip], traffic, now) for vip in vips},
            now,
        )
        self._open = {vip: _by_id(self._watched[vip].servers, numbers) for vip, numbers in found.items()}

    def _estimated(self) -> list[int]:
        return [vip for vip, watched in self._watched.items() if watched.is_estimated]

    def _opened(self, watched: Watched, traffic: NDArray[Any], now: float) -> Opened:
        rows = watched.rows
        joined = [self._joined.get(row, 0.0) for row in rows.tolist()] if self._joined else [0.0] * len(rows)
        return Opened(
            watched.servers,
            traffic["connections"][rows].astype(np.float64),
            now - np.array(joined),
            watched.says_ends,
        )

    def _look_at(self, vip: int, traffic: NDArray[Any], now: float) -> Lives | None:
        watched = self._watched[vip]
        rows = slice(vip * SERVER_IDS, (vip + 1) * SERVER_IDS)
        opened, at = self._open.get(vip), self._estimator.looked or now
        if not watched.is_estimated:
            opened, at = self._readings.open_connections[rows].astype(np.float64), now
        counted = Counted(
            connections=traffic["connections"][rows].astype(np.float64),
            packets=traffic["packets"][rows].astype(np.float64),
            bytes=traffic["bytes"][rows].astype(np.float64),
            open=opened,
            opened_at=at,
        )
        return watched.look(counted, self._heard_in(vip), now)

    def _news(self, due: Iterable[int]) -> dict[int, Steered]:
        """Return what differs from what was told before."""
        news = {}
        for vip in due:
            watched = self._watched[vip]
            steered = Steered(watched.awrr, watched.hot_above)
            if steered != self._told.get(vip, _NOTHING):
                self._told[vip] = news[vip] = steered
        return news


def _targets(watched: Iterable[Watched]) -> Iterator[tuple[Key, tuple[str, LoadSource]]]:
    for each in watched:
        source, chosen = each.vip.load, each.choice.shares
        for server in each.vip.servers:
            if server.id in chosen:
                yield (each.vip.index, server.id), (url_of(source, server), source)


def _by_id(servers: NDArray[np.int64], numbers: Numbers) -> Numbers:
    result = np.zeros(SERVER_IDS)
    result[servers] = numbers
    return result


def _is_alike(vip: Vip, other: Vip) -> bool:
    """Whether what was measured in one is true of the other."""
    return all(
        getattr(vip, name) == getattr(other, name)
        for name in ("address", "port", "protocol", "mode", "policy", "load")
    )


_NOTHING: Final = Steered()
