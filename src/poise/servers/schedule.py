# SPDX-License-Identifier: Apache-2.0
"""In which order the servers of a pool take new connections, and which shares AWRR gives them.

Pure, as decide.py.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

TURNS: Final = 4096  # MAX_SCHEDULE of contract.h
_FINEST: Final = 256  # a share is told from another one to this part of the smallest one, if turns are left
# Of AWRR: Barbette et al., "A High-Speed Load-Balancer Design", NSDI 2020, and its source.
_USUAL, _FEWEST, _MOST = 10, 2, 30


def schedule(shares: Mapping[int, float]) -> tuple[int, ...]:
    """Return the order of the turns of servers, by their ids: each as often as its share, spread evenly.

    shares: above 0, in any unit; servers without a share get no turn, all others at least one. At most
    4096 turns: shares are met to one turn in the whole. Raises ValueError for more than 4096 servers.
    """
    usable = {server: share for server, share in shares.items() if share > 0}
    return _schedule(tuple(sorted(usable.items())))


@lru_cache(maxsize=128)
def _schedule(shares: tuple[tuple[int, float], ...]) -> tuple[int, ...]:
    turns = _turns(dict(shares))
    if len(set(turns.values())) <= 1:
        return tuple(turns)
    # Turn k of a server that has n is due in the middle of the k-th of n equal parts of a round.
    due = [
        ((2 * turn + 1) / (2 * number), -number, server)
        for server, number in turns.items()
        for turn in range(number)
    ]
    due.sort()
    return tuple(server for _, _, server in due)


def _turns(shares: Mapping[int, float]) -> dict[int, int]:
    """Return how many turns each server has: the fewest that meet the shares, else 4096 in all."""
    if not shares:
        return {}
    if len(shares) > TURNS:
        msg = f"{len(shares)} servers do not fit {TURNS} turns"
        raise ValueError(msg)
    if all(float(share).is_integer() for share in shares.values()):
        divisor = math.gcd(*(int(share) for share in shares.values()))
        exact = {server: int(share) // divisor for server, share in shares.items()}
        if sum(exact.values()) <= TURNS:
            return exact
    smallest, total = min(shares.values()), math.fsum(shares.values())
    wanted = min(TURNS, max(len(shares), round(total / smallest * _FINEST)))
    return _apportioned(shares, total, wanted)


def _apportioned(shares: Mapping[int, float], total: float, turns: int) -> dict[int, int]:
    """Give each server the whole turns of its share, at least one; the largest remainders get the rest."""
    exact = {server: share / total * turns for server, share in shares.items()}
    given = {server: max(1, math.floor(number)) for server, number in exact.items()}
    left = turns - sum(given.values())
    by_remainder = sorted(exact, key=lambda server: given[server] - exact[server])
    for server in by_remainder[: max(0, left)]:
        given[server] += 1
    # Those that were given more than their share have it from those with the most turns.
    for _ in range(-left):
        given[max(given, key=lambda server: (given[server], server))] -= 1
    return given


def awrr_shares(
    loads: Mapping[int, float], weights: Mapping[int, float] | None = None, alpha: float = 0.0
) -> dict[int, float]:
    """Return the shares of AWRR by server id, from 2 to 30 where 10 is usual, times the weight.

    loads: of the servers that take connections and of no others, per weight, 0 or more, in any unit.
    weights: by server id, 1 if left out. alpha: from 0 to 1, how much of each load the average stands for.
    Source: Barbette et al., NSDI 2020, section 5.
    """
    average = math.fsum(loads.values()) / len(loads) if loads else 0.0
    return {
        server: _awrr(load, average, alpha) * (weights or {}).get(server, 1) for server, load in loads.items()
    }


def _awrr(load: float, average: float, alpha: float) -> float:
    if load <= 0:
        return _MOST
    share = _USUAL * average / ((1 - alpha) * load + alpha * average)
    return min(_MOST, max(_FEWEST, share))
