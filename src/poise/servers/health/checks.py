# SPDX-License-Identifier: Apache-2.0
"""The kinds of checks by their names."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from poise.servers.care import Check, CheckKind
from poise.servers.health import dns, http, script, tcp, tls
from poise.servers.health.judge import Result
from poise.servers.health.target import Target

_CHECKS: Final[Mapping[CheckKind, Callable[[Target, Check], Awaitable[Result]]]] = {
    CheckKind.TCP: tcp.check,
    CheckKind.TLS: tls.check,
    CheckKind.HTTP: http.check,
    CheckKind.HTTPS: http.check,
    CheckKind.DNS: dns.check,
    CheckKind.SCRIPT: script.check,
}


async def check_once(target: Target, check: Check) -> Result:
    """Make one check of a server; raises CannotCheck if it says nothing of the server."""
    return await _CHECKS[check.kind](target, check)
