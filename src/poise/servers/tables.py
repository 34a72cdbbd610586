# SPDX-License-Identifier: Apache-2.0
"""From a model to the contents of the kernel's tables, and from two contents to a plan of writes.

Pure, as decide.py: what is in the tables is contract.h, how their rows are found is tables.h.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

from poise.quic import tables as quic
from poise.servers import cookie, maglev
from poise.servers.ends import GONE, End, Row, end_of, place
from poise.servers.model import (
    SERVER_IDS,
    Address,
    Hop,
    Layout,
    Link,
    Mode,
    Model,
    Policy,
    Protocol,
    Server,
    State,
    Vip,
)

POLICIES = {  # enum policy
    Policy.ROUND_ROBIN: 0,
    Policy.WEIGHTED_ROUND_ROBIN: 0,
    Policy.AWRR: 0,
    Policy.HASH: 1,
    Policy.MAGLEV: 2,
    Policy.POWER_OF_TWO: 3,
    Policy.LEAST_LOADED: 4,
    Policy.PREQUAL: 5,
}
MODES = {Mode.STATELESS: 0, Mode.STATEFUL: 1, Mode.COOKIELESS: 2}  # enum mode
LAYOUTS = {Layout.LOW: 0, Layout.MSB: 1, Layout.LSB: 2}  # enum layout
READY, DRAIN, CUT = 1, 2, 3  # enum server_state
ASKS_DIRECT, ASKS_LINKS, IS_QUIC = 1, 2, 4  # enum vip_flags
_STATES = {State.READY: READY, State.DRAIN: DRAIN, State.REMOVED: DRAIN, State.CUT: CUT}
_LARGEST_MTU = 65535

Network = IPv4Network | IPv6Network


class Pool(NamedTuple):
    """The servers that take new connections, in the order of their turns, and their weights."""

    ids: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tables:
    """Contents of the tables; rows that are all zero are left out.

    vips and origins: by row, with the end GONE where one was. servers and server_addresses: by VIP index
    x 512 + id. vip_addresses: by VIP index. quic_configs: by VIP index x 8 + codepoint. pools: by pool
    number, whether in use or not. links: by the ifindex of the routing table.
    """

    vips: Mapping[int, Row] = field(default_factory=dict)
    vip_addresses: Mapping[int, Row] = field(default_factory=dict)
    quic_configs: Mapping[int, Row] = field(default_factory=dict)
    servers: Mapping[int, Row] = field(default_factory=dict)
    server_addresses: Mapping[int, Row] = field(default_factory=dict)
    origins: Mapping[int, Row] = field(default_factory=dict)
    pools: Mapping[int, Pool] = field(default_factory=dict)
    links: Mapping[int, Row] = field(default_factory=dict)
    direct: frozenset[Network] = frozenset()


class Write(NamedTuple):
    """One step of a plan: a value for a key of a table, or None to clear it."""

    table: str
    key: Any
    value: Any


@dataclass(frozen=True)
class Shape:
    """How many rows the kernel's tables of VIPs and of origins have."""

    vip_rows: int
    origin_rows: int


def address_row(address: Address) -> Row:
    """Return struct address."""
    packed = address.packed.rjust(16, b"\0")
    return {"word": tuple(int.from_bytes(packed[at : at + 4], "big") for at in range(0, 16, 4))}


def desired(
    model: Model,
    hops: Mapping[Address, Hop],
    direct: frozenset[Network],
    links: Mapping[int, Link],
    *,
    key: bytes,
    present: Tables,
    shape: Shape,
) -> Tables:
    """Return what the tables should hold; `present` decides which rows and pools are free.

    hops: by server address. links: by the ifindex of the routing table. key: of the cookie. A server
    without a hop cannot be sent to; one whose hop is not valid at present gets no new connections.
    Raises Crowded.
    """
    pools_in_use = {(row["index"], row["end"]): row["pool"] for row in present.vips.values()}
    wanted_vips: dict[End, Row] = {}
    pools = dict(present.pools)
    flags = (ASKS_DIRECT if direct else 0) | (ASKS_LINKS if links else 0)
    for vip in model.vips:
        content = _pool(vip, hops)
        end = end_of(vip)
        pool = pools_in_use.get((vip.index, end.number()), 2 * vip.index)
        if pool in pools_in_use.values() and present.pools.get(pool, Pool()) != content:
            pool ^= 1
        pools[pool] = content
        wanted_vips[end] = _vip_row(vip, pool, key, flags)
    vips = place(wanted_vips, present.vips, shape.vip_rows)
    rows = {row["index"]: number for number, row in vips.items() if row["end"] != GONE}
    # A server that was cut from one VIP may be in another one by now: its packets are for that one.
    cut_first = sorted(model.servers(), key=lambda pair: pair[1].state != State.CUT)
    origins = {end_of(vip, server): _origin_row(vip, server, rows[vip.index]) for vip, server in cut_first}
    servers = {vip.index * SERVER_IDS + server.id: server for vip, server in model.servers()}
    return Tables(
        vips=vips,
        vip_addresses=_ipv6_rows((vip.index, vip.address) for vip in model.vips),
        quic_configs={row: config for vip in model.vips for row, config in quic.configs(vip).items()},
        servers={row: _server_row(server, hops.get(server.address)) for row, server in servers.items()},
        server_addresses=_ipv6_rows((row, server.address) for row, server in servers.items()),
        origins=place(origins, present.origins, shape.origin_rows),
        pools=pools,
        links={number: _link_row(link) for number, link in links.items()},
        direct=direct,
    )


