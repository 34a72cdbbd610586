# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from poise.servers.care import Drain
from poise.servers.draining import Draining, Outcome, Progress, Seen, begin, described, follow, observe

QUIET = 60
NOON = 1_800_000_000  # seconds since 1970
DRAIN = Drain(quiet=QUIET)

Look = tuple[int, int | None]  # seconds after the last look, and the age of the newest packet then
looks = st.lists(st.tuples(st.integers(0, 90), st.none() | st.integers(0, 200)), max_size=30)


def look(progress: Progress, now: float, age: float | None) -> tuple[Progress, Outcome | None]:
    """Look at a drain whose flows are counted from packets."""
    return observe(progress, Seen(3, estimated=True, age=age), now)


@given(looks)
def test_a_drain_is_done_exactly_when_no_packet_was_seen_for_quiet_seconds(seen: list[Look]) -> None:
    """Whatever was seen when: done is when the newest packet, or the beginning, is `quiet` seconds ago."""
    progress = begin(Draining(DRAIN), NOON, 0)
    now, newest = 0, 0
    for seconds, age in seen:
        now += seconds
        newest = newest if age is None else max(newest, now - age)
        was_done = progress.done
        progress, outcome = look(progress, now, age)
        assert progress.done == (now - newest >= QUIET)
        assert (outcome == Outcome.DONE) == (progress.done and not was_done)
        assert described(progress, now)["silent"] == now - newest


@given(looks, st.integers(0, 500), st.sampled_from([DRAIN, replace(DRAIN, cut=True)]))
def test_a_deadline_is_told_once_and_only_of_a_drain_that_is_not_done(
    seen: list[Look], after: int, drain: Drain
) -> None:
    """At the first look at or after the deadline, a drain that is not done is cut or kept, as asked."""
    progress = begin(Draining(drain, NOON + after), NOON, 0)
    now, told = 0, False
    for seconds, age in seen:
        now += seconds
        progress, outcome = look(progress, now, age)
        due = not told and now >= after and not progress.done
        assert (outcome in {Outcome.CUT, Outcome.KEPT}) == due
        assert outcome is None or outcome == Outcome.DONE or (outcome == Outcome.CUT) == drain.cut
        told = told or due
        assert progress.overdue == told


@given(looks, st.integers(0, 500), st.lists(st.integers(-NOON, NOON), min_size=30, max_size=30))
def test_a_wall_clock_that_jumps_changes_nothing(seen: list[Look], after: int, jumps: list[int]) -> None:
    """A drain that is followed ends when it would have ended, however the wall clock is set meanwhile."""
    wanted = {"web1": Draining(DRAIN, NOON + after)}
    calm = jumpy = follow({}, wanted, NOON, 0)
    now = 0
    for (seconds, age), jump in zip(seen, jumps, strict=False):
        now += seconds
        calm = follow(calm, wanted, NOON + now, now)
        jumpy = follow(jumpy, wanted, NOON + jump, now)
        assert jumpy == calm
        calm_progress, calm_outcome = look(calm["web1"], now, age)
        jumpy_progress, jumpy_outcome = look(jumpy["web1"], now, age)
        assert (jumpy_progress, jumpy_outcome) == (calm_progress, calm_outcome)
        calm, jumpy = {"web1": calm_progress}, {"web1": jumpy_progress}


@given(st.lists(st.integers(0, 5), max_size=20))
def test_an_exact_count_ends_a_drain_at_once(counts: list[int]) -> None:
    """Where a table tells which connections are open, silent ones count, and none is none."""
    progress = begin(Draining(DRAIN), NOON, 0)
    for now, count in enumerate(counts):
        was_done = progress.done
        progress, outcome = observe(progress, Seen(count, estimated=False), now * 2 * QUIET)
        assert progress.done == (count == 0)
        assert outcome == (Outcome.DONE if progress.done and not was_done else None)


def test_a_flow_that_was_silent_for_long_may_speak_again() -> None:
    """A drain that was done is not done any more when a packet is seen, and is told to be done anew."""
    progress, outcome = look(begin(Draining(DRAIN), NOON, 0), QUIET, None)
    assert (progress.done, outcome) == (True, Outcome.DONE)
    progress, outcome = look(progress, QUIET + 10, 1)
    assert (progress.done, outcome, progress.last_seen) == (False, None, QUIET + 9)
    progress, outcome = look(progress, QUIET + 9 + QUIET, None)
    assert (progress.done, outcome) == (True, Outcome.DONE)


def test_a_deadline_survives_a_restart() -> None:
    """After a restart, with another monotonic clock, a drain ends when the wall clock says its deadline."""
    what = Draining(DRAIN, NOON + 100)
    first = follow({}, {"web1": what}, NOON, 5000)["web1"]
    again = follow({}, {"web1": what}, NOON + 70, 10)["web1"]
    assert (first.ends, again.ends) == (5100, 40)
    assert follow({}, {"web1": what}, NOON + 700, 10)["web1"].ends == 10


def test_a_deadline_may_be_changed() -> None:
    """Another deadline counts from now on; what else is known of the drain stays."""
    running = {"web1": begin(Draining(DRAIN, NOON + 100), NOON, 0)}
    progress, outcome = look(running["web1"], 100, 1)
    assert (outcome, progress.overdue) == (Outcome.KEPT, True)
    later = follow({"web1": progress}, {"web1": Draining(DRAIN, NOON + 300)}, NOON + 150, 150)["web1"]
    assert (later.ends, later.overdue, later.begun, later.last_seen) == (300, False, 0, 99)
    never = follow({"web1": progress}, {"web1": Draining(DRAIN)}, NOON + 150, 150)["web1"]
    assert (never.ends, described(never, 150)["deadline_in"]) == (None, None)


def test_another_quiet_time_leaves_the_deadline_alone() -> None:
    """When only `quiet` changes, the deadline is not computed anew from a wall clock that jumped."""
    running = {"web1": begin(Draining(DRAIN, NOON + 100), NOON, 0)}
    other = Draining(Drain(quiet=5), NOON + 100)
    after = follow(running, {"web1": other}, NOON - 5000, 10)["web1"]
    assert (after.ends, after.what.drain.quiet) == (100, 5)
    assert look(after, 10, None)[1] == Outcome.DONE


def test_drains_begin_and_go() -> None:
    """A server that is no longer drained is not followed, and one drained anew begins anew."""
    running = follow({}, {"web1": Draining(DRAIN), "web2": Draining(DRAIN)}, NOON, 0)
    after = follow(running, {"web2": Draining(DRAIN), "web3": Draining(DRAIN)}, NOON + 9, 9)
    assert {name: progress.begun for name, progress in after.items()} == {"web2": 0, "web3": 9}


def test_what_is_shown_before_the_first_look() -> None:
    """How many flows remain is not known before somebody looked."""
    shown = described(begin(Draining(DRAIN, NOON + 30), NOON, 0), 10)
    assert shown == {
        "remaining": None,
        "estimated": True,
        "silent": 10,
        "deadline_in": 20,
        "done": False,
        "overdue": False,
    }
