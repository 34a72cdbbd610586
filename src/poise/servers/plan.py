# SPDX-License-Identifier: Apache-2.0
"""From what the kernel's tables hold to what they should hold: a plan of writes that loses no packet.

Pure, as decide.py.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poise.quic.tables import CODEPOINTS
from poise.servers import ends
from poise.servers.ends import GONE
from poise.servers.model import SERVER_IDS, Link
from poise.servers.rows import CUT, IS_WATCHED, ORIGIN, VIP, Pool, Records, VipTables, origins_of
from poise.servers.tables import Network, Present, Write, differs, is_set, link_rows

Changes = Mapping[int, VipTables | None]
"""By the index of a VIP what the tables should hold of it; None: nothing."""


def plan(
    present: Present,
    changes: Changes,
    *,
    links: Mapping[int, Link] | None = None,
    direct: frozenset[Network] | None = None,
) -> list[Write]:
    """Return the writes that bring these VIPs into the tables, and leave all others alone.

    links, direct: all of them, None if they stay; their flags are of the VIPs (see rows.flags_for).

    A server can be found, in both directions, before connections are placed on it; a pool is written where
    it is not in use, and the word that points to it comes after. What cannot be sent to any more, is cut or
    gone comes last, and servers before their VIP. Raises Crowded.
    """
    wanted = [tables for tables in changes.values() if tables is not None]
    concerned = np.fromiter(changes, np.int64, len(changes))
    vips, vips_gone, rows = _vips(present, wanted, concerned)
    origins = _origins(present, wanted, concerned, rows)
    servers = _blocks(present, changes, "servers", SERVER_IDS)
    server_addresses = _blocks(present, changes, "server_addresses", SERVER_IDS)
    addresses = _blocks(present, changes, "vip_addresses", 1)
    quic = _blocks(present, changes, "quic_configs", CODEPOINTS)
    usable = servers.records["ifindex"] != 0
    there = is_set(servers.records)
    steps = [
        *addresses.where(is_set(addresses.records)),
        *server_addresses.where(is_set(server_addresses.records)),
        *quic.where(is_set(quic.records)),
        *_links(present, links),
        *servers.where(usable),
        *_pools(present, wanted, vips),
        *origins.first,
        *_direct_there(present, direct),
        *_part("vips", *vips),
        *origins.then,
        *servers.where(there & ~usable),
        *origins.last,
        *origins.gone,
        *vips_gone,
        *servers.where(~there),
        *server_addresses.where(~is_set(server_addresses.records)),
        *addresses.where(~is_set(addresses.records)),
        *quic.where(~is_set(quic.records)),
        *_links_gone(present, links),
        *_direct_gone(present, direct),
    ]
    return [step for step in steps if len(step.keys)]


def new_servers(present: Present, changes: Changes) -> NDArray[np.intp]:
    """Return the rows of servers that are to hold another server than before, or the first one."""
    found = []
    for index, tables in changes.items():
        if tables is None:
            continue
        block = slice(index * SERVER_IDS, (index + 1) * SERVER_IDS)
        before, after = present.servers[block], tables.servers
        other = (before["address"] != after["address"]) | (before["port"] != after["port"])
        other |= differs(present.server_addresses[block], tables.server_addresses)
        found.append(np.flatnonzero(other & is_set(after)) + index * SERVER_IDS)
    return np.concatenate(found) if found else np.zeros(0, np.intp)


@dataclass(frozen=True)
class _Changed:
    """The rows of a table that are to change, and what they are to hold."""

    table: str
    rows: NDArray[np.intp]
    records: Records

    def where(self, chosen: NDArray[np.bool_]) -> Iterator[Write]:
        """Yield the write of some of them."""
        yield from _part(self.table, self.rows[chosen], self.records[chosen])


def _part(table: str, rows: NDArray[np.intp], records: Records) -> Iterator[Write]:
    if len(rows):
        yield Write(table, rows, records)


def _blocks(present: Present, changes: Changes, table: str, size: int) -> _Changed:
    """Compare the parts of a table that belong to VIPs."""
    before: Records = getattr(present, table)
    rows, records = [np.zeros(0, np.intp)], [np.zeros(0, before.dtype)]
    for index, tables in changes.items():
        first = index * size
        held = before[first : first + size]
        wanted = np.zeros(size, before.dtype) if tables is None else _block(tables, table)
        changed = np.flatnonzero(differs(held, wanted))
        rows.append(changed + first)
        records.append(wanted[changed])
    return _Changed(table, np.concatenate(rows), np.concatenate(records))


def _block(tables: VipTables, table: str) -> Records:
    records: Records = tables.address if table == "vip_addresses" else getattr(tables, table)
    return records


def _vips(
    present: Present, wanted: list[VipTables], concerned: NDArray[np.int64]
) -> tuple[tuple[NDArray[np.intp], Records], list[Write], dict[int, int]]:
    """Return the rows of VIPs to be written, the writes where one was, and the row of each wanted VIP."""
    table = present.vips
    records = np.concatenate([np.zeros(0, VIP), *(tables.vip for tables in wanted)])
    places = ends.place(table["end"], records["end"])
    leaving = np.isin(table["index"], concerned) & (table["end"] > GONE)
    leaving[places] = False
    staying = (table["end"] > GONE) & ~leaving
    in_use = [set(table["pool"][rows].tolist()) for rows in (staying, leaving)]
    for tables, record, row in zip(wanted, records, places, strict=True):
        held = table[row]
        mine = held["end"] == record["end"] and held["index"] == tables.index
        first = int(held["pool"]) if mine else 2 * tables.index
        ranks = [_rank(number, tables.pool, present, *in_use) for number in (first, first ^ 1)]
        record["pool"] = first ^ int(ranks[1] < ranks[0])
        if tables.index in present.watched:
            record["flags"] |= IS_WATCHED
    gone = _gone(table, places, records["end"], np.flatnonzero(leaving))
    changed = differs(table[places], records)
    rows = dict(zip((tables.index for tables in wanted), places.tolist(), strict=True))
    return (places[changed], records[changed]), list(_part("vips", *gone)), rows


def _rank(
    number: int, content: Pool, present: Present, staying: Container[int], leaving: Container[int]
) -> int:
    """Return how bad a pool is: it has the content, is free, or a VIP that goes or stays uses it."""
    if number in staying or number in leaving:
        if present.pools.get(number) == content:
            return 0
        return 3 if number in staying else 2
    return 1


def _gone(
    table: Records, places: NDArray[np.intp], numbers: NDArray[np.uint64], leaving: NDArray[np.intp]
) -> tuple[NDArray[np.intp], Records]:
    """Return the rows where no end is to be any more: marked, if others may stand behind, or cleared."""
    after = table["end"].copy()
    after[leaving] = GONE
    after[places] = numbers
    rows = np.flatnonzero(after == GONE)
    records = np.zeros(len(rows), table.dtype)
    records["end"] = np.where(ends.is_passed(after, rows), GONE, 0)
    changed = differs(table[rows], records)
    return rows[changed], records[changed]


def _pools(
    present: Present, wanted: list[VipTables], vips: tuple[NDArray[np.intp], Records]
) -> Iterator[Write]:
    """Yield the pools that VIPs are to use from now on, each written afresh, its Maglev table first."""
    contents = {tables.index: tables.pool for tables in wanted}
    in_use = set(present.vips["pool"][present.vips["end"] > GONE].tolist())
    numbers, pools = [], []
    for record in vips[1]:
        number, content = int(record["pool"]), contents[int(record["index"])]
        if number not in in_use or present.pools.get(number) != content:
            numbers.append(number)
            pools.append(content)
    if numbers:
        weights = [dict(zip(pool.ids, pool.weights, strict=True)) for pool in pools]
        yield Write("maglevs", numbers, weights)
        yield Write("pools", numbers, pools)


@dataclass(frozen=True)
class _Origins:
    """The writes of origins: before those of VIPs; of servers that change their VIP; and the last ones."""

    first: list[Write]
    then: list[Write]
    last: list[Write]
    gone: list[Write]


def _origins(
    present: Present, wanted: list[VipTables], concerned: NDArray[np.int64], vip_rows: Mapping[int, int]
) -> _Origins:
    table = present.origins
    records = _claims(present, wanted, concerned, vip_rows)
    places = ends.place(table["end"], records["end"])
    leaving = np.isin(table["vip"], concerned) & (table["end"] > GONE)
    leaving[places] = False
    gone = _gone(table, places, records["end"], np.flatnonzero(leaving))
    held = table[places]
    changed = differs(held, records)
    last = changed & (records["cut"] != 0)
    then = changed & ~last & (held["end"] == records["end"]) & (held["vip_row"] != records["vip_row"])
    first = changed & ~last & ~then
    in_turn = [list(_part("origins", places[part], records[part])) for part in (first, then, last)]
    return _Origins(in_turn[0], in_turn[1], in_turn[2], list(_part("origins", *gone)))


def _claims(
    present: Present, wanted: list[VipTables], concerned: NDArray[np.int64], vip_rows: Mapping[int, int]
) -> Records:
    """Return whose each end is that these VIPs want or leave: a server that is cut yields to any other."""
    table = present.origins
    parts = [np.zeros(0, ORIGIN)]
    for tables in wanted:
        part = tables.origins.copy()
        part["vip_row"] = vip_rows[tables.index]
        parts.append(part)
    claims = np.concatenate([*parts, _cut_elsewhere(present, concerned)])
    if not len(claims):
        return claims
    held = ends.find(table["end"], claims["end"])
    by_others = (held >= 0) & ~np.isin(table["vip"][held], concerned) & (table["cut"][held] == 0)
    claims = claims[~(by_others & (claims["cut"] != 0))]
    order = np.argsort(claims["cut"] == 0, kind="stable")[::-1]  # those that are cut come last
    _, winners = np.unique(claims["end"][order], return_index=True)
    chosen: Records = claims[order[winners]]
    return chosen


def _cut_elsewhere(present: Present, concerned: NDArray[np.int64]) -> Records:
    """Return the ends of servers of other VIPs that are cut, whose packets may have been for these VIPs."""
    parts = [np.zeros(0, ORIGIN)]
    rows = np.flatnonzero(present.servers["state"] == CUT)
    rows = rows[~np.isin(rows // SERVER_IDS, concerned)]
    live = np.flatnonzero(present.vips["end"] > GONE)
    places = dict(zip(present.vips["index"][live].tolist(), live.tolist(), strict=True))
    for index in np.unique(rows // SERVER_IDS).tolist():
        if index not in places:
            continue
        own = rows[rows // SERVER_IDS == index]
        protocol = int(present.vips["protocol"][places[index]])
        part = origins_of(
            index, protocol, own % SERVER_IDS, present.servers[own], present.server_addresses[own]
        )
        part["vip_row"] = places[index]
        parts.append(part)
    return np.concatenate(parts)


def _links(present: Present, links: Mapping[int, Link] | None) -> Iterator[Write]:
    rows = link_rows(links or {})
    changed = [key for key, row in rows.items() if present.links.get(key) != row]
    yield Write("links", changed, [rows[key] for key in changed])


def _links_gone(present: Present, links: Mapping[int, Link] | None) -> Iterator[Write]:
    if links is not None:
        gone = [key for key in present.links if key not in links]
        yield Write("links", gone, [None] * len(gone))


def _direct_there(present: Present, direct: frozenset[Network] | None) -> Iterator[Write]:
    new = sorted((direct or frozenset()) - present.direct, key=str)
    yield Write("direct", new, [True] * len(new))


def _direct_gone(present: Present, direct: frozenset[Network] | None) -> Iterator[Write]:
    if direct is not None:
        gone = sorted(present.direct - direct, key=str)
        yield Write("direct", gone, [False] * len(gone))
