# SPDX-License-Identifier: Apache-2.0
"""The drains of a running poise: what is seen of them, about once a second, and how they end."""

import time
from collections.abc import Mapping
from typing import Final

from poise.errors import PoiseError
from poise.servers import draining, samples
from poise.servers.control import Controller
from poise.servers.draining import Draining, Outcome, Progress, Seen
from poise.servers.events import Events, Kind
from poise.servers.model import SERVER_IDS, Mode, Server, State, Vip
from poise.servers.readings import Readings
from poise.servers.store import Key

_TOLD: Final = {
    Outcome.DONE: (Kind.DRAINED, "is drained: it can be taken away"),
    Outcome.KEPT: (Kind.DEADLINE, "is past the deadline of its drain, connections that it has go on"),
    Outcome.CUT: (Kind.DEADLINE, "is past the deadline of its drain, and its connections are cut"),
}


class Drains:
    """Follows each server that drains until it does no longer."""

    def __init__(self, controller: Controller) -> None:
        """Follow the drains of this controller's servers."""
        self._controller = controller
        self._vips: dict[int, tuple[Vip, dict[Key, Draining]]] = {}
        self._progress: Mapping[Key, Progress] = {}

    def look(self) -> None:
        """See how far each drain is; tell of those that end, and cut what is to be cut."""
        controller = self._controller
        with controller.lock:
            wanted = self._wanted()
            now = time.monotonic()
            running = draining.follow(self._progress, wanted, time.time(), now)
            vips = {index: vip for index, (vip, _) in self._vips.items()}
            seen = _seen(running, vips, controller.plane.readings, now) if running else {}
            ended: list[tuple[Key, Outcome]] = []
            for key, what in seen.items():
                running[key], outcome = draining.observe(running[key], what, now)
                if outcome is not None:
                    ended.append((key, outcome))
            self._progress = running
            for key, outcome in ended:
                self._end(key, outcome, controller.events)

    def list(self) -> list[dict[str, object]]:
        """Return a dict for each server that drains, as the API's `drains` has it."""
        controller = self._controller
        with controller.lock:
            now, progress = time.monotonic(), self._progress
            found = ((key, *controller.find(key)) for key in self._wanted())
            return [_describe(vip, server, progress.get(key), now) for key, vip, server in found]

    def _wanted(self) -> dict[Key, Draining]:
        """Return the servers that drain; only VIPs that are another object than before are gone through."""
        vips = {}
        for vip in self._controller.model.vips:
            known = self._vips.get(vip.index)
            vips[vip.index] = known if known and known[0] is vip else (vip, _draining(vip))
        self._vips = vips
        return {key: what for _, found in vips.values() for key, what in found.items()}

    def _end(self, key: Key, outcome: Outcome, events: Events) -> None:
        vip, server = self._controller.find(key)
        kind, what = _TOLD[outcome]
        if outcome is Outcome.CUT:
            try:
                self._controller.remove(server.name, vip.name, now=True)
            except PoiseError as error:
                message = f"server {server.name} cannot be cut at the deadline of its drain: {error}"
                events.add(kind, message, vip=vip.name, server=server.name)
                return
        events.add(kind, f"server {server.name} {what}", vip=vip.name, server=server.name)


def _draining(vip: Vip) -> dict[Key, Draining]:
    return {
        (vip.index, server.id): Draining(vip.drain, server.deadline)
        for server in vip.servers
        if server.state is State.DRAIN
    }


def _seen(
    progress: Mapping[Key, Progress], vips: Mapping[int, Vip], readings: Readings, now: float
) -> dict[Key, Seen]:
    """Return what is seen of these servers: exact of stateful VIPs, else from the sampled flows."""
    exact = [key for key in progress if vips[key[0]].mode is Mode.STATEFUL]
    found = {key: Seen(int(readings.open_connections[_row(key)]), estimated=False) for key in exact}
    quiet = {_row(key): progress[key].what.drain.quiet for key in progress.keys() - found}
    flows = samples.flows_seen(readings.samples, quiet, now) if quiet else {}
    for row, (number, silence) in flows.items():
        found[divmod(row, SERVER_IDS)] = Seen(round(number), estimated=True, age=silence)
    return found


def _row(key: Key) -> int:
    return key[0] * SERVER_IDS + key[1]


def _describe(vip: Vip, server: Server, progress: Progress | None, now: float) -> dict[str, object]:
    shown = draining.described(progress, now) if progress else {}
    return {
        "vip": vip.name,
        "name": server.name,
        "since": server.since,
        "deadline": server.deadline,
        "remaining": shown.get("remaining"),
        "estimated": shown.get("estimated", vip.mode is not Mode.STATEFUL),
        "silent": shown.get("silent"),
        "done": shown.get("done", False),
    }
