# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers import maglev
from poise.servers.model import Mode, Policy, Server, State, Vip
from poise.servers.standing import Choice, Standing, choice, fractions, shown_state, unused_reason

UP, DOWN = Standing(up=True), Standing(up=False)
FIRST = IPv4Address("10.0.0.0")

standing = st.builds(Standing, st.sampled_from([None, True, False]), st.booleans(), st.floats(0, 1))


def server(number: int, state: State = State.READY, weight: int = 1) -> Server:
    """Server 1 is web1 at 10.0.0.1:8080, with id 1."""
    return Server(number, f"web{number}", FIRST + number, 8080, state, 0.0, declared=True, weight=weight)


def vip_of(*servers: Server, policy: Policy = Policy.WEIGHTED_ROUND_ROBIN, panic: float = 0.5) -> Vip:
    """A VIP with these servers."""
    return Vip(0, "shop", IPv4Address("192.0.2.1"), 80, policy, servers, panic=panic)


@st.composite
def vips(draw: st.DrawFn) -> Vip:
    """Any VIP of up to eight servers in any state."""
    states = draw(st.lists(st.sampled_from(list(State)), max_size=8))
    servers = [server(number, state, draw(st.integers(1, 100))) for number, state in enumerate(states)]
    policy, mode = draw(st.sampled_from(list(Policy))), draw(st.sampled_from(list(Mode)))
    return replace(vip_of(*servers, policy=policy, panic=draw(st.floats(0, 1))), mode=mode)


standings = st.dictionaries(st.integers(0, 8), standing)
loads = st.none() | st.dictionaries(st.integers(0, 8), st.just(0.0) | st.floats(0.1, 30))


@given(vips(), standings, loads)
def test_only_servers_that_should_and_can_take_connections_have_a_share(
    vip: Vip, known: dict[int, Standing], awrr: dict[int, float] | None
) -> None:
    """Whoever has a share is ready, reachable, and up unless poise panics; and all who are have one."""
    chosen = choice(vip, known, awrr)
    for each in vip.servers:
        its = known.get(each.id, Standing(reachable=False))
        fit = each.state is State.READY and its.reachable and (its.up is not False or chosen.panicking)
        assert (each.id in chosen.shares) == fit
    assert set(chosen.shares) <= {each.id for each in vip.servers}


@given(vips(), standings, loads)
def test_shares_and_weights_are_of_the_same_servers_and_can_be_used(
    vip: Vip, known: dict[int, Standing], awrr: dict[int, float] | None
) -> None:
    """Every share is above 0, every weight fits the byte that struct pool has for it, fractions make 1."""
    chosen = choice(vip, known, awrr)
    assert chosen.shares.keys() == chosen.weights.keys()
    assert all(share > 0 for share in chosen.shares.values())
    assert all(1 <= weight <= 255 for weight in chosen.weights.values())
    assert sum(fractions(chosen).values()) == pytest.approx(1 if chosen.shares else 0)


@given(vips(), standings)
def test_panic_is_exactly_below_its_threshold(vip: Vip, known: dict[int, Standing]) -> None:
    """Poise panics when fewer than `panic` of the ready servers are usable and others could be tried."""
    ready = [
        known.get(each.id, Standing(reachable=False)) for each in vip.servers if each.state is State.READY
    ]
    usable = sum(1 for its in ready if its.usable)
    could = any(its.reachable and its.up is False for its in ready)
    assert choice(vip, known).panicking == (could and usable / len(ready) < vip.panic)


@given(vips(), standings, st.integers(0, 7))
def test_a_server_that_is_taken_out_leaves_the_proportions_of_the_others(
    vip: Vip, known: dict[int, Standing], number: int
) -> None:
    """What others get of each other's parts does not depend on a server that goes, unless panic begins."""
    before = choice(replace(vip, panic=0), known)
    gone = replace(vip, panic=0, servers=tuple(each for each in vip.servers if each.id != number))
    after = choice(gone, known)
    assert after.shares == {other: share for other, share in before.shares.items() if other != number}


def test_round_robin_gives_equal_shares_whatever_the_weights() -> None:
    """Weights count in every policy but plain round robin."""
    servers = server(1, weight=1), server(2, weight=3)
    known = {1: UP, 2: UP}
    for policy in Policy:
        shares = choice(vip_of(*servers, policy=policy), known).shares
        assert shares == ({1: 1, 2: 1} if policy is Policy.ROUND_ROBIN else {1: 1, 2: 3})


def test_a_server_of_which_nothing_is_known_yet_is_used() -> None:
    """Until its first check has ended a server counts as up: else a start would refuse everybody."""
    assert choice(vip_of(server(1)), {1: Standing()}).shares == {1: 1}


