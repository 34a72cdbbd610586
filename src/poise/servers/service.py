# SPDX-License-Identifier: Apache-2.0
"""A running poise, as the API serves it: see poise.api.facade."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import poise
from poise.api.facade import End, Json, Snapshot, TransportProtocol, WantedState
from poise.endpoints import write_end
from poise.servers import cookie
from poise.servers.control import Controller
from poise.servers.drains import Drains
from poise.servers.ends import end_of
from poise.servers.model import SERVER_IDS, Address, NoSuchVip, Protocol, State, Vip
from poise.servers.revision import Revision
from poise.servers.standing import Choice
from poise.servers.view import View
from poise.servers.watching import Flow
from poise.servers.why import Live, Reason, explain, explain_watch
from poise.words import listed

_PAUSE: Final = 0.02  # seconds between two looks for a packet that is waited for
_NOTHING: Final = Choice()
_MOST: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Service:
    """All that the API asks of poise; any thread may call it.

    key: of the cookie. interfaces: the XDP mode by name. since: when poise began, seconds since 1970.
    """

    controller: Controller
    drained: Drains
    revision: Revision
    key: bytes
    interfaces: Mapping[str, str]
    since: float

    @property
    def _view(self) -> View:
        return View(self.controller)

    def list_servers(self, vip: str | None = None) -> Sequence[Json]:
        """Return a dict for each server that is on the list or whose id rests."""
        return self._view.servers(vip)

    def add(
        self, vip: str | None, name: str | None, address: Address, port: int, weight: int | None = None
    ) -> Json:
        """Let a server take new connections, and return it."""
        with self.controller.lock:
            return self._view.server(self.controller.add(vip, name, address, port, weight))

    def set_state(
        self,
        name: str,
        state: WantedState,
        vip: str | None = None,
        deadline: float | None = None,
        *,
        now: bool = False,
    ) -> Json:
        """Set what an operator wants of a server, and return it."""
        with self.controller.lock:
            return self._view.server(self.controller.set_state(name, State(state), vip, deadline, now=now))

    def remove(self, name: str, vip: str | None = None, *, now: bool = False) -> Json:
        """Remove a server, once its connections have ended or now, and return it."""
        with self.controller.lock:
            return self._view.server(self.controller.remove(name, vip, now=now))

    def vips(self) -> Sequence[Json]:
        """Return a dict for each VIP."""
        return self._view.vips()

    def connections(self) -> Sequence[Json]:
        """Return a dict for each connection of all stateful VIPs."""
        return self._view.connections()

    def counters(self) -> Mapping[str, int]:
        """Return how often each event of the packet side happened."""
        return self.controller.plane.events()

    def drains(self) -> Sequence[Json]:
        """Return a dict for each server that drains."""
        return self.drained.list()

    def events(self, since: int = 0) -> Sequence[Json]:
        """Return the events after that id, the oldest first."""
        return self.controller.events.since(since)

    def why(
        self, client: End, vip: End, wait: float | None = None, protocol: TransportProtocol = "tcp"
    ) -> Json:
        """Say which server a new connection would get, or with `wait` where the flow's next packet goes."""
        chosen = self._find(vip, protocol)
        told = write_end(*client)
        if wait is not None:
            return self._await(chosen, client, wait)
        controller = self.controller
        with controller.lock:
            standings, choice = controller.standings(chosen), controller.choices.get(chosen.index, _NOTHING)
        flow = cookie.flow_hash(self.key, end_of(chosen).packed(), *client)
        turn = controller.plane.readings.turn(chosen.index)
        return explain(chosen, told, standings, choice, self._lives(chosen), flow=flow, turn=turn)

    def _find(self, end: End, protocol: TransportProtocol) -> Vip:
        found = [vip for vip in self.controller.model.vips if (vip.address, vip.port) == end]
        if found:
            number = Protocol(protocol).number
            return next((vip for vip in found if vip.protocol.number == number), found[0])
        known = dict.fromkeys(write_end(vip.address, vip.port) for vip in self.controller.model.vips)
        raise NoSuchVip(f"there is no VIP at {write_end(*end)}: there are {listed([*known])}")

    def _lives(self, vip: Vip) -> dict[int, Live]:
        first = vip.index * SERVER_IDS
        rows = self.controller.plane.readings.lives[first : first + SERVER_IDS].copy()
        return {
            server.id: Live(
                min(int(row["load"]) + int(row["placed"]) * int(row["step"]), _MOST), int(row["latency"])
            )
            for server in vip.servers
            for row in (rows[server.id],)
        }

    def _await(self, vip: Vip, client: End, wait: float) -> Json:
        """Wait for the flow's next packet; the lock is not held meanwhile."""
        plane, lock = self.controller.plane, self.controller.lock
        flow = Flow(*client, vip.index)
        until = time.monotonic() + wait
        with lock:
            plane.watch(flow)
        try:
            watched = plane.watched(flow)
            while watched is None and time.monotonic() < until:
                time.sleep(_PAUSE)
                watched = plane.watched(flow)
        finally:
            with lock:
                plane.unwatch(flow)
        present = next((each for each in self.controller.model.vips if each.index == vip.index), vip)
        if watched is None:
            return explain_watch(present, write_end(*client), Reason.NONE, None)
        return explain_watch(present, write_end(*client), Reason(watched.reason), watched.server)

    def plan(self, path: Path) -> Json:
        """Say what `reload` would do if this file were the configuration."""
        return self.revision.plan(path)

    def reload(self) -> Json:
        """Read the configuration again and apply what differs."""
        return self.revision.reload()

    def status(self) -> Json:
        """Say how poise runs."""
        last, model = self.revision.last, self.controller.model
        return {
            "version": poise.__version__,
            "config": str(self.revision.path),
            "digest": self.revision.digest,
            "since": self.since,
            "interfaces": [{"name": name, "mode": mode} for name, mode in self.interfaces.items()],
            "vips": len(model.vips),
            "servers": sum(len(vip.servers) for vip in model.vips),
            "reload": last and {"at": last.at, "ok": last.error is None, "error": last.error},
        }

    def metrics_snapshot(self) -> Snapshot:
        """Return everything that metrics expose, read at one time."""
        servers, vips = self._view.figures()
        counts = self.revision.counts
        return {
            "version": poise.__version__,
            "digest": self.revision.digest,
            "servers": servers,
            "vips": vips,
            "counters": self.counters(),
            "events": self.controller.events.counts(),
            "reloads": {"ok": counts.ok, "refused": counts.refused},
        }
