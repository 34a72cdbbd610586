# SPDX-License-Identifier: Apache-2.0
"""A weighted Maglev table: which server the hash of a flow stands for.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Each
server walks through the rows in an order of its own and takes the next one that is free; those with a
larger weight take more of them in a round. When servers come and go, most rows stay with whom they were.
"""

from collections.abc import Mapping

from poise.servers.cookie import siphash

ROWS = 16381  # MAGLEV_ROWS of contract.h; a prime, so that any stride visits every row
_KEY = bytes(16)  # nothing here is secret, but every balancer should make the same table


def table(weights: Mapping[int, int]) -> tuple[int, ...]:
    """Return the server id of each of ROWS rows; all 0 if there are no servers.

    weights: by server id, at least 1. Rows are in proportion to them.
    """
    if not weights:
        return (0,) * ROWS
    walks = {server: _walk(server) for server in weights}
    largest = max(weights.values())
    credit = dict.fromkeys(weights, 0)
    rows = [-1] * ROWS
    left = ROWS
    while True:
        for server, weight in weights.items():
            credit[server] += weight
            if credit[server] < largest:
                continue
            credit[server] -= largest
            row, stride = walks[server]
            while rows[row] >= 0:
                row = (row + stride) % ROWS
            rows[row] = server
            walks[server] = ((row + stride) % ROWS, stride)
            left -= 1
            if not left:
                return tuple(rows)


def _walk(server: int) -> tuple[int, int]:
    """Return a server's first row and its stride."""
    number = siphash(_KEY, server.to_bytes(8, "little"))
    return (number & 0xFFFFFFFF) % ROWS, (number >> 32) % (ROWS - 1) + 1
