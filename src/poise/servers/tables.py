# SPDX-License-Identifier: Apache-2.0
"""From a model to the contents of the kernel's tables, and from two contents to a plan of writes.

Pure, as decide.py: what is in the tables is contract.h, how their rows are found is tables.h.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, NamedTuple

from poise.errors import PoiseError
from poise.servers import cookie
from poise.servers.model import SERVER_IDS, Address, Hop, Link, Model, Policy, Server, State, Vip

_PROTOCOL_TCP = 6
_HASH_FACTOR = 0x9E3779B97F4A7C15  # HASH_FACTOR and PROBES of tables.h
_PROBES = 8
_MASK = (1 << 64) - 1

POLICIES = {Policy.ROUND_ROBIN: 0, Policy.HASH: 1}  # enum policy
READY, DRAIN, CUT = 1, 2, 3  # enum server_state
_STATES = {State.READY: READY, State.DRAIN: DRAIN, State.REMOVED: DRAIN, State.CUT: CUT}


class End(NamedTuple):
    """One end of a connection: struct service, without its padding."""

    address: int
    port: int
    protocol: int = _PROTOCOL_TCP

    def packed(self) -> bytes:
        """Return the bytes of struct service."""
        return cookie.service_bytes(IPv4Address(self.address), self.port, self.protocol)

    def number(self) -> int:
        """Return these bytes as one little-endian number, as tables.h hashes them."""
        return int.from_bytes(self.packed(), "little")


Row = Mapping[str, Any]

GONE = End(address=0x01000000, port=0, protocol=0)  # whose number is GONE of tables.h


@dataclass(frozen=True)
class Tables:
    """Contents of the tables; rows that are all zero are left out.

    vips and origins: by row, with the end GONE where one was. servers: by VIP index x 512 + id.
    pools: ids in order, by pool number, whether in use or not. direct: (length, address).
    """

    vips: Mapping[int, Row] = field(default_factory=dict)
    servers: Mapping[int, Row] = field(default_factory=dict)
    origins: Mapping[int, Row] = field(default_factory=dict)
    pools: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    direct: frozenset[tuple[int, int]] = frozenset()


class Write(NamedTuple):
    """One step of a plan: a value for a key of a table, or None to clear it."""

    table: str
    key: Any
    value: Any


class Crowded(PoiseError):
    """Too many VIPs or servers for the tables of their ends."""


@dataclass(frozen=True)
class Shape:
    """How many rows the kernel's tables of VIPs and of origins have."""

    vip_rows: int
    origin_rows: int


def probed_rows(end: End, rows: int) -> list[int]:
    """Return the rows where an end may stand, in the order in which find_end() of tables.h looks."""
    first = (end.number() * _HASH_FACTOR & _MASK) * rows >> 64
    return [(first + probe) % rows for probe in range(_PROBES)]


def place(wanted: Mapping[End, Row], present: Mapping[int, Row], rows: int) -> dict[int, Row]:
    """Return the rows of a table of ends: what is there stays where it is, the rest goes where it is found.

    A row that is left gets the end GONE if others may stand behind it. Raises Crowded.
    """
    places = {end_in(row): number for number, row in present.items() if end_in(row) != GONE}
    taken = set(places.values())
    placed: dict[int, Row] = {places[end]: row for end, row in wanted.items() if end in places}
    for end, row in wanted.items():
        if end in places:
            continue
        number = next((number for number in probed_rows(end, rows) if number not in taken), None)
        if number is None:
            raise Crowded(f"no place is left for {IPv4Address(end.address)}:{end.port}: there are too many")
        placed[number] = row
        taken.add(number)
    for end in wanted:
        for number in probed_rows(end, rows):
            if number not in placed:
                placed[number] = _gone(present[number])
            if end_in(placed[number]) == end:
                break
    return placed


def end_in(row: Row) -> End:
    """Return the end that a row of the VIPs or origins is for."""
    return End(**row["end"])


def _gone(row: Row) -> Row:
    return {name: _nothing(value) for name, value in row.items()} | {"end": GONE._asdict()}


def _nothing(value: Any) -> Any:  # noqa: ANN401  a member of any layout
    return tuple(0 for _ in value) if isinstance(value, tuple) else 0


