# SPDX-License-Identifier: Apache-2.0
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from poise.servers.events import KEPT, Events, Kind


def test_an_event_is_kept_counted_and_logged() -> None:
    """What happened can be asked for, measured and found in the log, under the same names."""
    events = Events(clock=lambda: 1_800_000_000.0)
    with capture_logs() as logged:
        events.add(Kind.DOWN, "web1 is down: answered 503", vip="shop", server="web1")
        events.add(Kind.RELOADED, "poise.yaml was read again")
    assert events.since() == [
        {
            "id": 1,
            "at": 1_800_000_000.0,
            "kind": "down",
            "vip": "shop",
            "server": "web1",
            "message": "web1 is down: answered 503",
        },
        {
            "id": 2,
            "at": 1_800_000_000.0,
            "kind": "reloaded",
            "vip": None,
            "server": None,
            "message": "poise.yaml was read again",
        },
    ]
    assert {kind: count for kind, count in events.counts().items() if count} == {"down": 1, "reloaded": 1}
    assert [entry["event"] for entry in logged] == ["web1 is down: answered 503", "poise.yaml was read again"]
    assert (logged[0]["kind"], logged[0]["vip"], logged[0]["server"]) == ("down", "shop", "web1")
    assert "vip" not in logged[1]


@given(st.integers(1, 20), st.integers(0, 60), st.integers(0, 60))
def test_the_last_events_are_kept_and_asked_for_by_number(kept: int, added: int, since: int) -> None:
    """Of all events the last ones remain; who names the last one that he knows gets those after it."""
    events = Events(kept)
    with capture_logs():
        for number in range(added):
            events.add(Kind.UP, f"event {number + 1}")
    remaining = range(max(added - kept, 0) + 1, added + 1)
    after = since if since <= added else 0  # the number is of an earlier process
    assert [event["id"] for event in events.since(since)] == [
        number for number in remaining if number > after
    ]
    assert events.counts()["up"] == added


def test_a_clock_that_is_set_back_does_not_change_the_order() -> None:
    """Events are in the order in which they happened, whatever the wall clock says."""
    times = iter([100.0, 5.0, 50.0])
    events = Events(clock=lambda: next(times))
    with capture_logs():
        for kind in (Kind.DOWN, Kind.UP, Kind.DOWN):
            events.add(kind, "so it is")
    assert [(event["id"], event["at"]) for event in events.since(1)] == [(2, 5.0), (3, 50.0)]


def test_threads_may_add_at_once() -> None:
    """No number is given twice, none is left out, and the ring is in their order."""
    events = Events()
    with capture_logs(), ThreadPoolExecutor(8) as pool:
        added = pool.map(lambda number: events.add(Kind.UP, f"event {number}").id, range(3 * KEPT))
    assert sorted(added) == list(range(1, 3 * KEPT + 1))
    assert [event["id"] for event in events.since()] == list(range(2 * KEPT + 1, 3 * KEPT + 1))
