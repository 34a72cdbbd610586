# SPDX-License-Identifier: Apache-2.0
"""Which server a new connection gets: the counterpart of bpf/poise/select.h, pick for pick.

Pure, as decide.py.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from poise.servers.model import Policy

# MAX_TRIED, MAX_LOAD, RANK_LATENCY and HASH_FACTOR of bpf/poise
_TRIED = 8
_MAX_LOAD = 0xFFFFFFFF
_LATENCY = 0x3FFFFFFF
_HASH_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_HALF = (1 << 32) - 1


@dataclass(frozen=True)
class Pool:
    """Who takes new connections: struct pool and the Maglev table with the same number.

    hot_above: of the VIP, for Prequal.
    """

    ids: Sequence[int] = ()
    schedule: Sequence[int] = ()
    maglev: Sequence[int] = ()
    hot_above: int = 0


class Live(NamedTuple):
    """How busy a server is: struct live."""

    load: int = 0
    step: int = 0
    placed: int = 0
    latency: int = 0

    @property
    def in_effect(self) -> int:
        """The load that counts: as reported, and what was placed since."""
        return min(self.load + self.placed * self.step, _MAX_LOAD)


_IDLE = Live()


def random_number(flow_hash: int, isn: int) -> int:
    """Return the 64 random bits of a connection: from its flow's hash and the client's ISN."""
    number = (flow_hash ^ isn * _HASH_FACTOR & _MASK) * _HASH_FACTOR & _MASK
    return number ^ number >> 32


def pick(
    policy: Policy,
    pool: Pool,
    lives: Mapping[int, Live],
    *,
    hash: int = 0,  # noqa: A002  of the flow
    turn: int = 0,
    random: int | None = None,
    ready: Collection[int] | None = None,
) -> int | None:
    """Return the id of the server of a new connection, or None if no server takes any.

    hash: of the flow. turn: of the VIP, before the pick. random: see random_number(), that of ISN 0 if
    left out. ready: who takes connections, None for all; others may be in the pool while it changes.
    """
    turns = len(pool.schedule)
    if not turns:
        return None
    random = random_number(hash, 0) if random is None else random
    upper = hash >> 32
    match policy:
        case Policy.HASH:
            turn = upper % turns
            chosen = pool.schedule[turn]
        case Policy.MAGLEV:
            turn = upper % turns
            chosen = pool.maglev[upper * len(pool.maglev) >> 32]
        case Policy.POWER_OF_TWO | Policy.PREQUAL:
            turn = upper
            chosen = _of_two(policy, pool, lives, random)
        case Policy.LEAST_LOADED:
            chosen = _least(pool, lives, turn)
        case _:
            chosen = pool.schedule[turn % turns]
    if ready is None or chosen in ready:
        return chosen
    return _next_ready(pool, turn + 1 & 0xFFFFFFFF, ready)


def _next_ready(pool: Pool, turn: int, ready: Collection[int]) -> int | None:
    tried = [pool.schedule[(turn + number) % 2**32 % len(pool.schedule)] for number in range(_TRIED)]
    return next((server for server in (*tried, *pool.ids) if server in ready), None)


def _least(pool: Pool, lives: Mapping[int, Live], turn: int) -> int:
    """Return the least loaded; among equals whose turn it is, or the first."""
    chosen = pool.schedule[turn % len(pool.schedule)]
    return min((chosen, *pool.ids), key=lambda server: lives.get(server, _IDLE).in_effect)


def _of_two(policy: Policy, pool: Pool, lives: Mapping[int, Live], random: int) -> int:
    """Return the better one of two random turns; among equals the first."""
    first, second = drawn(pool, random)
    one, other = lives.get(first, _IDLE), lives.get(second, _IDLE)
    if policy == Policy.PREQUAL:
        return second if _is_better(other, one, pool.hot_above) else first
    return second if other.in_effect < one.in_effect else first


def drawn(pool: Pool, random: int) -> tuple[int, int]:
    """Return the two servers that a random number draws: each half of it one turn."""
    turns = len(pool.schedule)
    return pool.schedule[(random & _HALF) * turns >> 32], pool.schedule[(random >> 32) * turns >> 32]


def _is_better(one: Live, other: Live, hot_above: int) -> bool:
    by_latency = bool(one.latency and other.latency)
    return _rank(one, hot_above, by_latency=by_latency) < _rank(other, hot_above, by_latency=by_latency)


def _rank(live: Live, hot_above: int, *, by_latency: bool) -> tuple[bool, int, int]:
    hot = live.in_effect > hot_above
    latency = live.latency & _LATENCY if by_latency and not hot else 0
    return hot, latency, live.in_effect
