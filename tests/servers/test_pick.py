# SPDX-License-Identifier: Apache-2.0
"""That these picks are the program's is shown in tests/bpf/test_policies.py."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers import maglev
from poise.servers.model import Policy
from poise.servers.pick import Live, Pool, drawn, pick, random_number
from poise.servers.schedule import schedule

LIVES = st.builds(Live, *[st.integers(0, 0xFFFFFFFF)] * 4)
POOL = Pool((1, 2, 3, 4), (1, 2, 3, 4), maglev.table({1: 1, 2: 1, 3: 1, 4: 1}), hot_above=50)
NUMBERS = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize("policy", Policy)
@given(lives=st.dictionaries(st.integers(1, 4), LIVES), number=NUMBERS, ready=st.sets(st.integers(1, 6)))
def test_only_who_takes_connections_is_picked(
    policy: Policy, lives: dict[int, Live], number: int, ready: set[int]
) -> None:
    """Some server of the pool that takes connections, as long as there is one."""
    picked = pick(policy, POOL, lives, hash=number, turn=number >> 32, ready=ready)
    assert picked in ready & set(POOL.ids) if ready & set(POOL.ids) else picked is None


@given(lives=st.fixed_dictionaries(dict.fromkeys(POOL.ids, LIVES)), turn=st.integers(0, 0xFFFFFFFF))
def test_least_loaded_is_the_least_loaded(lives: dict[int, Live], turn: int) -> None:
    """No server has less load in effect than the one that is picked."""
    picked = pick(Policy.LEAST_LOADED, POOL, lives, turn=turn)
    assert picked
    assert lives[picked].in_effect == min(live.in_effect for live in lives.values())


@given(lives=st.fixed_dictionaries(dict.fromkeys(POOL.ids, LIVES)), number=NUMBERS)
def test_of_two_the_one_with_less_load_is_picked(lives: dict[int, Live], number: int) -> None:
    """And never one that was not drawn."""
    two = drawn(POOL, random_number(number, 0))
    picked = pick(Policy.POWER_OF_TWO, POOL, lives, hash=number)
    assert picked in two
    assert lives[picked].in_effect == min(lives[server].in_effect for server in two)


HOT, COLD = Live(load=51), Live(load=50)


@pytest.mark.parametrize(
    ("lives", "best"),
    [
        ((HOT._replace(latency=1), COLD._replace(latency=900)), 1),
        ((COLD._replace(latency=9), Live(load=0, latency=10)), 0),
        ((HOT, Live(load=60, latency=1)), 0),
        ((COLD, Live(load=3, latency=900)), 1),
        ((Live(load=40, step=11, placed=1), COLD), 1),
    ],
    ids=[
        "cold before hot",
        "the faster of two cold",
        "the less loaded of two hot",
        "by load without latency",
        "what was placed makes hot",
    ],
)
def test_prequal(lives: tuple[Live, Live], best: int) -> None:
    """Hot or cold first, then latency among the cold, else load."""
    pool = Pool((0, 1), (0, 1), hot_above=50)
    picks = {
        pick(Policy.PREQUAL, pool, dict(enumerate(lives)), hash=number, random=number)
        for number in (1 << 31, 1 << 63)  # draws both, in each order
    }
    assert picks == {best}


def test_random_picks_follow_the_schedule() -> None:
    """Servers are drawn as often as they have turns."""
    weights = {1: 1, 2: 3, 3: 6}
    pool = Pool((1, 2, 3), schedule(weights))
    draws = [drawn(pool, random_number(7 << 40, isn)) for isn in range(20_000)]
    for got in (Counter(first for first, _ in draws), Counter(second for _, second in draws)):
        for server, weight in weights.items():
            assert abs(got[server] - weight * 2000) < 500


def test_nobody_is_picked_from_an_empty_pool() -> None:
    """Of any policy."""
    assert {pick(policy, Pool(), {}) for policy in Policy} == {None}
