# SPDX-License-Identifier: Apache-2.0
"""Asks servers for their loads, each at its interval, and keeps what they said last."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from poise.servers.care import LoadSource
from poise.servers.load.fetch import fetch
from poise.servers.load.report import BadReport, Report, read

_log = structlog.get_logger()

_TICK: Final = 0.05  # seconds
_AT_ONCE: Final = 128  # connections that are open
_JITTER: Final = 0.1  # of the interval, so that servers are not asked all at once
_LEAST_TIMEOUT: Final = 0.2  # seconds

Key = tuple[int, int]


@dataclass(frozen=True)
class Heard:
    """The last good report of a server and when it came, and what was wrong since, or ""."""

    report: Report | None = None
    at: float = 0.0
    fault: str = ""


@dataclass
class _Asked:
    url: str
    source: LoadSource
    due: float
    waits: bool = False
    keys: set[Key] = field(default_factory=set)


class Poller:
    """Asks for loads; servers with the same URL, token and way to read the answer are asked once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nobody yet."""
        self._clock = clock
        self._random = Random()  # noqa: S311  # nobody gains by foreseeing it
        self._asked: Mapping[tuple[str, LoadSource], _Asked] = {}
        self._heard: dict[Key, Heard] = {}
        self._slots = anyio.CapacityLimiter(_AT_ONCE)

    def watch(self, targets: Mapping[Key, tuple[str, LoadSource]]) -> None:
        """Ask these from now on: the URL and how to read its answer, by server. From any thread."""
        asked: dict[tuple[str, LoadSource], _Asked] = {}
        for key, target in targets.items():
            if target not in asked:
                former = self._asked.get(target)
                due = former.due if former else self._clock() + self._random.random() * target[1].interval
                asked[target] = _Asked(*target, due, waits=bool(former and former.waits))
            asked[target].keys.add(key)
        self._asked = asked
        self._heard = {key: heard for key, heard in self._heard.items() if key in targets}

    def heard(self, key: Key) -> Heard:
        """Return what a server said last."""
        return self._heard.get(key, _NOTHING)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._begin(tasks)
                await anyio.sleep(_TICK)

    def _begin(self, tasks: TaskGroup) -> None:
        now = self._clock()
        for target, asked in self._asked.items():
            if now >= asked.due and not asked.waits:
                asked.waits = True
                tasks.start_soon(self._ask, target, asked)

    async def _ask(self, target: tuple[str, LoadSource], asked: _Asked) -> None:
        source = asked.source
        async with self._slots:
            begun = self._clock()
            try:
                timeout = max(min(source.interval, source.stale), _LEAST_TIMEOUT)
                answer = read(await fetch(asked.url, source.token, timeout), source, asked.url)
                heard = Heard(answer, self._clock())
            except BadReport as error:
                heard = Heard(fault=str(error))
        present = self._asked.get(target, asked)  # perhaps another one by now
        jitter = 1 + _JITTER * (2 * self._random.random() - 1)
        present.due = max(begun + source.interval * jitter, self._clock())
        present.waits = asked.waits = False
        for key in present.keys if target in self._asked else ():
            self._hear(key, heard)

    def _hear(self, key: Key, heard: Heard) -> None:
        former = self._heard.get(key, _NOTHING)
        if heard.report is None:
            if heard.fault != former.fault:
                _log.warning("a server's load is not known", reason=heard.fault)
            heard = Heard(former.report, former.at, heard.fault)
        self._heard[key] = heard


_NOTHING: Final = Heard()
