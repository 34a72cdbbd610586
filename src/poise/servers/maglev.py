# SPDX-License-Identifier: Apache-2.0
"""A weighted Maglev table: which server the hash of a flow stands for.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Each
server walks through the rows in an order of its own and takes the next one that is free; those with a
larger weight take more of them in a round. When servers come and go, most rows stay with whom they were.
"""

from collections.abc import Mapping
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from poise.servers.cookie import siphash

ROWS = 16381  # MAGLEV_ROWS of contract.h; a prime, so that any stride visits every row
_KEY = bytes(16)  # nothing here is secret, but every balancer should make the same table


def table(weights: Mapping[int, int]) -> tuple[int, ...]:
    """Return the server id of each of ROWS rows; all 0 if there are no servers.

    weights: by server id, at least 1. Rows are in proportion to them. What was asked for lately is at hand.
    """
    return _table(tuple(sorted(weights.items())))


@lru_cache(maxsize=64)
def _table(weights: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    if not weights:
        return (0,) * ROWS
    servers = [(server, *_walk(server)) for server, _ in weights]
    next_rows = [row for _, row, _ in servers]
    rows = [-1] * ROWS
    for place in _turns(np.array([weight for _, weight in weights])):
        server, _, stride = servers[place]
        row = next_rows[place]
        while rows[row] >= 0:
            row += stride
            if row >= ROWS:
                row -= ROWS
        rows[row] = server
        next_rows[place] = row
    return tuple(rows)


def _turns(weights: NDArray[np.int64]) -> list[int]:
    """Return who takes each of the ROWS rows, by place in `weights`.

    In each round a server saves up its weight, and takes a row when it has the largest weight together: its
    k-th one in round ceil(k × largest / weight).
    """
    largest = int(weights.max())
    # No fewer than it gets: what each has saved up in the end may be worth almost a row.
    counts = (ROWS + len(weights)) * weights // int(weights.sum()) + 2
    places = np.repeat(np.arange(len(weights)), counts)
    numbers = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    rounds = -(-numbers * largest // weights[places])
    order: list[int] = places[np.lexsort((places, rounds))][:ROWS].tolist()
    return order


@cache
def _walk(server: int) -> tuple[int, int]:
    """Return a server's first row and its stride."""
    number = siphash(_KEY, server.to_bytes(8, "little"))
    return (number & 0xFFFFFFFF) % ROWS, (number >> 32) % (ROWS - 1) + 1
