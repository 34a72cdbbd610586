# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.servers.schedule import TURNS, awrr_shares, schedule

IDS = st.integers(0, 511)
WEIGHTS = st.dictionaries(IDS, st.integers(1, 255), max_size=512)
SHARES = st.dictionaries(IDS, st.floats(0.1, 255), min_size=1, max_size=512)


@given(WEIGHTS)
def test_each_server_has_as_many_turns_as_its_weight_says(weights: dict[int, int]) -> None:
    """Weights that fit are met exactly; others to a turn, and nobody is left out."""
    order = schedule(weights)
    turns = Counter(order)
    total = sum(weights.values())
    assert set(turns) == set(weights)
    assert len(order) <= TURNS
    if total <= TURNS:
        assert all(turns[server] * total == weight * len(order) for server, weight in weights.items())
    else:
        short = [server for server in weights if turns[server] == 1]
        for server, weight in weights.items():
            assert turns[server] >= 1
            assert turns[server] <= weight / total * TURNS + 1
            assert turns[server] >= weight / total * TURNS - 1 - len(short)


@settings(max_examples=50)
@given(SHARES)
def test_fractions_are_met_too(shares: dict[int, float]) -> None:
    """Shares that are no whole numbers are met to a turn, or to a part in 256 of the smallest one."""
    turns = Counter(schedule(shares))
    total, number = sum(shares.values()), sum(turns.values())
    assert set(turns) == set(shares)
    assert number <= TURNS
    ones = sum(count == 1 for count in turns.values())
    for server, share in shares.items():
        assert abs(turns[server] - share / total * number) <= 1 + ones


@given(WEIGHTS.filter(lambda weights: 0 < sum(weights.values()) <= TURNS))
def test_turns_are_spread(weights: dict[int, int]) -> None:
    """Between two turns of a server at most about twice as many others come as its share asks for."""
    order = schedule(weights)
    turns = Counter(order)
    last: dict[int, int] = {}
    for place, server in enumerate((*order, *order)):
        if server in last:
            assert place - last[server] <= 2 * len(order) / turns[server] + len(turns)
        last[server] = place


@given(WEIGHTS, st.permutations(range(512)))
def test_the_same_shares_have_the_same_schedule(weights: dict[int, int], order: list[int]) -> None:
    """In whichever order they are given, so that two balancers agree."""
    shuffled = {server: weights[server] for server in order if server in weights}
    assert schedule(shuffled) == schedule(weights)


def test_who_has_no_share_gets_no_turn() -> None:
    """A share of zero, and no servers at all."""
    assert schedule({}) == ()
    assert schedule({1: 0, 2: 0.0}) == ()
    assert set(schedule({1: 0, 2: 5, 3: 5})) == {2, 3}


def test_equal_servers_take_turns() -> None:
    """Plain round robin is one turn each, whatever the number is."""
    assert schedule({4: 1, 2: 1, 9: 1}) == (2, 4, 9)
    assert schedule({4: 0.3, 2: 0.3}) == (2, 4)
    assert schedule({4: 200, 2: 200}) == (2, 4)


def test_a_weight_of_three_to_one() -> None:
    """The heavy server does not take its turns in a row with those of the next round."""
    assert schedule({0: 3, 1: 1}) in {(0, 0, 1, 0), (0, 1, 0, 0)}


@pytest.mark.parametrize(
    ("loads", "alpha", "shares"),
    [
        ({1: 10, 2: 10}, 0.0, {1: 10, 2: 10}),
        ({1: 5, 2: 15}, 0.0, {1: 20, 2: 10 * 10 / 15}),
        ({1: 0, 2: 10}, 0.0, {1: 30, 2: 5}),
        ({1: 1, 2: 99}, 0.0, {1: 30, 2: 10 * 50 / 99}),
        ({1: 1, 2: 2, 3: 1000}, 0.0, {1: 30, 2: 30, 3: 10 * 1003 / 3 / 1000}),
        ({number: 1 if number else 10**6 for number in range(100)}, 0.0, None),
        ({1: 5, 2: 15}, 1.0, {1: 10, 2: 10}),
        ({1: 5, 2: 15}, 0.5, {1: 10 * 10 / 7.5, 2: 8}),
        ({1: 0, 2: 0}, 0.0, {1: 30, 2: 30}),
        ({}, 0.0, {}),
    ],
)
def test_the_formula_of_awrr(loads: dict[int, float], alpha: float, shares: dict[int, float] | None) -> None:
    """10 * average / ((1 - alpha) * load + alpha * average), from 2 to 30, and 30 for who has no load."""
    found = awrr_shares(loads, alpha=alpha)
    if shares is None:
        assert found[0] == 2
        assert found[1] == 30
    else:
        assert found == pytest.approx(shares)


def test_awrr_keeps_weights() -> None:
    """Servers that are equally loaded for their weight are served by weight."""
    assert awrr_shares({1: 7, 2: 7}, {1: 3}) == {1: 30, 2: 10}


@given(st.dictionaries(IDS, st.floats(0, 1e9), min_size=1))
def test_awrr_gives_a_share_to_each_and_to_nobody_else(loads: dict[int, float]) -> None:
    """Who is not asked about gets nothing; of two servers the one with more load never gets more."""
    shares = awrr_shares(loads)
    assert set(shares) == set(loads)
    assert all(2 <= share <= 30 for share in shares.values())
    by_load = sorted(loads, key=lambda server: loads[server])
    assert all(shares[one] >= shares[two] for one, two in pairwise(by_load))
