# SPDX-License-Identifier: Apache-2.0
import asyncio
import resource
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from poise.servers.health.rota import Job, Rota


class Log:
    """What jobs did, by their names: when each began, and how many were under way at once."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float]] = []
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def job(
        self,
        name: str,
        group: str,
        interval: float = 0.02,
        takes: float = 0.0,
        jitter: float = 0.0,
        *,
        is_process: bool = False,
    ) -> Job:
        """A job that takes so many seconds."""

        async def do() -> None:
            self.begun.append((name, time.monotonic()))
            self.under_way.update((group, "all"))
            self.most |= self.under_way
            try:
                await asyncio.sleep(takes)
            finally:
                self.under_way.subtract((group, "all"))

        return Job(group, interval, jitter, do, is_process=is_process)

    def times(self, name: str) -> list[float]:
        """When a job began."""
        return [at for known, at in self.begun if known == name]


def run(rota: Rota, seconds: float, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run a rota for so long."""

    async def main() -> None:
        task = asyncio.create_task(rota.run())
        try:
            if meanwhile is not None:
                await meanwhile()
            await asyncio.wait({task}, timeout=seconds)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_jobs_are_done_at_their_intervals() -> None:
    """Each at its own, from beginning to beginning, however long it takes."""
    log, rota = Log(), Rota()
    rota.change([], [log.job("often", "a", 0.05, takes=0.02), log.job("seldom", "b", 0.2)])
    run(rota, 1.0)
    assert 16 <= len(log.times("often")) <= 21
    assert 4 <= len(log.times("seldom")) <= 6


def test_the_first_checks_are_spread_over_the_interval() -> None:
    """A hundred servers that are added together are not checked together, now or later."""
    log, rota = Log(), Rota()
    began = time.monotonic()
    rota.change([], [log.job(f"{number}", f"{number}", 0.5) for number in range(100)])
    run(rota, 0.9)
    tenths = Counter(int((at - began) / 0.05) for _, at in log.begun)
    assert max(tenths[place] for place in range(16)) < 30


def test_a_job_that_takes_longer_than_its_interval_does_not_overlap_itself() -> None:
    """The next check of a server that hangs begins when the last has ended, and then at once."""
    log, rota = Log(), Rota()
    rota.change([], [log.job("slow", "a", 0.01, takes=0.1)])
    run(rota, 0.55)
    assert log.most["a"] == 1
    assert 4 <= len(log.begun) <= 6


def test_jobs_of_one_group_take_turns() -> None:
    """The checks of one server are never made at the same time, and none is left out."""
    log, rota = Log(), Rota()
    rota.change([], [log.job(name, "a", 0.02, takes=0.02) for name in "abc"])
    run(rota, 0.6)
    assert log.most["a"] == 1
    assert all(len(log.times(name)) > 5 for name in "abc")


def test_no_more_jobs_than_allowed_are_under_way() -> None:
    """The limit holds, also for processes by themselves, and those who wait all get their turn."""
    log, rota = Log(), Rota(at_once=5, processes_at_once=2)
    processes = Log()
    rota.change([], [log.job(f"{number}", f"{number}", 0.05, takes=0.02) for number in range(40)])
    rota.change(
        [],
        [processes.job(f"{number}", f"p{number}", 0.05, takes=0.02, is_process=True) for number in range(9)],
    )
    run(rota, 0.7)
    assert (log.most["all"], processes.most["all"]) == (5, 2)
    assert len({name for name, _ in log.begun}) == 40
    assert len({name for name, _ in processes.begun}) == 9


def test_scripts_that_hang_do_not_keep_a_server_from_being_checked_otherwise() -> None:
    """While a job waits for its lane, others of its group go on."""
    log, rota = Log(), Rota(processes_at_once=1)
    rota.change([], [log.job("hangs", "a", 0.01, takes=9, is_process=True)])
    rota.change([], [log.job("waits", "b", 0.01, is_process=True), log.job("other", "b", 0.02)])
    run(rota, 0.5)
    assert len(log.times("other")) > 10


def test_more_than_is_possible_is_done_less_often() -> None:
    """Intervals that ask for too much are stretched alike, and that is said."""
    log, rota = Log(), Rota(most_per_second=100)
    with structlog.testing.capture_logs() as said:
        rota.change([], [log.job(f"{number}", f"{number}", 0.05) for number in range(20)])
        run(rota, 1.0)
    assert 70 <= len(log.begun) <= 125
    assert max(Counter(name for name, _ in log.begun).values()) <= 7
    assert [entry["checks_per_second"] for entry in said] == [400]


