# SPDX-License-Identifier: Apache-2.0
"""What the packet side remembers, carried from a table into one of another size or layout.

Everything is carried twice: into the new table before any program uses it, and after the last program has
left the former one, what changed there in between.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.kernel.maps import Map
from poise.kernel.records import Records, converted, octets
from poise.servers import carrying_connections as connections
from poise.servers import carrying_handshakes as handshakes

COUNTERS: Final = ("traffic", "events", "open_connections")
ROWS: Final = ("turns", "lives", "server_clocks", "samples")
FLOWS: Final = ("flows", "fragments")
REMEMBERED: Final = (*COUNTERS, *ROWS, *FLOWS, "handshakes", "connections")

Carried = Records | frozenset[bytes]
"""What a former table held when it was carried."""


def carry(name: str, former: Map, fresh: Map, vips: Records) -> Carried:
    """Fill a new table, which no program uses yet; returns what `follow` needs.

    vips: the rows of all VIPs, for the hashes of their flows.
    """
    if name in FLOWS:
        keys, values = former.elements()
        fresh.put(keys, values)
        return _packed(keys, values)
    rows = former.rows()
    if name == "handshakes":
        handshakes.fill(rows, fresh)
    elif name == "connections":
        connections.fill(rows, fresh, vips)
    else:
        common = rows[: fresh.max_entries]
        used = np.flatnonzero(octets(common).any(axis=1))
        fresh.write_rows(used, converted(common[used], fresh.dtype, partly=True))
    return rows


def follow(name: str, former: Map, fresh: Map, carried: Carried | None, vips: Records) -> None:
    """Carry what changed in the former table since; carried: None if that is not known any more."""
    if name in FLOWS:
        keys, values = former.elements()
        known = carried if isinstance(carried, frozenset) else frozenset()
        new = np.array([each not in known for each in _packed_list(keys, values)], np.bool_)
        fresh.put_new(keys[new], values[new])
        return
    rows = former.rows()
    before = carried if isinstance(carried, np.ndarray) else None
    if name == "handshakes":
        handshakes.follow(rows, before, fresh)
    elif name == "connections":
        connections.follow(rows, before, fresh, vips)
    elif before is None:
        return  # to count it twice would be worse than not to
    elif name in COUNTERS:
        _add(rows, before, fresh)
    else:
        _replace(rows, before, fresh)


def _packed_list(keys: Records, values: Records) -> list[bytes]:
    return [key.tobytes() + value.tobytes() for key, value in zip(octets(keys), octets(values), strict=True)]


def _packed(keys: Records, values: Records) -> frozenset[bytes]:
    return frozenset(_packed_list(keys, values))


def _add(rows: Records, before: Records, fresh: Map) -> None:
    """Add what was counted since, of each CPU to the same CPU's."""
    changed = _changed(rows, before)
    for row in changed[changed < fresh.max_entries].tolist():
        sums = fresh.rows(row, 1)
        more, less = (
            converted(np.atleast_1d(each[row]), fresh.dtype, partly=True) for each in (rows, before)
        )
        if fresh.dtype.names is None:
            sums += more - less
        else:
            for name in fresh.dtype.names:
                sums[name] += more[name] - less[name]
        fresh.write_rows(np.array([row]), sums)


def _replace(rows: Records, before: Records, fresh: Map) -> None:
    """Copy rows that changed in the former table, and not yet in the new one."""
    changed = _changed(rows, before)
    changed = changed[changed < fresh.max_entries]
    present = fresh.rows()
    untouched = ~(
        octets(present[changed]) != octets(converted(before[changed], fresh.dtype, partly=True))
    ).any(axis=1)
    due = changed[untouched]
    fresh.write_rows(due, converted(rows[due], fresh.dtype, partly=True))


def _changed(rows: Records, before: Records) -> NDArray[np.intp]:
    return np.flatnonzero((octets(rows) != octets(before)).any(axis=1))
