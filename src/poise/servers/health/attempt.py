# SPDX-License-Identifier: Apache-2.0
"""One attempt to ask a server something: its time-out, how long it took, and what to say of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from poise.servers.care import Check
from poise.servers.health.judge import Result
from poise.servers.health.wire import NotWell, Wire


async def attempt(wire: Wire, check: Check, ask: Callable[[Wire], Awaitable[str]]) -> Result:
    """Ask over a wire within the check's time-out, and close it; `ask` returns why the server is well."""
    began = time.monotonic()
    try:
        with wire:
            async with asyncio.timeout(check.timeout):
                reason = await ask(wire)
    except TimeoutError:
        reason = f"gave no answer within {check.timeout:g} s ({wire.doing})"
    except NotWell as fault:
        reason = str(fault)
    else:
        return Result(True, time.monotonic() - began, reason)
    return Result(False, time.monotonic() - began, reason)
