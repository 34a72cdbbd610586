# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from poise.servers.care import Passive
from poise.servers.health.passive import LONGEST, Counted, Suspicion, suspect

PASSIVE = Passive(window=10, connections=20, resets=0.5, repeats=0.5, hold=30)
NOTHING = Counted(0, 0, 0)
ALL_RESET = Counted(10, 10, 0)  # in a second
rates = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60)).map(lambda rate: Counted(*rate))


class Server:
    """A server that is looked at every second."""

    def __init__(self, passive: Passive = PASSIVE) -> None:
        self.passive = passive
        self.now = 0.0
        self.counted = NOTHING
        self.suspicion = Suspicion()
        self.look(NOTHING)

    def look(self, more: Counted, seconds: float = 1.0) -> Suspicion:
        """Let a second pass in which this was counted."""
        self.now += seconds
        self.counted = Counted(*(a + b for a, b in zip(self.counted, more, strict=True)))
        self.suspicion = suspect(self.passive, self.suspicion, self.counted, self.now)
        return self.suspicion

    def looks(self, more: Counted, times: int) -> list[bool]:
        """Whether it is held after each of so many seconds in which this was counted."""
        return [self.look(more).until is not None for _ in range(times)]


def test_a_server_that_answers_with_resets_is_held() -> None:
    """More resets than allowed, among enough new connections: down for the hold, in so many words."""
    server = Server()
    assert server.looks(ALL_RESET, 2) == [False, True]
    assert server.suspicion.until == server.now + 30
    assert server.suspicion.reason == "answered 20 of 20 new connections with a reset, more than 50%"


def test_a_server_that_does_not_answer_is_held() -> None:
    """SYNs that clients have to send again count likewise, also more than one for a connection."""
    server = Server()
    assert server.looks(Counted(10, 0, 30), 2) == [False, True]
    assert server.suspicion.reason == "let SYNs be sent again 60 times for 20 new connections, more than 50%"


def test_few_connections_prove_nothing() -> None:
    """Below the wanted number of connections in the window, a server is never held."""
    assert not any(Server().looks(Counted(1, 1, 1), 60))


def test_what_is_older_than_the_window_is_forgotten() -> None:
    """Failures that were fewer than enough do not add up over longer than the window."""
    server = Server()
    server.look(Counted(19, 19, 0))
    assert not any(server.looks(NOTHING, 11))
    assert server.look(Counted(10, 10, 0)).until is None


def test_limits_of_one_or_more_are_not_looked_at() -> None:
    """With both limits at 1 nothing is judged, even if everything fails."""
    assert not any(Server(Passive(resets=1, repeats=1.5)).looks(Counted(100, 100, 300), 20))


def test_a_server_comes_back_after_the_hold_and_is_held_twice_as_long_if_it_is_as_bad() -> None:
    """30, 60, 120, 240, 480, and then always 480 seconds."""
    server, holds = Server(), []
    for _ in range(7):
        while server.look(ALL_RESET).until is None:
            pass
        holds.append(server.suspicion.hold)
        while server.look(NOTHING).until is not None:
            pass
    assert holds == [30, 60, 120, 240, 480, 480, 480]


def test_a_server_that_was_well_for_as_long_as_it_was_held_starts_anew() -> None:
    """Good conduct is rewarded: the next hold is as short as the first."""
    server = Server()
    server.looks(ALL_RESET, 2)
    server.look(NOTHING, 30)
    assert not any(server.looks(Counted(10, 0, 0), 30))
    while server.look(ALL_RESET).until is None:
        pass
    assert server.suspicion.hold == 30


def test_what_is_counted_during_a_hold_is_not_held_against_a_server() -> None:
    """Connections that were placed before, and fail during the hold, do not prolong it or begin another."""
    server = Server()
    server.looks(ALL_RESET, 2)
    assert server.looks(ALL_RESET, 30) == [*[True] * 29, False]
    assert server.look(NOTHING).until is None


def test_counters_that_begin_anew_are_not_taken_for_connections() -> None:
    """After the tables were made anew, counts are lower than before: they are judged from there on."""
    server = Server()
    server.look(Counted(19, 0, 0))
    server.counted = NOTHING
    assert not any(server.looks(Counted(1, 1, 0), 5))


@given(st.lists(rates, max_size=60))
def test_only_servers_over_the_limit_are_held_and_never_longer_than_16_times(seconds: list[Counted]) -> None:
    """A hold begins only if the last window shows enough connections and more failures than allowed."""
    server, looks = Server(), [NOTHING]
    for rate in seconds:
        was_held = server.suspicion.until is not None
        looks.append(rate)
        suspicion = server.look(rate)
        if suspicion.until is not None and not was_held:
            windows = [looks[-length:] for length in range(1, 12)]
            assert any(_is_bad(window) for window in windows)
        assert suspicion.hold <= LONGEST * PASSIVE.hold
        assert len(suspicion.history) <= 12


@given(st.lists(st.floats(0.001, 5), max_size=60))
def test_looks_that_come_often_do_not_pile_up(pauses: list[float]) -> None:
    """However often a server is looked at, what is remembered stays small."""
    server = Server()
    for pause in pauses:
        assert len(server.look(Counted(1, 0, 0), pause).history) <= 2 + 2 * PASSIVE.window


def _is_bad(window: list[Counted]) -> bool:
    connections = sum(rate.connections for rate in window)
    resets, repeats = sum(rate.resets for rate in window), sum(rate.repeats for rate in window)
    return connections >= 20 and (resets > connections / 2 or repeats > connections / 2)
