# SPDX-License-Identifier: Apache-2.0
import asyncio
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from poise.servers.care import Check, CheckKind, Passive
from poise.servers.vigil import Counted, Key, Target, Verdict, Vigil
from tests.e2e.waiting import wait_until
from tests.servers.health.serving import refusing, say, say_and_wait, serving

TCP = Check(CheckKind.TCP, interval=0.05, timeout=0.3, rise=2, fall=3)
HTTP = replace(TCP, kind=CheckKind.HTTP)
PASSIVE = Passive(window=10, connections=20, resets=0.5, repeats=0.5, hold=30)
KEY: Key = (3, 7)
WITHIN = 5.0  # seconds, of what is to happen in tenths of one


class Told:
    """What a vigil told, in order."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[tuple[Key, Verdict]] = queue.SimpleQueue()

    def tell(self, key: Key, verdict: Verdict) -> None:
        """To be given to a vigil."""
        self.queue.put((key, verdict))

    def next(self) -> tuple[Key, bool | None]:
        """Wait for what is told next."""
        key, verdict = self.queue.get(timeout=WITHIN)
        return key, verdict.up


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def read(self) -> float:
        """To be given to a vigil."""
        return self.now


@contextmanager
def running(vigil: Vigil) -> Iterator[None]:
    """Run a vigil in a thread of its own."""
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = queue.SimpleQueue()

    async def main() -> None:
        task = asyncio.create_task(vigil.run())
        loop = asyncio.get_running_loop()
        started.put((loop, task))
        with suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    loop, task = started.get()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(WITHIN)
        assert not thread.is_alive()


def listen(port: int = 0) -> socket.socket:
    """A server that takes connections, as long as its queue has room for them."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1000)
    return listener


def asked(target: Target, *checks: Check, passive: Passive | None = None) -> Target:
    """The same server, with these checks."""
    return replace(target, checks=checks, passive=passive)


def ups(vigil: Vigil) -> Mapping[Key, bool | None]:
    """What is known of each server."""
    return {key: verdict.up for key, verdict in vigil.verdicts().items()}


def test_a_server_is_unknown_until_its_first_check_and_then_up_or_down() -> None:
    """The first result decides, and is told; before it nothing is."""
    told = Told()
    vigil = Vigil(told.tell)
    with serving(say_and_wait()) as good:
        vigil.watch({(0, 0): asked(good, TCP), (0, 1): asked(refusing(), TCP)})
        assert ups(vigil) == {(0, 0): None, (0, 1): None}
        with running(vigil):
            assert dict([told.next(), told.next()]) == {(0, 0): True, (0, 1): False}
    assert vigil.verdicts()[0, 1].reason == "does not take connections (connection refused)"


def test_a_server_that_dies_is_told_to_be_down_and_up_again_when_it_is_back() -> None:
    """Each change is told once, `fall` failures or `rise` successes after it happened."""
    told = Told()
    vigil = Vigil(told.tell)
    server = listen()
    port = server.getsockname()[1]
    target = Target(IPv4Address("127.0.0.1"), port, "shop", "web1", (TCP,))
    vigil.watch({KEY: target})
    with ExitStack() as stack:
        stack.enter_context(running(vigil))
        assert told.next() == (KEY, True)
        server.close()
        died = time.monotonic()
        assert told.next() == (KEY, False)
        assert time.monotonic() - died < 1
        stack.enter_context(listen(port))
        assert told.next() == (KEY, True)
        verdict = vigil.verdicts()[KEY]
        assert verdict.recovered == verdict.since
        assert verdict.seconds is not None
    assert told.queue.empty()


def test_a_server_is_up_only_if_all_its_checks_are() -> None:
    """One that takes connections and answers 500 is down, for the reason that it answered so."""
    told = Told()
    vigil = Vigil(told.tell)
    with serving(say(b"HTTP/1.1 500 Oops\r\n\r\n")) as server:
        vigil.watch({KEY: asked(server, TCP, replace(HTTP, statuses=((200, 299),)))})
        with running(vigil):
            assert told.next() == (KEY, False)
            wait_until(lambda: vigil.verdicts()[KEY].seconds is not None, WITHIN)
        assert vigil.verdicts()[KEY].reason == "answered 500, wanted 200-299"
    assert told.queue.empty()