def desired(
    model: Model,
    hops: Mapping[Address, Hop],
    direct: frozenset[IPv4Network | IPv6Network],
    links: Mapping[int, Link],  # noqa: ARG001
    *,
    key: bytes,
    present: Tables,
    shape: Shape,
) -> Tables:
    """Return what the tables should hold; `present` decides which rows and pools are free.

    hops: by server address. key: of the cookie. A server without a hop cannot be sent to; one
    whose hop is not valid at present gets no new connections. Raises Crowded.
    """
    pools_in_use = {(row["index"], end_in(row)): row["pool"] for row in present.vips.values()}
    wanted_vips: dict[End, Row] = {}
    pools = dict(present.pools)
    for vip in model.vips:
        ids = _pool(vip, hops)
        pool = pools_in_use.get((vip.index, _end_of(vip)), 2 * vip.index)
        if pool in pools_in_use.values() and present.pools.get(pool, ()) != ids:
            pool ^= 1
        pools[pool] = ids
        wanted_vips[_end_of(vip)] = _vip_row(vip, pool, key, asks_direct=bool(direct))
    vips = place(wanted_vips, present.vips, shape.vip_rows)
    rows = {row["index"]: number for number, row in vips.items() if end_in(row) != GONE}
    # A server that was cut from one VIP may be in another one by now: its packets are for that one.
    cut_first = sorted(model.servers(), key=lambda pair: pair[1].state != State.CUT)
    origins = {_end_of(server): _origin_row(server, rows[vip.index]) for vip, server in cut_first}
    return Tables(
        vips=vips,
        servers={
            vip.index * SERVER_IDS + server.id: _server_row(server, hops.get(server.address))
            for vip, server in model.servers()
        },
        origins=place(origins, present.origins, shape.origin_rows),
        pools=pools,
        direct=frozenset((net.prefixlen, int(net.network_address)) for net in direct),
    )


def _end_of(thing: Vip | Server) -> End:
    return End(int(thing.address), thing.port)


def _vip_row(vip: Vip, pool: int, key: bytes, *, asks_direct: bool) -> Row:
    end = _end_of(vip)
    return {
        "end": end._asdict(),
        "hash_state": cookie.vip_state(key, end.packed()),
        "index": vip.index,
        "pool": pool,
        "policy": POLICIES[vip.policy],
        "asks_direct": int(asks_direct),
    }


def _pool(vip: Vip, hops: Mapping[Address, Hop]) -> tuple[int, ...]:
    ready = (server for server in vip.servers if server.state == State.READY)
    return tuple(server.id for server in ready if server.address in hops and hops[server.address].valid)


def _server_row(server: Server, hop: Hop | None) -> Row:
    sent_to = hop is not None and server.state != State.CUT
    return {
        "address": int(server.address),
        "port": server.port,
        "state": _STATES[server.state],
        "ifindex": hop.ifindex if hop and sent_to else 0,
        "hop_mac": hop.mac if hop and sent_to else bytes(6),
        "interface_mac": hop.interface_mac if hop and sent_to else bytes(6),
    }


def _origin_row(server: Server, vip_row: int) -> Row:
    return {
        "end": _end_of(server)._asdict(),
        "vip_row": vip_row,
        "server": server.id,
        "cut": int(server.state == State.CUT),
    }


def plan(present: Tables, wanted: Tables) -> list[Write]:
    """Return the writes that turn one content into the other, in an order that loses no packet.

    A server can be found, in both directions, before connections are placed on it; a pool is
    written where it is not in use, and the word that points to it comes after. What cannot be sent
    to any more, is cut or gone comes last, and servers before their VIP.
    """
    usable = {key for key, row in wanted.servers.items() if row["ifindex"]}
    servers = _changes("servers", present.servers, wanted.servers)
    vips = _changes("vips", present.vips, wanted.vips)
    first, then, last = _origins_in_turn(present.origins, wanted.origins)
    steps = [write for write in servers if write.key in usable]
    steps += [
        Write("pools", key, ids) for key, ids in wanted.pools.items() if present.pools.get(key, ()) != ids
    ]
    steps += first
    steps += [Write("direct", key, 1) for key in wanted.direct - present.direct]
    steps += [write for write in vips if end_in(write.value) != GONE]
    steps += then
    steps += [write for write in servers if write.key not in usable]
    steps += last
    steps += [write for write in vips if end_in(write.value) == GONE]
    for table in ("origins", "vips", "servers", "direct"):
        left = getattr(wanted, table)
        steps += [Write(table, key, None) for key in getattr(present, table) if key not in left]
    return steps


def _origins_in_turn(
    present: Mapping[int, Row], wanted: Mapping[int, Row]
) -> tuple[list[Write], list[Write], list[Write]]:
    """Return the writes before those of VIPs, those of servers that change their VIP, and the last ones."""
    first, then, last = [], [], []
    for write in _changes("origins", present, wanted):
        end, before = end_in(write.value), present.get(write.key)
        if write.value["cut"] or end == GONE:
            last.append(write)
        elif before and end_in(before) == end and before["vip_row"] != write.value["vip_row"]:
            then.append(write)
        else:
            first.append(write)
    return first, then, last


def new_servers(present: Tables, wanted: Tables) -> list[int]:
    """Return the rows of the servers table that are to hold another server than before, or the first one."""
    before = {key: (row["address"], row["port"]) for key, row in present.servers.items()}
    return [key for key, row in wanted.servers.items() if before.get(key) != (row["address"], row["port"])]


def _changes(table: str, present: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> list[Write]:
    return [Write(table, key, value) for key, value in wanted.items() if present.get(key) != value]
