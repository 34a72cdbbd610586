# SPDX-License-Identifier: Apache-2.0
"""A weighted Maglev table: which server the hash of a flow stands for.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Each
server walks through the rows in an order of its own and takes the next one that is free; those with a
larger weight take more of them in a round. When servers come and go, most rows stay with whom they were.
"""

from collections.abc import Mapping
from functools import cache, lru_cache

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
    largest = max(weight for _, weight in weights)
    servers = [(server, weight, *_walk(server)) for server, weight in weights]
    saved = [0] * len(servers)
    next_rows = [row for _, _, row, _ in servers]
    rows = [-1] * ROWS
    left = ROWS
    while True:
        for place, (server, weight, _, stride) in enumerate(servers):
            credit = saved[place] + weight
            if credit < largest:
                saved[place] = credit
                continue
            saved[place] = credit - largest
            row = next_rows[place]
            while rows[row] >= 0:
                row += stride
                if row >= ROWS:
                    row -= ROWS
            rows[row] = server
            next_rows[place] = row
            left -= 1
            if not left:
                return tuple(rows)


@cache
def _walk(server: int) -> tuple[int, int]:
    """Return a server's first row and its stride."""
    number = siphash(_KEY, server.to_bytes(8, "little"))
    return (number & 0xFFFFFFFF) % ROWS, (number >> 32) % (ROWS - 1) + 1
