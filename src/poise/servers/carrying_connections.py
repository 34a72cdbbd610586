# SPDX-License-Identifier: Apache-2.0
"""The connections of stateful VIPs, carried into a table of another size or layout: see connections.h.

A connection keeps its slot, which its timestamps carry, unless in a table of fewer rows two meet there. Its
row is known from the hash of its flow.
"""

from collections.abc import Iterator
from ipaddress import IPv6Address

import numpy as np
from numpy.typing import NDArray

from poise.kernel.maps import Map
from poise.kernel.records import Records, converted, octets
from poise.servers import cookie
from poise.servers.ends import GONE

_ANSWERED, _ESTABLISHED, _CLIENT_FIN, _SERVER_FIN, _CLOSED = 2, 4, 16, 32, 64  # enum connection_flags
_FINS = _CLIENT_FIN | _SERVER_FIN
_PLACE_GONE = 1
# What tells that something has come to pass; all the rest only counts.
_TELLING = ("who", "isn", "first_tsval", "last_tsval")
_LINES, _PLACES, _SLOTS = 32, 32, 512  # INDEX_LINES, LINE_PLACES, ROW_SLOTS


def fill(rows: Records, before: Records | None, fresh: Map, vips: Records) -> None:
    """Bring connections into a table that no program uses yet; before: those that were brought already."""
    if len(rows) == fresh.max_entries:
        changed = np.arange(len(rows))
        if before is not None:
            changed = np.flatnonzero((octets(rows) != octets(before)).any(axis=1))
        found = converted(rows[changed], fresh.dtype, partly=True)
        _turn_queues(found)
        fresh.write_rows(changed, found)
    else:
        follow(rows, before, fresh, vips)


def _turn_queues(rows: Records) -> None:
    """Have the new table give out other free slots first than the former one, which goes on for a moment."""
    at = (rows["head"].astype(np.intp)[:, None] + np.arange(_SLOTS)) % _SLOTS
    length = _SLOTS - rows["taken"].astype(np.intp)[:, None]
    place = np.arange(_SLOTS)[None, :]
    source = np.where(place < length, (place + length // 2) % np.maximum(length, 1), place)
    number = np.arange(len(rows))[:, None]
    slots = rows["queue"][number, at] ^ at
    rows["queue"][number, at] = slots[number, source] ^ at


def follow(rows: Records, before: Records | None, fresh: Map, vips: Records) -> None:
    """Enter what is new in the former table, or has changed there, while programs use the new one."""
    connections = rows["connections"]
    changed = connections["who"] != 0
    if before is not None:
        same = np.ones(changed.shape, np.bool_)
        for name in _TELLING:
            same &= connections[name] == before["connections"][name]
        changed &= ~same
    where = zip(*np.nonzero(changed), strict=True)
    of_rows: dict[int, list[tuple[int, int]]] = {}
    for row, slot, target in _targets(rows, where, fresh.max_entries, vips):
        of_rows.setdefault(target, []).append((row, slot))
    for target, found in of_rows.items():
        origins = converted(
            np.array([rows["origins"][row, slot] for row, slot in found]),
            fresh.dtype["origins"].base,
            partly=True,
        )
        with fresh.changing(target) as record:
            for (row, slot), origin in zip(found, origins, strict=True):
                _enter(record, slot, connections[row, slot], origin)


def _targets(
    rows: Records, where: "zip[tuple[np.intp, ...]]", size: int, vips: Records
) -> Iterator[tuple[int, int, int]]:
    """Yield row and slot of each connection, and its row in a table of so many rows."""
    live = vips[vips["end"] > GONE]
    states = {int(vip["index"]): tuple(vip["hash_state"].tolist()) for vip in live}
    for row, slot in where:
        if len(rows) == size:
            yield int(row), int(slot), int(row)
            continue
        flow = rows["origins"][row, slot]["flow"]
        client = IPv6Address(flow["client"]["word"].astype(">u4").tobytes())
        state = states.get(int(flow["vip"]))
        if state is None:
            continue
        v0, v1, v2, v3 = state
        found = cookie.resumed_hash((v0, v1, v2, v3), client.ipv4_mapped or client, int(flow["port"]))
        if found >> 32 == int(rows["connections"][row, slot]["who"]) >> 32:
            yield int(row), int(slot), (found >> 9) % size


def _enter(record: Records, slot: int, connection: Records, origin: Records) -> None:
    """Write one connection into its slot of a row, or into a free one if an established one has it."""
    slots, index = record["connections"][0], record["index"][0]
    who, held = int(connection["who"]), int(slots["who"][slot])
    fingerprint = who >> 32
    if held and held >> 32 == fingerprint:
        _merge(slots[slot], connection)
        return
    if _is_known(record, fingerprint):
        return
    if held & _ESTABLISHED:
        free = np.flatnonzero(slots["who"] == 0)
        if not len(free) or not who & _ESTABLISHED:
            return
        slot, held = int(free[len(free) // 2]), 0  # what its timestamps do not lead to, the index does
    if not _put_into_index(index, fingerprint, slot):
        return
    if held:
        index[[place for place in _line(held >> 32) if index[place] == _entry(held >> 32, slot)]] = (
            _PLACE_GONE
        )
    names = set(slots.dtype.names or ()) & set(connection.dtype.names or ())
    _copy(slots[slot], connection, names - {"who", "taken"})
    record["origins"][0, slot] = origin
    slots["who"][slot] = who


def _merge(held: Records, connection: Records) -> None:
    """Note in a connection what happened to it according to the former table."""
    if not int(held["who"]) & _ANSWERED:
        _copy(held, connection, {"isn", "first_tsval", "last_tsval", "awaited"})
    who = int(held["who"]) | int(connection["who"]) & 0xFFFF
    if who & _CLOSED or who & _FINS == _FINS:
        who &= ~_ESTABLISHED
    held["who"] = who


def _copy(to: Records, source: Records, names: set[str]) -> None:
    for name in names:
        to[name] = source[name]


def _is_known(record: Records, fingerprint: int) -> bool:
    """Whether the row has the connection in another slot: programs have met it since."""
    places = record["index"][0, list(_line(fingerprint))]
    held = record["connections"]["who"][0, places[places > _PLACE_GONE] % _SLOTS]
    return bool(np.any(held >> np.uint64(32) == fingerprint))


def _put_into_index(index: NDArray[np.uint16], fingerprint: int, slot: int) -> bool:
    """Enter a slot in its line of the index; False if the line is full."""
    for place in _line(fingerprint):
        if index[place] <= _PLACE_GONE:
            index[place] = _entry(fingerprint, slot)
            return True
    return False


def _line(fingerprint: int) -> Iterator[int]:
    """Yield the places of the index where a connection may stand, as index_place() does."""
    for step in range(_PLACES):
        yield fingerprint % _LINES * _PLACES + (fingerprint // _LINES + step) % _PLACES


def _entry(fingerprint: int, slot: int) -> int:
    """Return what stands there, as index_entry() does."""
    return ((fingerprint >> 10 | 1) << 9 | slot) & 0xFFFF