def test_a_server_that_flaps_at_every_check_is_told_once() -> None:
    """Good and bad in turn: hysteresis keeps the first verdict, and nobody is disturbed."""
    told, answers = Told(), [0]

    def flap(connection: socket.socket) -> None:
        connection.recv(65_536)
        answers[0] += 1
        connection.sendall(b"HTTP/1.1 %d X\r\n\r\n" % (200 if answers[0] % 2 else 503))

    vigil = Vigil(told.tell)
    with serving(flap) as server:
        vigil.watch({KEY: asked(server, replace(HTTP, interval=0.02))})
        with running(vigil):
            assert told.next() == (KEY, True)
            wait_until(lambda: answers[0] > 20, WITHIN)
    assert told.queue.empty()
    assert ups(vigil) == {KEY: True}


def test_a_server_that_is_no_longer_watched_is_not_told_of() -> None:
    """Neither is a check that was under way: it is broken off."""
    told, connected = Told(), threading.Event()

    def hang(connection: socket.socket) -> None:
        connected.set()
        connection.recv(65_536)
        while connection.recv(65_536):
            pass

    vigil = Vigil(told.tell)
    with serving(hang) as server, running(vigil):
        vigil.watch({KEY: asked(server, replace(HTTP, timeout=30))})
        assert connected.wait(WITHIN)
        vigil.watch({})
        assert vigil.verdicts() == {}
    assert told.queue.empty()


def test_verdicts_on_servers_that_stay_hold_when_targets_change() -> None:
    """A new name, or other checks: what was down stays so until it has passed `rise` of them."""
    vigil = Vigil(Told().tell)
    vigil.restore({KEY: Verdict(up=False, since=5.0, reason="answered 503")})
    target = asked(refusing(), TCP)
    for change in (
        target,
        replace(target, server="web2"),
        asked(target, replace(TCP, interval=9)),
        asked(target, TCP, HTTP),
        asked(target, HTTP),
    ):
        vigil.watch({KEY: change, (0, 0): target})
        assert ups(vigil) == {KEY: False, (0, 0): None}
        assert vigil.verdicts()[KEY].since == 5.0


def test_a_new_check_does_not_decide_at_once_on_a_server_that_is_known() -> None:
    """It takes `fall` failures to take down a server that was up before the check was configured."""
    told, asked_for = Told(), []

    def refuse(connection: socket.socket) -> None:
        asked_for.append(connection.recv(65_536))
        connection.sendall(b"HTTP/1.1 503 X\r\n\r\n")

    vigil = Vigil(told.tell)
    vigil.restore({KEY: Verdict(up=True)})
    with serving(refuse) as server:
        vigil.watch({KEY: asked(server, TCP)})
        vigil.watch({KEY: asked(server, replace(HTTP, fall=4))})
        with running(vigil):
            assert told.next() == (KEY, False)
            assert len(asked_for) == 4


def test_a_server_at_another_address_or_port_is_another_one() -> None:
    """What was known of the former address says nothing of the new one."""
    vigil = Vigil(Told().tell)
    target = asked(refusing(), TCP)
    vigil.restore({KEY: Verdict(up=False)})
    vigil.watch({KEY: target})
    vigil.watch({KEY: replace(target, port=target.port + 1)})
    assert ups(vigil) == {KEY: None}


def test_one_vip_may_change_without_looking_at_the_others() -> None:
    """Only what a change names is touched; a server that is gone already is no error."""
    vigil = Vigil(Told().tell)
    vigil.watch({(vip, 0): asked(refusing(), TCP, passive=PASSIVE) for vip in range(3)})
    vigil.change({(1, 0), (1, 9)}, {(2, 0): asked(refusing(), TCP), (2, 1): asked(refusing(), TCP)})
    assert set(ups(vigil)) == {(0, 0), (2, 0), (2, 1)}
    assert list(vigil.judged_by_packets()) == [(0, 0)]
    assert set(vigil.verdicts([(2, 1), (1, 0)])) == {(2, 1)}


