# SPDX-License-Identifier: Apache-2.0
"""Who is to be watched by the vigil, and what of its verdicts outlives the process."""

import threading
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.endpoints import write_end
from poise.servers.events import Events, Kind
from poise.servers.model import SERVER_IDS, Server, State, Vip
from poise.servers.readings import Readings
from poise.servers.store import Down, Key, Store
from poise.servers.vigil import Counted, Target, Verdict, Vigil

_WATCHED: Final = (State.READY, State.DRAIN)
_COUNTED: Final = ("connections", "resets", "repeats")  # as in Counted


class Watchlist:
    """The servers that are watched: of VIPs with checks, those neither in maintenance nor gone."""

    def __init__(self, vigil: Vigil, store: Store) -> None:
        self._vigil = vigil
        self._store = store
        self._lock = threading.Lock()
        self._news: dict[Key, Verdict] = {}
        self._unsaved: dict[Key, Down | None] = {}
        self._targets: dict[int, dict[Key, Target]] = {}
        self._counts: NDArray[np.uint64] | None = None  # at the last look, by row

    def begin(self, vips: Mapping[int, Vip]) -> None:
        """Watch the servers of all VIPs; those that were down before are so until they recover."""
        clock, wall = time.monotonic(), time.time()
        restored = {}
        for (index, number), down in self._store.down().items():
            server = next((each for each in _servers(vips.get(index)) if each.id == number), None)
            if server is not None and _end(server) == down.end:
                # A wall clock that was set back must not make it future.
                since = clock - max(0.0, wall - down.since)
                restored[index, number] = Verdict(up=False, since=since, reason=down.reason)
        self._vigil.restore(restored)
        self.follow(vips)

    def follow(self, changed: Mapping[int, Vip | None]) -> None:
        """Watch the servers of these VIPs as the VIPs are now; None: no longer."""
        changes = {index: _targets(vip) if vip else {} for index, vip in changed.items()}
        changes = {
            index: targets for index, targets in changes.items() if targets or self._targets.get(index)
        }
        for index, targets in changes.items():
            former = self._targets.get(index, {})
            changes[index] = {
                key: former[key] if former.get(key) == target else target for key, target in targets.items()
            }
        if changes:
            before = {key for index in changes for key in self._targets.get(index, ())}
            after = {key: target for targets in changes.values() for key, target in targets.items()}
            self._targets |= changes
            self._vigil.change(before - after.keys(), after)

    def verdicts(self, vip: Vip) -> dict[int, Verdict]:
        """Return the verdicts on a VIP's servers that are watched, by server id."""
        keys = self._targets.get(vip.index)
        return {key[1]: verdict for key, verdict in self._vigil.verdicts(keys).items()} if keys else {}

    def note(self, key: Key, verdict: Verdict) -> None:
        """Take note of a verdict that has changed."""
        with self._lock:
            self._news[key] = verdict

    def observe(self, readings: Readings) -> None:
        """Have those judged that are judged by their packets; only who got new ones is looked at."""
        vips = {index for index, targets in list(self._targets.items()) if _is_passive(targets)}
        if not vips:
            return
        traffic = readings.traffic(vips)
        counts = np.stack([traffic[name].astype(np.uint64) for name in _COUNTED])
        if self._counts is None or self._counts.shape != counts.shape:
            self._counts = np.full(counts.shape, np.iinfo(np.uint64).max, np.uint64)
        rows = np.flatnonzero((counts != self._counts).any(axis=0))
        self._counts = counts
        keys = zip((rows // SERVER_IDS).tolist(), (rows % SERVER_IDS).tolist(), strict=True)
        found = zip(keys, *counts[:, rows].tolist(), strict=True)
        self._vigil.observe({key: Counted(*counted) for key, *counted in found})

    def tell_changes(self, events: Events, vips: Mapping[int, Vip]) -> None:
        """Tell the verdicts that have changed since the last time, and keep them to be saved.

        Not that a server is up which never was down: at a start, all of them are.
        """
        with self._lock:
            news, self._news = self._news, {}
        for (index, number), verdict in news.items():
            vip = vips.get(index)
            server = next((each for each in _servers(vip) if each.id == number), None)
            if vip is None or server is None or (verdict.up and verdict.recovered is None):
                continue
            kind, what = (Kind.DOWN, "down") if verdict.up is False else (Kind.UP, "up")
            message = f"server {server.name} is {what}: {verdict.reason}"
            events.add(kind, message, vip=vip.name, server=server.name)
            since = time.time() - max(0.0, time.monotonic() - verdict.since)
            down = Down(_end(server), since, verdict.reason) if verdict.up is False else None
            self._unsaved[index, number] = down

    def save(self) -> None:
        """Save what was told; what cannot be saved now is kept for the next time. Raises PoiseError then."""
        if not self._unsaved:
            return
        self._store.save_down(self._unsaved)
        self._unsaved = {}


def _servers(vip: Vip | None) -> tuple[Server, ...]:
    return vip.servers if vip else ()


def _end(server: Server) -> str:
    return write_end(server.address, server.port)


def _targets(vip: Vip) -> dict[Key, Target]:
    if not vip.checks and vip.passive is None:
        return {}
    return {
        (vip.index, server.id): Target(
            server.address, server.port, vip.name, server.name, vip.checks, vip.passive
        )
        for server in vip.servers
        if server.state in _WATCHED
    }


def _is_passive(targets: Mapping[Key, Target]) -> bool:
    """Return whether the servers of a VIP are judged by their packets: all of them are, or none."""
    return next((target.passive is not None for target in targets.values()), False)
