# SPDX-License-Identifier: Apache-2.0
"""When checks are made: at their intervals, spread, bounded in number, never two of one server at once."""

import asyncio
import heapq
import itertools
import random
import resource
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import structlog

MOST_PER_SECOND = 1_500  # checks; about as many as one core can make
_AT_ONCE = 2_000  # checks; each has a socket
_PROCESSES_AT_ONCE = 16
_OTHER_FILES = 500  # that the rest of the daemon may have open
_GRAIN = 0.005  # seconds: what is due within it is begun together, which saves waking up

_log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Job:
    """Something to be done again and again; the jobs of one group never at the same time.

    interval: seconds from beginning to beginning, of which the fraction `jitter` is left to chance.
    """

    group: Hashable
    interval: float
    jitter: float
    do: Callable[[], Awaitable[None]]
    is_process: bool = False
    due: float = 0.0
    is_over: bool = False
    task: asyncio.Task[None] | None = None

    def next_after(self, now: float, stretch: float) -> float:
        """Return when it is due again, begun `now`; what was missed is not made up for."""
        chance = random.random() - 0.5  # noqa: S311 - only spreads load
        step = self.interval * stretch * (1 + self.jitter * chance)
        return max(self.due + step, now) if now - self.due < step else now + step


@dataclass(eq=False)
class _Lane:
    """Jobs that share a limit of how many of them are done at once."""

    limit: int
    running: int = 0
    waiting: deque[Job] = field(default_factory=deque)


class Rota:
    """Does jobs at their times while it runs."""

    def __init__(
        self,
        at_once: int = _AT_ONCE,
        processes_at_once: int = _PROCESSES_AT_ONCE,
        most_per_second: float = MOST_PER_SECOND,
    ) -> None:
        """Do at most `at_once` jobs at the same time, and so many of those that are processes.

        If the intervals ask for more than `most_per_second`, they are all stretched.
        """
        self._lanes = {False: _Lane(at_once), True: _Lane(processes_at_once)}
        self._most_per_second = most_per_second
        self._per_second = 0.0
        self._due: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._busy: dict[Hashable, list[Job]] = {}  # by group, those that wait for the one under way
        self._changes: deque[tuple[list[Job], list[Job]]] = deque()
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def change(self, stopped: Iterable[Job], begun: Iterable[Job]) -> None:
        """End some jobs, cancelling those under way, and take on others, first done within their interval.

        Any thread may call it.
        """
        self._changes.append((list(stopped), list(begun)))
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop was closed this moment
                loop.call_soon_threadsafe(self._turn)

    async def run(self) -> None:
        """Do the jobs until cancelled; under asyncio, and once."""
        loop = asyncio.get_running_loop()
        lane = self._lanes[False]
        lane.limit = min(lane.limit, _files_allowed(lane.limit))
        self._loop = loop
        self._turn()
        try:
            await loop.create_future()
        finally:
            self._loop = None
            if self._timer is not None:
                self._timer.cancel()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _stretch(self) -> float:
        return max(1.0, self._per_second / self._most_per_second)

    def _turn(self) -> None:
        """Take in changes, begin what is due, and come back when the next job is."""
        loop = self._loop
        if loop is None:
            return
        now = loop.time()
        if self._changes:
            self._take_in_changes(now)
        while self._due and self._due[0][0] <= now + _GRAIN:
            self._offer(heapq.heappop(self._due)[2], loop)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            self._timer = loop.call_at(max(self._due[0][0], now + _GRAIN), self._turn)

    def _take_in_changes(self, now: float) -> None:
        former, new = self._stretch, []
        while self._changes:
            stopped, begun = self._changes.popleft()
            for job in stopped:
                job.is_over = True
                if job.task is not None:
                    job.task.cancel()
            new += begun
            self._per_second += sum(1 / job.interval for job in begun)
            self._per_second -= sum(1 / job.interval for job in stopped)
        for job in new:
            job.due = now + job.interval * self._stretch * random.random()  # noqa: S311 - only spreads load
            self._put(job)
        if self._stretch > max(former, 1.01):
            _log.warning(
                "servers are checked less often than configured: lengthen the intervals",
                checks_per_second=round(self._per_second),
                possible=self._most_per_second,
            )

    def _put(self, job: Job) -> None:
        heapq.heappush(self._due, (job.due, next(self._numbers), job))

    def _offer(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a job, or have it wait for its lane or for the job of its group that is under way."""
        lane = self._lanes[job.is_process]
        if job.is_over:
            return
        if lane.running >= lane.limit:
            lane.waiting.append(job)
        elif job.group in self._busy:
            self._busy[job.group].append(job)
        else:
            self._busy[job.group] = []
            lane.running += 1
            job.due = job.next_after(loop.time(), self._stretch)
            job.task = loop.create_task(_do(job))
            self._tasks[job.task] = job
            job.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        job = self._tasks.pop(task)
        job.task = None
        lane = self._lanes[job.is_process]
        lane.running -= 1
        siblings = self._busy.pop(job.group)
        loop = self._loop
        if loop is None:
            return
        for sibling in siblings:
            self._offer(sibling, loop)
        while lane.waiting and lane.running < lane.limit:
            self._offer(lane.waiting.popleft(), loop)
        if not job.is_over:
            self._put(job)
            if self._timer is None or self._timer.when() > job.due + _GRAIN:
                self._turn()


async def _do(job: Job) -> None:
    try:
        await job.do()
    except Exception:  # noqa: BLE001 - a defect of one check must not end the others
        _log.exception("a check failed to be made", group=job.group)


def _files_allowed(wanted: int) -> int:
    """Return how many sockets checks may have open; raises this process' soft limit towards `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= enough:
        return wanted
    soft = enough if hard == resource.RLIM_INFINITY else min(hard, enough)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(soft - _OTHER_FILES, soft // 2)
