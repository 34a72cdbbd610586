# SPDX-License-Identifier: Apache-2.0
"""The table of recent handshakes, carried into one of another size: see handshake.h for its rows.

The low bits of a flow's hash are its row. A table of more rows gets each row wherever its flows may be
looked for, since fingerprints tell them apart; in one of fewer rows the newest of several are kept.
"""

import numpy as np
from numpy.typing import NDArray

from poise.kernel.maps import Map
from poise.kernel.records import Records, converted, octets

_ANSWERED = 2  # HANDSHAKE_ANSWERED
_MEMBERS = ("isn", "first_tsval", "last_tsval")


def fill(rows: Records, before: Records | None, fresh: Map) -> None:
    """Bring handshakes into a table that no program uses yet; before: those that were brought already."""
    found = converted(merged(rows, fresh.max_entries), fresh.dtype, partly=True)
    changed = np.arange(len(found))
    if before is not None:
        changed = np.flatnonzero((octets(rows) != octets(before)).any(axis=1)) % len(found)
        changed = np.unique(np.concatenate([changed + part for part in range(0, len(found), len(rows))]))
    fresh.view()[changed] = found[changed]


def merged(rows: Records, number: int) -> Records:
    """Return the same handshakes in so many rows; both numbers are powers of two."""
    if number >= len(rows):
        return rows[np.arange(number) % len(rows)]
    ways = rows["who"].shape[1]
    found, filled = np.zeros(number, rows.dtype), np.zeros(number, np.intp)
    for age in range(ways):
        for part in range(len(rows) // number):
            source = rows[part * number : (part + 1) * number]
            way = (source["next"].astype(np.intp) - 1 - age) % ways
            at = np.flatnonzero((source["who"][np.arange(number), way] != 0) & (filled < ways))
            # The newest stands in the last way, as that of `next` is the first to be overwritten.
            to = ways - 1 - filled[at]
            for name in ("who", *_MEMBERS):
                found[name][at, to] = source[name][at, way[at]]
            filled[at] += 1
    return found


def follow(rows: Records, before: Records | None, fresh: Map) -> None:
    """Enter the handshakes that are new in the former table, or were answered there."""
    changed = rows["who"] != 0
    if before is not None:
        same = rows["who"] == before["who"]
        for name in _MEMBERS:
            same &= rows[name] == before[name]
        changed &= ~same
    table = fresh.view()
    size = len(table)
    for row, way in zip(*np.nonzero(changed), strict=True):
        targets = range(row, size, len(rows)) if size >= len(rows) else (row % size,)
        for target in targets:
            _enter(table[target], rows[row], int(way))


def _enter(target: Records, source: Records, way: int) -> None:
    """Write one handshake into a row that programs may be using."""
    fingerprint = int(source["who"][way]) >> 32
    ways: NDArray[np.uint64] = target["who"]
    for at, who in enumerate(ways.tolist()):
        if who and who >> 32 == fingerprint:
            if not who & _ANSWERED:  # otherwise the new table knows better
                for name in _MEMBERS:
                    target[name][at] = source[name][way]
                ways[at] = source["who"][way]
            return
    at = int(target["next"]) % len(ways)
    target["next"] += 1
    for name in _MEMBERS:
        target[name][at] = source[name][way]
    ways[at] = source["who"][way]
