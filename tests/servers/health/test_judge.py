# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from poise.servers.care import Check, CheckKind
from poise.servers.health.judge import LEAST_SHARE, Result, Verdict, judge, share, together

WELL, ILL = Result(True, 0.001, "answered 200"), Result(False, 0.002, "answered 503")
checks = st.builds(Check, st.just(CheckKind.TCP), rise=st.integers(1, 5), fall=st.integers(1, 5))
histories = st.lists(st.booleans(), max_size=60)


def check(rise: int = 2, fall: int = 3) -> Check:
    """A check with this hysteresis."""
    return Check(CheckKind.TCP, rise=rise, fall=fall)


def verdicts(results: list[bool], asked: Check, first: Verdict | None = None) -> list[Verdict]:
    """The verdicts after each result, one a second."""
    verdict, found = first or Verdict(), []
    for second, ok in enumerate(results, 1):
        verdict = judge(verdict, WELL if ok else ILL, asked, float(second))
        found.append(verdict)
    return found


def test_the_first_result_decides_at_once() -> None:
    """A server of which nothing is known is believed at its first word, good or bad."""
    assert [verdicts([ok], check())[0].up for ok in (True, False)] == [True, False]


def test_so_many_failures_in_a_row_take_a_server_down_and_successes_bring_it_back() -> None:
    """`fall` failures in a row, and no fewer, take down; `rise` successes in a row bring back."""
    ups = [verdict.up for verdict in verdicts([True, *[False] * 3, True, True], check())]
    assert ups == [True, True, True, False, False, True]


def test_a_verdict_says_since_when_it_holds_and_when_a_server_recovered() -> None:
    """`since` is the moment of the last change, `recovered` that of the last one from down to up."""
    *_, down, _, back = verdicts([True, *[False] * 3, True, True], check())
    assert (down.since, down.recovered, down.reason) == (4.0, None, "answered 503")
    assert (back.since, back.recovered, back.seconds) == (6.0, 6.0, 0.001)
    assert verdicts([True], check())[0].recovered is None


@given(st.booleans(), st.integers(10, 100))
def test_a_server_that_flaps_at_every_check_keeps_its_verdict(first: bool, number: int) -> None:  # noqa: FBT001
    """One failure between two successes, for ever, changes nothing: there is no storm of changes."""
    results = [first ^ bool(place % 2) for place in range(number)]
    assert {verdict.up for verdict in verdicts(results, check(rise=2, fall=2))} == {first}


@given(histories, checks)
def test_a_verdict_changes_only_after_as_many_results_against_it(results: list[bool], asked: Check) -> None:
    """Whatever the history: the last `rise`, or `fall`, results before a change are all of one kind."""
    found = verdicts(results, asked)
    for place, (before, after) in enumerate(pairwise(found), 1):
        if before.up is not after.up:
            wanted = asked.rise if after.up else asked.fall
            assert results[place - wanted + 1 : place + 1] == [after.up] * wanted
        assert after.streak < max(asked.rise, asked.fall)


@given(histories.filter(bool), checks, st.booleans())
def test_any_verdict_yields_to_results_that_stay_the_same(
    results: list[bool],
    asked: Check,
    ok: bool,  # noqa: FBT001
) -> None:
    """From whatever state, `rise` successes lead to up and `fall` failures to down."""
    last = verdicts(results, asked)[-1]
    assert verdicts([ok] * (asked.rise if ok else asked.fall), asked, last)[-1].up is ok


@given(st.lists(st.sampled_from([True, False, None]), max_size=6))
def test_a_server_is_up_if_all_its_checks_are(parts: list[bool | None]) -> None:
    """One check that is down is enough; up is known only when every check has said so."""
    verdict = together(Verdict(), [Verdict(up=up, reason=f"{up}") for up in parts], 1.0)
    assert verdict.up is (False if False in parts else None if None in parts or not parts else True)
    if False in parts:
        assert verdict.reason == "False"


def test_what_a_server_with_several_checks_is_down_for_is_told() -> None:
    """The reason is that of a check which failed, also while it has not failed often enough."""
    well, ill = Verdict(up=True, reason="takes connections"), Verdict(up=True, reason="is slow", streak=2)
    assert together(Verdict(), [well, ill], 1.0).reason == "is slow"


@given(st.floats(0, 1e6), st.floats(0.1, 3600), st.floats(0, 1e4))
def test_the_share_of_a_recovered_server_rises_to_the_full_one(
    recovered: float, slow_start: float, passed: float
) -> None:
    """It is never under a tenth, never falls, and is the full one once slow start is over."""
    now = recovered + passed
    early, late = share(recovered, slow_start, now), share(recovered, slow_start, now + 1)
    assert LEAST_SHARE <= early <= late <= 1
    assert share(recovered, slow_start, recovered + slow_start * 1.01) == 1


def test_the_share_rises_evenly() -> None:
    """Half way through slow start, a server gets half of its share."""
    assert [share(100, 30, now) for now in (100, 101, 115, 127, 130)] == [0.1, 0.1, 0.5, 0.9, 1]


def test_only_recovered_servers_start_slowly() -> None:
    """A server that never was down, and one without slow start, gets its full share at once."""
    assert share(None, 30, 100) == share(100, 0, 100) == 1