def test_jobs_that_are_stopped_end_at_once_and_the_others_go_on() -> None:
    """A job under way is cancelled; what is added or removed does not touch the rest."""
    log, rota = Log(), Rota()
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    goes = Job("b", 0.02, 0, hang)
    rota.change([], [log.job("stays", "a"), goes])

    async def meanwhile() -> None:
        await began.wait()
        rota.change([goes], [log.job("new", "b")])
        await ended.wait()
        began.clear()

    run(rota, 0.2, meanwhile)
    assert not began.is_set()
    assert min(len(log.times("stays")), len(log.times("new"))) > 5


def test_changes_from_other_threads_are_taken_in_at_once() -> None:
    """Whoever watches servers need not live in the event loop."""
    log, rota = Log(), Rota()
    jobs = [log.job(f"{number}", f"{number}", 0.02) for number in range(20)]

    def change() -> None:
        for former, job in pairwise([None, *jobs]):
            rota.change([former] if former else [], [job] if job else [])

    async def meanwhile() -> None:
        await asyncio.sleep(0.05)
        thread = threading.Thread(target=change)
        thread.start()
        await asyncio.to_thread(thread.join)
        await asyncio.sleep(0.03)
        log.begun.clear()

    run(rota, 0.2, meanwhile)
    assert {name for name, _ in log.begun} == {"19"}


def test_a_defect_of_one_job_does_not_end_the_others() -> None:
    """What goes wrong in a check is logged, and that check is made again at its time."""
    log, rota = Log(), Rota()
    tries = []

    async def fail() -> None:
        tries.append(1)
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as said:
        rota.change([], [Job("b", 0.02, 0, fail), log.job("a", "a")])
        run(rota, 0.3)
    assert len(tries) > 5
    assert len(log.begun) > 5
    assert said[0]["log_level"] == "error"


def test_nothing_is_left_when_it_ends() -> None:
    """Jobs under way are cancelled, and have ended, when `run` returns."""
    log, rota = Log(), Rota()
    rota.change([], [log.job(f"{number}", f"{number}", 0.01, takes=9) for number in range(20)])
    run(rota, 0.1)
    assert (log.most["all"], log.under_way["all"]) == (20, 0)


def test_nothing_is_left_when_a_task_group_ends_it() -> None:
    """Likewise under anyio, which cancels again whatever still waits."""
    began, ended = [], []

    async def hang() -> None:
        began.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.append(1)

    async def main() -> None:
        rota = Rota()
        rota.change([], [Job(number, 0.01, 0, hang) for number in range(5)])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rota.run)
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
        assert len(began) == len(ended) == 5

    anyio.run(main)


def test_what_was_missed_is_not_made_up_for() -> None:
    """After a pause of the machine, each job is done once, and then at its interval."""
    log, rota = Log(), Rota()
    rota.change([], [log.job("a", "a", 0.05)])

    async def meanwhile() -> None:
        await asyncio.sleep(0.1)
        time.sleep(0.5)  # noqa: ASYNC251 - the event loop stands still: that is the point
        log.begun.clear()

    run(rota, 0.2, meanwhile)
    assert len(log.begun) <= 6


@given(st.floats(0.1, 10), st.floats(0, 1), st.floats(1, 100), st.floats(0, 100))
def test_the_next_time_is_an_interval_away_give_or_take_the_jitter(
    interval: float, jitter: float, stretch: float, late: float
) -> None:
    """Never in the past, and from the last time that it was due within half the jitter of the interval."""
    job = Job("a", interval, jitter, lambda: asyncio.sleep(0), due=1000.0)
    now = 1000.0 + late
    due = job.next_after(now, stretch)
    longest = interval * stretch * (1 + jitter / 2)
    assert now <= due <= now + longest * 1.000001
    if late == 0:
        assert due - now >= interval * stretch * (1 - jitter / 2) * 0.999999


@pytest.mark.parametrize(("soft", "at_once"), [(300, 2000), (300, 50)])
def test_the_limit_of_open_files_is_raised_where_that_is_allowed(soft: int, at_once: int) -> None:
    """Sockets for all checks are allowed for, so that none fails for want of one."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    try:
        run(Rota(at_once), 0)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(at_once + 500, limits[1]), limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