def test_a_server_that_is_not_checked_is_unknown() -> None:
    """Without checks there is no verdict, whatever an earlier one was."""
    vigil = Vigil(Told().tell)
    vigil.restore({KEY: Verdict(up=False)})
    vigil.watch({KEY: refusing(), (0, 0): asked(refusing(), TCP)})
    assert ups(vigil) == {KEY: None, (0, 0): None}
    vigil.watch({KEY: refusing(), (0, 0): refusing()})
    assert vigil.verdicts()[0, 0].reason == "is not checked"


def test_a_restart_does_not_take_dead_servers_for_live_ones() -> None:
    """A restored verdict holds until checks say otherwise `rise` times, and is told only then."""
    told = Told()
    vigil = Vigil(told.tell)
    vigil.restore({KEY: Verdict(up=False), (0, 0): Verdict(up=False), (0, 1): Verdict(up=True)})
    with serving(say_and_wait()) as server:
        vigil.watch({KEY: asked(server, TCP), (0, 0): asked(refusing(), TCP), (0, 1): asked(refusing(), TCP)})
        assert ups(vigil) == {KEY: False, (0, 0): False, (0, 1): True}
        with running(vigil):
            assert dict([told.next(), told.next()]) == {KEY: True, (0, 1): False}
    assert told.queue.empty()


def test_a_restored_moment_is_never_in_the_future() -> None:
    """After a reboot the clock begins anew; slow start is then counted from the restart."""
    vigil = Vigil(Told().tell, Clock(50.0).read)
    vigil.restore({KEY: Verdict(up=True, since=9e9, recovered=9e9)})
    vigil.watch({KEY: asked(refusing(), TCP)})
    assert (vigil.verdicts()[KEY].since, vigil.verdicts()[KEY].recovered) == (50.0, 50.0)


def test_a_server_whose_packets_speak_against_it_is_held_and_comes_back() -> None:
    """Without any check: down when too many connections are reset, unknown again after the hold."""
    told, clock = Told(), Clock()
    vigil = Vigil(told.tell, clock.read)
    vigil.watch({KEY: asked(refusing(), passive=PASSIVE), (0, 0): refusing()})
    assert list(vigil.judged_by_packets()) == [KEY]
    vigil.observe({KEY: Counted(0, 0, 0)})
    clock.now += 1
    vigil.observe({KEY: Counted(30, 20, 0), (0, 0): Counted(30, 30, 0), (9, 9): Counted(30, 30, 0)})
    assert told.next() == (KEY, False)
    assert vigil.verdicts()[KEY].reason.startswith("answered 20 of 30 new connections with a reset")
    clock.now += 29
    vigil.observe({})
    assert told.queue.empty()
    clock.now += 2
    vigil.observe({})
    assert told.next() == (KEY, None)
    assert vigil.verdicts()[KEY].recovered == clock.now


def test_packets_overrule_checks_that_pass() -> None:
    """A server that passes its check, and resets its clients, is held; afterwards its check counts again."""
    told, clock = Told(), Clock()
    vigil = Vigil(told.tell, clock.read)
    with serving(say_and_wait()) as server:
        vigil.watch({KEY: asked(server, TCP, passive=PASSIVE)})
        with running(vigil):
            assert told.next() == (KEY, True)
            vigil.observe({KEY: Counted(0, 0, 0)})
            clock.now += 1
            vigil.observe({KEY: Counted(30, 0, 30)})
            assert told.next() == (KEY, False)
            clock.now += 30
            vigil.observe({})
            assert told.next() == (KEY, True)
    assert told.queue.empty()


def test_a_hold_outlives_a_restart() -> None:
    """A server that only its packets speak against is held anew, as no check would ever bring it back."""
    told, clock = Told(), Clock()
    vigil = Vigil(told.tell, clock.read)
    vigil.restore({KEY: Verdict(up=False, reason="answered with resets")})
    vigil.watch({KEY: asked(refusing(), passive=PASSIVE)})
    assert ups(vigil) == {KEY: False}
    clock.now += 30
    vigil.observe({})
    assert told.next() == (KEY, None)