def test_few_servers_that_are_up_make_poise_use_the_others() -> None:
    """Half of four suffice; when a third one goes down, all that are reachable are used, down ones too."""
    vip = vip_of(*map(server, (1, 2, 3, 4)), server(5, State.DRAIN), server(6, State.MAINT))
    known = {1: UP, 2: UP, 3: DOWN, 4: Standing(up=False, reachable=False), 5: UP, 6: UP}
    calm = choice(vip, known)
    assert (set(calm.shares), calm.panicking) == ({1, 2}, False)
    panic = choice(vip, {**known, 2: DOWN})
    assert (set(panic.shares), panic.panicking) == ({1, 2, 3}, True)


def test_without_panic_no_server_that_is_down_is_used() -> None:
    """With a threshold of 0, a VIP all of whose servers are down has none."""
    assert choice(vip_of(server(1), panic=0), {1: DOWN}) == Choice()


def test_a_server_that_recovered_starts_slowly_in_ten_steps() -> None:
    """Its share rises by tenths, at least one: tables change ten times, not at every look."""
    vip = vip_of(server(1, weight=2), server(2))
    shares = [choice(vip, {1: Standing(share=at / 1000), 2: UP}).shares[1] for at in range(1001)]
    assert shares[0] == pytest.approx(0.2)
    assert shares[299] == pytest.approx(0.4)
    assert shares[300] == pytest.approx(0.6)
    assert shares[1000] == 2
    assert shares == sorted(shares)
    assert len(set(shares)) == 10


def test_of_maglev_the_slow_start_is_in_the_weights() -> None:
    """A server at three tenths has about that part of the rows that it has in the end."""
    vip = vip_of(server(1), server(2), policy=Policy.MAGLEV)
    slow = choice(vip, {1: Standing(share=0.3), 2: UP})
    rows = maglev.table(slow.weights)
    assert rows.count(1) / len(rows) == pytest.approx(0.3 / 1.3, abs=0.01)
    assert choice(vip, {1: UP, 2: UP}).weights == {1: 1, 2: 1}
    heavy = vip_of(server(1, weight=100), server(2, weight=100), policy=Policy.MAGLEV)
    assert choice(heavy, {1: Standing(share=0.5), 2: UP}).weights == {1: 128, 2: 255}


def test_without_cookies_there_is_no_slow_start() -> None:
    """Where a hash places every packet, each step would take open connections to other servers."""
    vip = replace(vip_of(server(1), server(2), policy=Policy.MAGLEV), mode=Mode.COOKIELESS)
    assert choice(vip, {1: Standing(share=0.1), 2: UP}) == choice(vip, {1: UP, 2: UP})


def test_awrr_takes_its_shares_from_loads() -> None:
    """The shares are those that loads ask for; a server without a load gets the mean by weight."""
    vip = vip_of(server(1), server(2, weight=2), server(3, weight=3), policy=Policy.AWRR)
    known = {1: UP, 2: UP, 3: UP}
    assert choice(vip, known, {1: 4.0, 2: 16.0, 9: 30.0}).shares == {1: 4, 2: 16, 3: 18}
    assert choice(vip, known, {}).shares == choice(vip, known).shares == {1: 1, 2: 2, 3: 3}
    slow = choice(vip, {**known, 2: Standing(share=0.5)}, {1: 4.0, 2: 16.0, 3: 10.0})
    assert slow.shares == {1: 4, 2: 8, 3: 10}


def test_what_is_hot_is_passed_on() -> None:
    """Prequal's threshold is the loads' to decide."""
    assert choice(vip_of(server(1), policy=Policy.PREQUAL), {1: UP}, hot_above=700).hot_above == 700


def test_the_shown_state_is_what_was_asked_for_or_down() -> None:
    """Health is shown of ready servers only: of others, what an operator asked for says more."""
    for state in State:
        assert shown_state(server(1, state), UP) == state.value
        assert shown_state(server(1, state), Standing()) == state.value
        assert shown_state(server(1, state), DOWN) == ("down" if state is State.READY else state.value)


def test_why_a_server_is_not_used_is_said() -> None:
    """A server without a share has a reason, one with a share has none."""
    calm = choice(vip_of(server(1)), {1: UP})
    assert unused_reason(server(1), UP, calm) is None
    assert unused_reason(server(2), DOWN, calm) == "it is down"
    assert unused_reason(server(2), Standing(reachable=False), calm) == "the way to it is not known"
    for failing in (
        Standing(up=False, fault="answered 503"),
        Standing(reachable=False, fault="answered 503"),
    ):
        assert unused_reason(server(2), failing, calm) == "answered 503"
        assert unused_reason(server(2, State.MAINT), failing, calm) == "it is in maintenance"


@given(vips(), standings)
def test_every_server_is_used_or_has_a_reason(vip: Vip, known: dict[int, Standing]) -> None:
    """No server is left out silently."""
    chosen = choice(vip, known)
    for each in vip.servers:
        reason = unused_reason(each, known.get(each.id, Standing(reachable=False)), chosen)
        assert (reason is None) == (each.id in chosen.shares)
