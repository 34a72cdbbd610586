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
_MAPPABLE: Final = ("handshakes", "samples", "lives", "open_connections")
REMEMBERED: Final = ("connections", "handshakes", *FLOWS, *ROWS, *COUNTERS)

Carried = Records | frozenset[bytes]
"""What a former table held when it was carried."""


def carry(name: str, former: Map, fresh: Map, carried: Carried | None, vips: Records) -> Carried:
    """Bring what a table holds into a new one, which no program uses yet; returns it, for the next time.

    carried: what was brought there already. vips: the rows of all VIPs, for the hashes of their flows.
    """
    if name in FLOWS:
        return _carry_flows(former, fresh, carried)
    rows = former.view().copy() if name in _MAPPABLE else former.rows()
    before = carried if isinstance(carried, np.ndarray) else None
    if name == "handshakes":
        handshakes.fill(rows, before, fresh)
    elif name == "connections":
        connections.fill(rows, before, fresh, vips)
    else:
        common = rows[: fresh.max_entries]
        used = np.flatnonzero(octets(common).any(axis=1))
        fresh.write_rows(used, converted(common[used], fresh.dtype, partly=True))
    return rows


def follow(name: str, former: Map, fresh: Map, carried: Carried | None, vips: Records) -> Carried:
    """Bring what changed in the former table since, while programs use the new one; see `carry`.

    carried: None if that is not known any more.
    """
    if name in FLOWS:
        return _carry_flows(former, fresh, carried)
    rows = former.view().copy() if name in _MAPPABLE else former.rows()
    before = carried if isinstance(carried, np.ndarray) else None
    if name == "handshakes":
        handshakes.follow(rows, before, fresh)
    elif name == "connections":
        connections.follow(rows, before, fresh, vips)
    elif before is not None:  # otherwise, to count it twice would be worse than not to
        (_add if name in COUNTERS else _replace)(rows, before, fresh)
    return rows


def _carry_flows(former: Map, fresh: Map, carried: Carried | None) -> frozenset[bytes]:
    keys, values = former.elements()
    packed = _packed_list(keys, values)
    if carried is None:
        fresh.put(keys, values)
    elif isinstance(carried, frozenset):
        new = np.array([each not in carried for each in packed], np.bool_)
        fresh.put_new(keys[new], values[new])
    return frozenset(packed)


def _packed_list(keys: Records, values: Records) -> list[bytes]:
    return [key.tobytes() + value.tobytes() for key, value in zip(octets(keys), octets(values), strict=True)]


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
