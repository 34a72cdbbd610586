# SPDX-License-Identifier: Apache-2.0
"""The servers of a running poise: each change is decided, saved, and then applied."""

import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import structlog

from poise.config import Config, QuicIdsConfig, VipConfig
from poise.kernel import neighbours, netlink, watch
from poise.servers import decide, sense, state, tables
from poise.servers.apply import DataPlane
from poise.servers.model import (
    SERVER_IDS,
    Address,
    Layout,
    Mode,
    Model,
    Policy,
    Protocol,
    QuicIds,
    Server,
    Vip,
)

_log = structlog.get_logger()


class Controller:
    """Holds the model of all VIPs and keeps file and kernel in step with it.

    Changes are saved before they are applied, so that no id is ever given out twice.
    """

    def __init__(
        self, config: Config, path: Path, key: bytes, plane: DataPlane, interfaces: sense.Interfaces
    ) -> None:
        """Bring the saved model together with the configuration; nothing is applied yet.

        path: where the model is saved. key: 16 bytes, of the cookie. interfaces: those that servers may
        be behind. Raises PoiseError where the key file of a VIP cannot be used.
        """
        self._path = path
        self._key = key
        self._plane = plane
        self._interfaces = interfaces
        self._rest = config.id_rest
        self._direct = frozenset(config.direct)
        wanted = [_wanted(vip) for vip in config.vips]
        self._model = decide.reconcile(state.load_model(path), wanted, time.time(), self._rest)
        self._present = plane.read()
        self._links = sense.links(interfaces, netlink.links())
        self._ways = sense.Ways(sense.hops_in(self._present))
        # None: what an earlier process had kept fresh is not known.
        self._kept_fresh: set[sense.Neighbour] | None = None
        state.save_model(path, self._model)

    def list(self) -> list[dict[str, object]]:
        """Return a dict for each server that is on the list or whose id rests."""
        return [self._describe(vip, server) for vip, server in self._model.servers()]

    def add(
        self,
        vip: str | None,
        name: str | None,
        address: Address,
        port: int,
        weight: int | None = None,
    ) -> dict[str, object]:
        """Let a server take new connections; see decide.add() for what is refused."""
        chosen = decide.find_vip(self._model, vip)
        wanted = decide.wanted_by_operator(chosen, address, port, name, weight)
        model, server = decide.add(self._model, chosen, wanted, time.time(), self._rest, declared=False)
        self._change(model)
        return self._one(chosen, server.id, "added")

    def drain(self, name: str, vip: str | None = None) -> dict[str, object]:
        """Give a server no new connections; see decide.drain()."""
        chosen = decide.find_vip(self._model, vip)
        server = decide.find_server(chosen, name)
        self._change(decide.drain(self._model, chosen, name, time.time()))
        return self._one(chosen, server.id, "draining")

    def remove(self, name: str, vip: str | None = None, *, now: bool = False) -> dict[str, object]:
        """Take a server off the list, with `now` its connections too; see decide.remove()."""
        chosen = decide.find_vip(self._model, vip)
        server = decide.find_server(chosen, name)
        self._change(decide.remove(self._model, chosen, name, time.time(), cut=now))
        return self._one(chosen, server.id, "cut" if now else "removed")

    def counters(self) -> dict[str, int]:
        """Return how often each event happened."""
        return self._plane.events()

    def holders_of_neighbours(self) -> set[int]:
        """Return the interfaces (ifindex) with the neighbours that packets are sent to."""
        return {*self._interfaces, *self._links}

    def unreachable(self) -> int:
        """Return to how many servers no packet can be sent at present."""
        return len(self._ways.faults)

    def concerns(self, event: watch.Event) -> bool:
        """Return whether the event may change the way to a server; most only confirm a neighbour."""
        if not isinstance(event, watch.NeighbourChange):
            return True
        told = event.neighbour
        valid = told.valid and not event.gone
        return any(
            neighbour == (told.ifindex, told.address) and self._differs(server, told, valid=valid)
            for server, neighbour in self._ways.neighbours.items()
        ) or (valid and bool(self._ways.faults))

    def _differs(self, server: Address, told: neighbours.Neighbour, *, valid: bool) -> bool:
        hop = self._ways.hops.get(server)
        return hop is not None and (hop.valid != valid or hop.mac != told.mac)

    def begin(self) -> None:
        """Give the kernel the keys of QUIC connection ids, then do as `refresh` does. Raises QuicKeyError."""
        self._plane.hold_keys(self._model)
        self.refresh()

    def refresh(self) -> None:
        """Look up the way to every server, and apply what differs from the kernel's tables."""
        self._links = sense.links(self._interfaces, netlink.links())
        self._apply(self._desired(self._model, afresh=True))

    def _change(self, model: Model) -> None:
        wanted = self._desired(model)  # what does not fit is refused before it is saved
        state.save_model(self._path, model)
        self._model = model
        self._apply(wanted)

    def _desired(self, model: Model, *, afresh: bool = False) -> tables.Tables:
        self._look_up({server.address for _, server in model.servers()}, afresh=afresh)
        return tables.desired(
            model,
            self._ways.hops,
            self._direct,
            self._links,
            key=self._key,
            present=self._present,
            shape=self._plane.shape,
        )

    def _look_up(self, addresses: Collection[Address], *, afresh: bool) -> None:
        before = self._ways
        ways = sense.look_up_ways(addresses, before, self._interfaces, afresh=afresh)
        for address in ways.faults.keys() - before.faults.keys():
            _log.warning("server cannot be reached", address=str(address), reason=ways.faults[address])
        for address in (before.faults.keys() - ways.faults.keys()) & ways.hops.keys():
            _log.info("server can be reached", address=str(address))
        kept_fresh = set(ways.neighbours.values())
        if self._kept_fresh is None or self._kept_fresh - kept_fresh:
            neighbours.let_go_except(kept_fresh)
        self._kept_fresh = kept_fresh
        self._ways = ways

    def _apply(self, wanted: tables.Tables) -> None:
        for row in tables.new_servers(self._present, wanted):
            self._plane.forget_traffic(row)
        self._plane.write(tables.plan(self._present, wanted))
        self._present = wanted

    def _one(self, vip: Vip, server_id: int, event: str) -> dict[str, object]:
        vip = next(other for other in self._model.vips if other.index == vip.index)
        server = next(server for server in vip.servers if server.id == server_id)
        _log.info(f"server {event}", vip=vip.name, server=server.name, id=server.id)
        return self._describe(vip, server)

    def _describe(self, vip: Vip, server: Server) -> dict[str, object]:
        traffic = self._plane.traffic(vip.index * SERVER_IDS + server.id)
        return {
            "vip": vip.name,
            "name": server.name,
            "address": str(server.address),
            "port": server.port,
            "id": server.id,
            "weight": server.weight,
            "state": server.state.value,
            "reachable": server.address not in self._ways.faults,
            **traffic,
        }


def _wanted(vip: VipConfig) -> decide.WantedVip:
    protocol = Protocol(vip.protocol)
    return decide.WantedVip(
        vip.name,
        vip.address,
        vip.port,
        Policy(vip.policy),
        tuple(
            decide.WantedServer(server.name, server.address, server.port, server.weight)
            for server in vip.servers
        ),
        protocol,
        Mode(vip.mode),
        Layout(vip.timestamp_layout),
        tuple(_quic_ids(vip.quic_ids)) if protocol is Protocol.QUIC else (),
    )


def _quic_ids(written: Iterable[QuicIdsConfig]) -> Iterator[QuicIds]:
    for ids in written:
        key = None if ids.key_file is None else state.load_quic_key(ids.key_file)
        yield QuicIds(ids.config, ids.server_id_length, ids.nonce_length, key)
