# SPDX-License-Identifier: Apache-2.0
from poise.servers.care import Check
from poise.servers.health.judge import Result
from poise.servers.health.target import Target


async def check(target: Target, check: Check) -> Result:
    raise NotImplementedError
