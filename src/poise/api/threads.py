# SPDX-License-Identifier: Apache-2.0
"""Where the API calls what may block: in threads, so that the event loop never waits."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final, TypeVar, cast

import anyio
import anyio.to_thread

_WORKING: Final = 4  # threads: more would only contend for the interpreter
_WAITING: Final = 16  # requests that wait for a packet, beside those

R = TypeVar("R")


class Threads:
    """Threads for a bounded number of calls at a time; the others wait for their turn."""

    def __init__(self) -> None:
        self._working = anyio.CapacityLimiter(_WORKING)
        self._waiting = anyio.CapacityLimiter(_WAITING)

    async def run(self, call: Callable[[], R]) -> R:
        """Do a piece of work; it is done to its end, whoever loses interest meanwhile."""
        return await anyio.to_thread.run_sync(call, limiter=self._working)

    async def wait(self, call: Callable[[], R]) -> R:
        """Make a call that mostly waits; it is left behind when the asking task or the process ends."""
        async with self._waiting:
            return await _left_behind(call)


async def _left_behind(call: Callable[[], R]) -> R:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def tell(result: R | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("R", result))

    def work() -> None:
        result: R | None = None
        fault: Exception | None = None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is for who asked
            fault = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, result, fault)

    Thread(target=work, daemon=True, name="waits for the API").start()  # anyio's threads hold up the end
    return await future