def test_a_check_that_cannot_be_made_says_nothing_of_the_server() -> None:
    """A missing program takes no server down; it is logged once, and shown."""
    told = Told()
    vigil = Vigil(told.tell)
    missing = replace(TCP, kind=CheckKind.SCRIPT, command=("/nowhere/check",))
    vigil.restore({KEY: Verdict(up=True)})
    vigil.watch({KEY: asked(refusing(), missing)})
    with structlog.testing.capture_logs() as said, running(vigil):
        wait_until(lambda: "cannot be checked" in vigil.verdicts()[KEY].reason, WITHIN)
        wait_until(lambda: bool(said), WITHIN)
    assert vigil.verdicts()[KEY].reason == (
        "cannot be checked: /nowhere/check cannot be run: No such file or directory"
    )
    assert (ups(vigil), len(said), told.queue.empty()) == ({KEY: True}, 1, True)


def test_a_pause_of_poise_is_not_held_against_servers() -> None:
    """When the process was stopped, time-outs that ran out meanwhile say nothing, even with `fall` at 1."""
    told, asked_once = Told(), threading.Event()
    check = replace(HTTP, timeout=0.2, interval=0.5, fall=1)

    def answer_in_time(connection: socket.socket) -> None:
        connection.recv(65_536)
        asked_once.set()
        time.sleep(0.1)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    vigil = Vigil(told.tell)
    vigil.restore({KEY: Verdict(up=True)})

    async def main() -> None:
        task = asyncio.create_task(vigil.run())
        await asyncio.to_thread(asked_once.wait, WITHIN)
        time.sleep(1)  # noqa: ASYNC251 - the event loop stands still: that is the point
        await asyncio.sleep(0.3)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    with serving(answer_in_time) as server:
        vigil.watch({KEY: asked(server, check)})
        asyncio.run(main())
    assert told.queue.empty()
    assert ups(vigil) == {KEY: True}


def test_targets_may_change_at_any_time() -> None:
    """Hundreds of changes from another thread while checks go on: in the end the last one holds."""
    vigil = Vigil(Told().tell)
    with serving(say_and_wait()) as good, running(vigil):
        for turn in range(200):
            vigil.watch(
                {(0, number): asked(good, replace(TCP, interval=0.02)) for number in range(turn % 7, 9)}
            )
        vigil.watch({(0, number): asked(good, TCP) for number in range(5)})
        wait_until(lambda: set(ups(vigil).values()) == {True}, WITHIN)
        assert set(ups(vigil)) == {(0, number) for number in range(5)}


@pytest.mark.parametrize("which", ["verdict", "nothing"])
def test_what_tells_may_ask_and_change_what_is_watched(which: str) -> None:
    """`tell` may call the vigil back, as control does, without a deadlock."""
    done = threading.Event()

    def tell(_key: Key, _verdict: Verdict) -> None:
        vigil.verdicts()
        if which == "nothing":
            vigil.watch({})
        done.set()

    vigil = Vigil(tell)
    vigil.watch({KEY: asked(refusing(), TCP)})
    with running(vigil):
        assert done.wait(WITHIN)


TARGETS = st.builds(
    Target,
    st.just(IPv4Address("127.0.0.1")),
    st.integers(1, 2),
    st.just("shop"),
    st.sampled_from(["web1", "web2"]),
    st.lists(st.sampled_from([TCP, HTTP, replace(TCP, rise=1)]), max_size=3).map(tuple),
    st.sampled_from([None, PASSIVE]),
)
WATCHED = st.dictionaries(st.tuples(st.just(0), st.integers(0, 3)), TARGETS, max_size=4)


@given(st.lists(st.tuples(WATCHED, st.integers(0, 40)), max_size=12))
def test_there_is_a_verdict_on_each_server_that_is_watched_and_on_no_other(
    changes: list[tuple[dict[Key, Target], int]],
) -> None:
    """Whatever is watched one after another, and whatever is counted meanwhile."""
    clock, counted = Clock(), Counted(0, 0, 0)
    vigil = Vigil(lambda _key, _verdict: None, clock.read)
    for targets, failures in changes:
        vigil.watch(targets)
        counted = Counted(counted.connections + 20, counted.resets + failures, counted.repeats)
        clock.now += 10
        vigil.observe(dict.fromkeys(targets, counted))
        verdicts = vigil.verdicts()
        assert verdicts.keys() == targets.keys()
        for key, target in targets.items():
            assert verdicts[key].up is None or target.passive or target.checks
        assert set(vigil.judged_by_packets()) == {key for key in targets if targets[key].passive}
