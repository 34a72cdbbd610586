# SPDX-License-Identifier: Apache-2.0
"""From a model to the contents of the kernel's tables, and from two contents to a plan of writes.

Pure, as decide.py: what is in the tables is contract.h, how their rows are found is tables.h.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from poise.servers.model import SERVER_IDS, Hop, Model, Policy, Server, State, Vip

_PROTOCOL_TCP = 6
_SEED_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

POLICIES = {Policy.ROUND_ROBIN: 0, Policy.HASH: 1}  # enum policy
READY, DRAIN, CUT = 1, 2, 3  # enum server_state
_STATES = {State.READY: READY, State.DRAIN: DRAIN, State.REMOVED: DRAIN, State.CUT: CUT}


class End(NamedTuple):
    """One end of a connection: struct service."""

    address: int
    port: int
    protocol: int = _PROTOCOL_TCP

    def number(self) -> int:
        """Return the bytes of struct service as one little-endian number."""
        data = self.address.to_bytes(4, "big") + self.port.to_bytes(2, "big") + bytes((self.protocol, 0))
        return int.from_bytes(data, "little")


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Tables:
    """Contents of the tables; rows that are all zero are left out.

    vips: by row in either half. servers: by VIP index x 512 + id. origins: by the server's end.
    pools: ids in order, by pool number. direct: (length, address). seed: of the VIP table.
    """

    vips: Mapping[int, Row] = field(default_factory=dict)
    servers: Mapping[int, Row] = field(default_factory=dict)
    origins: Mapping[End, Row] = field(default_factory=dict)
    pools: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    direct: frozenset[tuple[int, int]] = frozenset()
    seed: int = 0


class Write(NamedTuple):
    """One step of a plan: a value for a key of a table, or None to clear it."""

    table: str
    key: Any
    value: Any


def vip_row(end: End, seed: int, rows: int) -> int:
    """Return the row of a VIP under a seed, as vip_row() of tables.h does."""
    factor = seed * _SEED_FACTOR & _MASK | 1
    return (seed & 1) * rows + (end.number() * factor & _MASK) * rows // (1 << 64)


def find_seed(ends: list[End], present: int, rows: int) -> int:
    """Return a seed under which no two ends share a row: the present one, else one for the other half."""
    if _is_perfect(ends, present, rows):
        return present
    seed = present + 1
    while not _is_perfect(ends, seed, rows):
        seed += 2
    return seed


def _is_perfect(ends: list[End], seed: int, rows: int) -> bool:
    return len({vip_row(end, seed, rows) for end in ends}) == len(ends)


def desired(
    model: Model,
    hops: Mapping[IPv4Address, Hop],
    direct: frozenset[tuple[int, int]],
    present: Tables,
    rows: int,
) -> Tables:
    """Return what the tables should hold; `present` decides which halves are free to be written.

    hops: by server address. rows: of one half of the VIP table. A server without a hop cannot be
    sent to; one whose hop is not valid at present gets no new connections.
    """
    ends = [End(int(vip.address), vip.port) for vip in model.vips]
    seed = find_seed(ends, present.seed, rows)
    in_use = {row["index"]: row["pool"] for row in present.vips.values()}
    vips, pools = {}, {}
    for vip, end in zip(model.vips, ends, strict=True):
        ids = _pool(vip, hops)
        pool = in_use.get(vip.index, 2 * vip.index)
        if vip.index in in_use and present.pools.get(pool, ()) != ids:
            pool ^= 1
        pools[pool] = ids
        vips[vip_row(end, seed, rows)] = {
            "end": end._asdict(),
            "index": vip.index,
            "pool": pool,
            "policy": POLICIES[vip.policy],
        }
    return Tables(
        vips=vips,
        servers={
            vip.index * SERVER_IDS + server.id: _server_row(server, hops.get(server.address))
            for vip, server in model.servers()
        },
        origins={
            End(int(server.address), server.port): _origin_row(vip, server) for vip, server in model.servers()
        },
        pools=pools,
        direct=direct,
        seed=seed,
    )


def _pool(vip: Vip, hops: Mapping[IPv4Address, Hop]) -> tuple[int, ...]:
    ready = (server for server in vip.servers if server.state == State.READY)
    return tuple(server.id for server in ready if server.address in hops and hops[server.address].valid)


def _server_row(server: Server, hop: Hop | None) -> Row:
    return {
        "address": int(server.address),
        "port": server.port,
        "state": _STATES[server.state],
        "ifindex": hop.ifindex if hop else 0,
        "hop_mac": hop.mac if hop else bytes(6),
        "interface_mac": hop.interface_mac if hop else bytes(6),
    }


def _origin_row(vip: Vip, server: Server) -> Row:
    return {
        "address": int(vip.address),
        "port": vip.port,
        "server": server.id,
        "vip": vip.index,
        "policy": POLICIES[vip.policy],
        "state": _STATES[server.state],
    }


def plan(present: Tables, wanted: Tables) -> list[Write]:
    """Return the writes that turn one content into the other, in an order that loses no packet.

    Servers can be found before connections are placed on them, the VIPs of a new half before the
    seed that points there; what is cut or gone is cleared last.
    """
    usable = {key: row for key, row in wanted.servers.items() if row["state"] != CUT}
    steps = [Write("servers", key, row) for key, row in usable.items() if present.servers.get(key) != row]
    steps += _changes("origins", present.origins, wanted.origins)
    steps += [Write("direct", key, 1) for key in wanted.direct - present.direct]
    steps += _changes("pools", present.pools, wanted.pools)
    steps += _changes("vips", present.vips, wanted.vips)
    if present.seed != wanted.seed or len(present.direct) != len(wanted.direct):
        steps.append(Write("settings", 0, {"vip_seed": wanted.seed, "direct_prefixes": len(wanted.direct)}))
    steps += [Write("vips", key, None) for key in present.vips if key not in wanted.vips]
    steps += [
        Write("servers", key, row)
        for key, row in wanted.servers.items()
        if key not in usable and present.servers.get(key) != row
    ]
    steps += [Write("servers", key, None) for key in present.servers if key not in wanted.servers]
    steps += [Write("origins", end, None) for end in present.origins if end not in wanted.origins]
    steps += [Write("direct", key, None) for key in present.direct - wanted.direct]
    return steps


def _changes(table: str, present: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> list[Write]:
    return [Write(table, key, value) for key, value in wanted.items() if present.get(key) != value]
