# SPDX-License-Identifier: Apache-2.0
"""How what poise knows of VIPs, servers and connections is shown, in the words of the API."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import numpy as np

from poise.api.facade import ServerFigures, VipFigures
from poise.servers import decide
from poise.servers.care import LoadKind
from poise.servers.connections import Connection
from poise.servers.control import Controller
from poise.servers.model import SERVER_IDS, Mode, Server, State, Vip
from poise.servers.rows import Records
from poise.servers.standing import Choice, Standing, fractions, shown_state, unused_reason
from poise.servers.steering import Shown
from poise.servers.store import Key
from poise.servers.vigil import Verdict

_QUICK: Final = 4096  # servers that are described in a few dozen milliseconds
_NOTHING: Final = Choice()
_UNKNOWN: Final = Verdict()
_UNSEEN: Final = Shown()


class Known(NamedTuple):
    """All that is known of one server at one time; share: of new connections, 0 to 1; traffic: by member."""

    vip: Vip
    server: Server
    standing: Standing
    verdict: Verdict
    share: float
    reason: str | None
    shown: Shown
    open: float | None
    traffic: Mapping[str, int]


class View:
    """What a controller knows, as plain data."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def servers(self, name: str | None = None) -> list[dict[str, object]]:
        """Return a dict for each server of this VIP, of all VIPs unless one is named."""
        model = self._controller.model
        chosen = model.vips if name is None else (decide.find_vip(model, name),)
        return [_describe(each) for each in self._known(chosen)]

    def server(self, key: Key) -> dict[str, object]:
        """Return the dict of one server."""
        with self._controller.lock:
            vip, _ = self._controller.find(key)
            known = self._known([vip])
        return next(_describe(each) for each in known if each.server.id == key[1])

    def vips(self) -> list[dict[str, object]]:
        """Return a dict for each VIP."""
        with self._controller.lock:  # so that what is told is in force
            vips, choices = self._controller.model.vips, dict(self._controller.choices)
        traffic = self._traffic(vips)
        return [_describe_vip(vip, choices.get(vip.index, _NOTHING), traffic) for vip in vips]

    def connections(self) -> Sequence[dict[str, object]]:
        """Return a dict for each connection of the stateful VIPs, by VIP and client."""
        vips = {vip.index: vip for vip in self._controller.model.vips if vip.mode is Mode.STATEFUL}
        if not vips:
            return []
        found = sorted(
            (each for each in self._controller.plane.connections.list() if each.vip in vips),
            key=lambda each: (each.vip, each.client.version, each.client, each.port),
        )
        names = {index: {server.id: server.name for server in vip.servers} for index, vip in vips.items()}
        return [_describe_connection(vips[each.vip], names[each.vip], each) for each in found]

    def figures(self) -> tuple[list[ServerFigures], list[VipFigures]]:
        """Return what is exposed of all servers and VIPs."""
        with self._controller.lock:  # so that what is told is in force
            vips, choices = self._controller.model.vips, dict(self._controller.choices)
        known = self._known(vips)
        return [_figures(each) for each in known], [
            {
                "vip": vip.name,
                "protocol": vip.protocol.value,
                "mode": vip.mode.value,
                "policy": vip.policy.value,
                "usable": len(chosen.shares),
                "panicking": chosen.panicking,
            }
            for vip in vips
            for chosen in (choices.get(vip.index, _NOTHING),)
        ]

    def _traffic(self, vips: Collection[Vip]) -> Records:
        return self._controller.plane.readings.traffic({vip.index for vip in vips})

    def _known(self, vips: Collection[Vip]) -> list[Known]:
        traffic, shown = self._traffic(vips), self._controller.steering.shown()
        # Here too, unless it takes seconds, as with 256,000 servers: no change may wait for that.
        is_quick = sum(len(vip.servers) for vip in vips) <= _QUICK
        with self._controller.lock if is_quick else nullcontext():
            return [known for vip in vips for known in self._of_vip(vip, traffic, shown)]

    def _of_vip(self, vip: Vip, traffic: Records, shown: Mapping[Key, Shown]) -> Iterator[Known]:
        controller, first = self._controller, vip.index * SERVER_IDS
        standings, verdicts = controller.standings(vip), controller.watchlist.verdicts(vip)
        chosen = controller.choices.get(vip.index, _NOTHING)
        parts = fractions(chosen)
        columns = {
            name: traffic[name][first : first + SERVER_IDS].tolist() for name in traffic.dtype.names or ()
        }
        exact = None
        if vip.mode is Mode.STATEFUL:
            exact = np.asarray(controller.plane.readings.open_connections)[
                first : first + SERVER_IDS
            ].tolist()
        for server in vip.servers:
            load = shown.get((vip.index, server.id), _UNSEEN)
            verdict = verdicts.get(server.id, _UNKNOWN)
            estimate = load.load if vip.load.kind is LoadKind.CONNECTIONS else None
            yield Known(
                vip,
                server,
                standings[server.id],
                verdict,
                parts.get(server.id, 0.0),
                unused_reason(server, standings[server.id], chosen),
                load,
                exact[server.id] if exact else estimate,
                {name: column[server.id] for name, column in columns.items()},
            )


