# SPDX-License-Identifier: Apache-2.0
"""The HTTP and HTTPS checks: the server answers a request of HTTP/1.1 with a wanted status and body."""

import re

from poise.servers.care import Check, CheckKind
from poise.servers.health.attempt import attempt
from poise.servers.health.judge import Result
from poise.servers.health.response import Response
from poise.servers.health.target import Target
from poise.servers.health.tls import client_context, name_of
from poise.servers.health.wire import NotWell, Wire

_HAVE_NO_BODY = (204, 304)


async def check(target: Target, check: Check) -> Result:
    """Ask over a connection of its own; a redirect is a status as any other."""

    async def ask(wire: Wire) -> str:
        await wire.connect()
        if context is not None:
            await wire.start_tls(context, name_of(target, check))
        await wire.send(_request(target, check))
        response = Response(wire)
        status, head = await response.head()
        if not any(lowest <= status <= highest for lowest, highest in check.statuses):
            raise NotWell(f"answered {status}, wanted {_shown(check)}")
        if check.body is not None:
            empty = status in _HAVE_NO_BODY or check.method == "HEAD"
            body = b"" if empty else await response.body(head)
            if not re.search(check.body, body.decode("utf-8", "replace")):
                raise NotWell(f"answered {status} with a body in which {check.body!r} is not found")
        return f"answered {status}"

    context = client_context(check) if check.kind is CheckKind.HTTPS else None
    return await attempt(Wire(target.address, check.port or target.port), check, ask)


def _request(target: Target, check: Check) -> bytes:
    return (
        f"{check.method} {check.path} HTTP/1.1\r\nHost: {_host(target, check)}\r\n"
        "User-Agent: poise\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


def _host(target: Target, check: Check) -> str:
    """The Host header (RFC 9110, section 7.2): with the port, unless it is that of the scheme."""
    if check.host is not None:
        return check.host
    host = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    port = check.port or target.port
    return host if port == (443 if check.kind is CheckKind.HTTPS else 80) else f"{host}:{port}"


def _shown(check: Check) -> str:
    return ", ".join(
        str(lowest) if lowest == highest else f"{lowest}-{highest}" for lowest, highest in check.statuses
    )
