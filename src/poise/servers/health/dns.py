# SPDX-License-Identifier: Apache-2.0
"""The DNS check: the server answers a query over UDP, and over TCP where the answer does not fit."""

import dns.exception
import dns.flags
import dns.message
import dns.rcode

from poise.servers.care import Check
from poise.servers.health.attempt import attempt
from poise.servers.health.judge import Result
from poise.servers.health.target import Target


async def check(target: Target, check: Check) -> Result:
    raise NotImplementedError
