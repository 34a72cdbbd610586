# SPDX-License-Identifier: Apache-2.0
"""The TCP check: the server takes a connection."""

from poise.servers.care import Check
from poise.servers.health.attempt import attempt
from poise.servers.health.judge import Result
from poise.servers.health.target import Target
from poise.servers.health.wire import Wire


async def check(target: Target, check: Check) -> Result:
    """Connect, and reset the connection."""
    return await attempt(Wire(target.address, check.port or target.port), check, _connect)


async def _connect(wire: Wire) -> str:
    await wire.connect()
    return "takes connections"