def _describe(known: Known) -> dict[str, object]:
    vip, server = known.vip, known.server
    return {
        "vip": vip.name,
        "name": server.name,
        "address": str(server.address),
        "port": server.port,
        "id": server.id,
        "weight": server.weight,
        "state": shown_state(server, known.standing),
        "reason": known.reason,
        "reachable": known.standing.reachable,
        "share": round(known.share, 6),
        "load": known.shown.load,
        "open": known.open,
        "estimated": vip.mode is not Mode.STATEFUL,
        **{name: known.traffic[name] for name in ("connections", "packets", "bytes")},
    }


def _figures(known: Known) -> ServerFigures:
    vip, server, traffic, shown = known.vip, known.server, known.traffic, known.shown
    return {
        "vip": vip.name,
        "server": server.name,
        "state": shown_state(server, known.standing),
        "weight": server.weight,
        "share": known.share,
        "connections": traffic["connections"],
        "packets": traffic["packets"],
        "bytes": traffic["bytes"],
        "repeats": traffic["repeats"],
        "answers": traffic["answers"],
        "resets": traffic["resets"],
        "open": known.open,
        "load": shown.load,
        "latency": None if shown.latency is None else shown.latency / 1000,
        "check_seconds": known.verdict.seconds,
    }


def _describe_vip(vip: Vip, chosen: Choice, traffic: Records) -> dict[str, object]:
    own = traffic[vip.index * SERVER_IDS : (vip.index + 1) * SERVER_IDS]
    ids = np.fromiter((server.id for server in vip.servers), np.intp, len(vip.servers))
    return {
        "name": vip.name,
        "address": str(vip.address),
        "port": vip.port,
        "protocol": vip.protocol.value,
        "mode": vip.mode.value,
        "policy": vip.policy.value,
        "servers": sum(server.state not in {State.REMOVED, State.CUT} for server in vip.servers),
        "usable": len(chosen.shares),
        "panicking": chosen.panicking,
        **{name: int(own[name][ids].sum()) for name in ("connections", "packets", "bytes")},
    }


def _describe_connection(vip: Vip, names: Mapping[int, str], connection: Connection) -> dict[str, Any]:
    return {
        "client": str(connection.client),
        "port": connection.port,
        "vip": vip.name,
        "server": names.get(connection.server, str(connection.server)),
        "state": connection.state,
        "age": connection.age,
        "idle": connection.idle,
        "packets_to_server": connection.packets_to_server,
        "bytes_to_server": connection.bytes_to_server,
        "packets_to_client": connection.packets_to_client,
        "bytes_to_client": connection.bytes_to_client,
    }
