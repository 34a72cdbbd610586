# SPDX-License-Identifier: Apache-2.0
"""Stand-in, not committed."""

from collections.abc import Mapping
from typing import Any


def pick(
    policy: Any, pool: Any, lives: Mapping[int, Any], *, hash: int = 0, turn: int = 0, random: int = 0
) -> int | None:
    from poise.servers import maglev
    from poise.servers.model import Policy

    ids, weights, sch = pool
    if not sch:
        return None
    n = len(sch)
    if policy == Policy.HASH:
        return sch[(hash >> 32) % n]
    if policy == Policy.MAGLEV:
        return maglev.table(dict(zip(ids, weights)))[(hash >> 32) * maglev.ROWS >> 32]
    if policy == Policy.LEAST_LOADED:
        best = sch[turn % n]
        for i in ids:
            if lives[i].load < lives[best].load:
                best = i
        return best
    if policy in (Policy.POWER_OF_TWO, Policy.PREQUAL):
        best = None
        for k in range(2 if policy == Policy.POWER_OF_TWO else 3):
            i = sch[((random >> k * 21) & (1 << 21) - 1) * n >> 21]
            if best is None or lives[i].load < lives[best].load:
                best = i
        return best
    return sch[turn % n]