def _vip_row(vip: Vip, pool: int, key: bytes, flags: int) -> Row:
    end = end_of(vip)
    return {
        "end": end.number(),
        "hash_state": cookie.vip_state(key, end.packed()),
        "address": _ipv4(vip.address),
        "port": vip.port,
        "protocol": end.protocol,
        "policy": POLICIES[vip.policy],
        "index": vip.index,
        "pool": pool,
        "mode": MODES[vip.mode],
        "layout": LAYOUTS[vip.layout],
        "flags": flags | (IS_QUIC if vip.protocol == Protocol.QUIC else 0),
    }


def _pool(vip: Vip, hops: Mapping[Address, Hop]) -> Pool:
    ready = [server for server in vip.servers if server.state == State.READY]
    reached = [server for server in ready if server.address in hops and hops[server.address].valid]
    return Pool(tuple(server.id for server in reached), tuple(server.weight for server in reached))


def _server_row(server: Server, hop: Hop | None) -> Row:
    sent_to = hop if server.state != State.CUT else None
    return {
        "address": _ipv4(server.address),
        "port": server.port,
        "state": _STATES[server.state],
        "tags": len(sent_to.tags) if sent_to else 0,
        "ifindex": sent_to.ifindex if sent_to else 0,
        "hop_mac": sent_to.mac if sent_to else bytes(6),
        "interface_mac": sent_to.interface_mac if sent_to else bytes(6),
        "tag": _two(sent_to.tags if sent_to else ()),
        "mtu": min(sent_to.mtu or _LARGEST_MTU, _LARGEST_MTU) if sent_to else 0,
    }


def _origin_row(vip: Vip, server: Server, vip_row: int) -> Row:
    return {
        "end": end_of(vip, server).number(),
        "vip_row": vip_row,
        "vip": vip.index,
        "server": server.id,
        "cut": int(server.state == State.CUT),
    }


def _link_row(link: Link) -> Row:
    return {"ifindex": link.ifindex, "tags": len(link.tags), "tag": _two(link.tags)}


def _two(tags: tuple[int, ...]) -> tuple[int, ...]:
    return (*tags, 0, 0)[:2]


def _ipv4(address: Address) -> int:
    return int(address) if address.version == 4 else 0


def _ipv6_rows(addresses: Iterable[tuple[int, Address]]) -> dict[int, Row]:
    return {row: address_row(address) for row, address in addresses if address.version == 6}


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
    steps = _changes("vip_addresses", present.vip_addresses, wanted.vip_addresses)
    steps += _changes("server_addresses", present.server_addresses, wanted.server_addresses)
    steps += _changes("quic_configs", present.quic_configs, wanted.quic_configs)
    steps += _changes("links", present.links, wanted.links)
    steps += [write for write in servers if write.key in usable]
    for number, pool in wanted.pools.items():
        if present.pools.get(number, Pool()) != pool:
            steps.append(Write("maglevs", number, maglev.table(dict(zip(*pool, strict=True)))))
            steps.append(Write("pools", number, pool))
    steps += first
    steps += [Write("direct", key, 1) for key in wanted.direct - present.direct]
    steps += [write for write in vips if write.value["end"] != GONE]
    steps += then
    steps += [write for write in servers if write.key not in usable]
    steps += last
    steps += _clearances("origins", present, wanted)
    steps += [write for write in vips if write.value["end"] == GONE]
    for table in (
        *("vips", "servers", "server_addresses", "vip_addresses"),
        *("quic_configs", "links", "direct"),
    ):
        steps += _clearances(table, present, wanted)
    return steps


def _clearances(table: str, present: Tables, wanted: Tables) -> list[Write]:
    left = getattr(wanted, table)
    return [Write(table, key, None) for key in getattr(present, table) if key not in left]


def _origins_in_turn(
    present: Mapping[int, Row], wanted: Mapping[int, Row]
) -> tuple[list[Write], list[Write], list[Write]]:
    """Return the writes before those of VIPs, those of servers that change their VIP, and the last ones."""
    first, then, last = [], [], []
    for write in _changes("origins", present, wanted):
        end, before = write.value["end"], present.get(write.key)
        if write.value["cut"] or end == GONE:
            last.append(write)
        elif before and before["end"] == end and before["vip_row"] != write.value["vip_row"]:
            then.append(write)
        else:
            first.append(write)
    return first, then, last


def new_servers(present: Tables, wanted: Tables) -> list[int]:
    """Return the rows of the servers table that are to hold another server than before, or the first one."""
    before = _ends(present)
    return [row for row, end in _ends(wanted).items() if before.get(row) != end]


def _ends(content: Tables) -> dict[int, tuple[object, ...]]:
    return {
        row: (server["address"], content.server_addresses.get(row), server["port"])
        for row, server in content.servers.items()
    }


def _changes(table: str, present: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> list[Write]:
    return [Write(table, key, value) for key, value in wanted.items() if present.get(key) != value]
