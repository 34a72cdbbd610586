# SPDX-License-Identifier: Apache-2.0
from math import lcm

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.servers import maglev
from poise.servers.model import Policy
from poise.servers.moved import moved
from poise.servers.schedule import schedule
from poise.servers.standing import Choice

ROUND_ROBIN, HASH, MAGLEV = Policy.ROUND_ROBIN, Policy.HASH, Policy.MAGLEV

weights = st.dictionaries(st.integers(0, 20), st.integers(1, 4), max_size=5)
choices = weights.map(
    lambda weights: Choice({id_: float(weight) for id_, weight in weights.items()}, weights)
)
policies = st.sampled_from(list(Policy))


def of(*weights: int) -> Choice:
    """Servers 1, 2, ... with these weights."""
    return choice_of(dict(enumerate(weights, 1)))


def choice_of(weights: dict[int, int]) -> Choice:
    """Servers with weights by id."""
    return Choice({number: float(weight) for number, weight in weights.items()}, weights)


@given(policies, choices)
@settings(deadline=None)
def test_the_same_choice_moves_nothing(policy: Policy, choice: Choice) -> None:
    """A change that leaves the choice alone moves no flow."""
    assert moved(policy, choice, policy, choice) == 0


@given(policies, choices, policies, choices)
@settings(deadline=None)
def test_there_and_back_moves_as_much(
    policy: Policy, choice: Choice, other_policy: Policy, other: Choice
) -> None:
    """The share that moves is the same in both directions, and between none and all of the flows."""
    there = moved(policy, choice, other_policy, other)
    assert there == pytest.approx(moved(other_policy, other, policy, choice))
    assert -1e-9 <= there <= 1 + 1e-9


@given(st.sampled_from(list(Policy)), weights, weights)
@settings(deadline=None)
def test_at_least_what_shares_demand_moves(
    policy: Policy, before: dict[int, int], after: dict[int, int]
) -> None:
    """If a server has another share than before, at least the difference of its flows has moved."""
    if not before or not after:
        return
    choice, other = choice_of(before), choice_of(after)
    share = moved(policy, choice, policy, other)
    rows = len(before) / maglev.ROWS  # a table of Maglev has whole rows
    for server in before.keys() | after.keys():
        was, now = (each.get(server, 0) / sum(each.values()) for each in (before, after))
        assert share >= abs(was - now) - 2 * rows


@given(weights, weights)
@settings(deadline=None)
def test_of_hash_the_share_is_that_of_all_hashes(before: dict[int, int], after: dict[int, int]) -> None:
    """Counting over all hashes of one period of both tables gives the same."""
    if not before or not after:
        return
    choice, other = choice_of(before), choice_of(after)
    one, two = schedule(choice.shares), schedule(other.shares)
    period = lcm(len(one), len(two))
    counted = sum(one[number % len(one)] != two[number % len(two)] for number in range(period)) / period
    assert moved(HASH, choice, HASH, other) == pytest.approx(counted)


def test_of_maglev_little_more_than_the_removed_servers_share_moves() -> None:
    """Flows of a server that is removed must move; of the others, few do. Of hash, most do."""
    ten = Choice(dict.fromkeys(range(10), 1.0), dict.fromkeys(range(10), 1))
    nine = Choice(dict.fromkeys(range(9), 1.0), dict.fromkeys(range(9), 1))
    share = moved(MAGLEV, ten, MAGLEV, nine)
    assert 0.1 - 0.001 <= share <= 0.15
    assert moved(HASH, ten, HASH, nine) == pytest.approx(0.9)


def test_policies_that_do_not_look_at_the_flow_move_as_little_as_shares_demand() -> None:
    """From halves to thirds, a third of the flows gets the third server, and none of the others moves."""
    assert moved(ROUND_ROBIN, of(1, 1), ROUND_ROBIN, of(1, 1, 1)) == pytest.approx(1 / 3)
    assert moved(ROUND_ROBIN, of(1, 1), Policy.LEAST_LOADED, of(1, 1)) == 0


def test_another_policy_by_flow_moves_what_chance_does() -> None:
    """Between hash and Maglev a flow keeps its server only by chance."""
    assert moved(HASH, of(1, 1), MAGLEV, of(1, 1)) == pytest.approx(0.5)
    assert moved(HASH, of(1), MAGLEV, of(1)) == 0


def test_without_servers_everything_or_nothing_moves() -> None:
    """Flows that are refused, or no longer are, have all moved; if they are refused as before, none has."""
    for policy in Policy:
        assert moved(policy, of(1), policy, Choice()) == 1
        assert moved(policy, Choice(), policy, of(1)) == 1
        assert moved(policy, Choice(), policy, Choice()) == 0
