# SPDX-License-Identifier: Apache-2.0
"""The TLS check: the server completes a handshake and, if that is verified, has a certificate that holds."""

import ssl
from functools import lru_cache
from pathlib import Path

from poise.servers.care import Check
from poise.servers.health.attempt import attempt
from poise.servers.health.judge import Result
from poise.servers.health.target import CannotCheck, Target
from poise.servers.health.wire import Wire


async def check(target: Target, check: Check) -> Result:
    """Connect, shake hands, and reset the connection."""

    async def ask(wire: Wire) -> str:
        await wire.connect()
        await wire.start_tls(context, name_of(target, check))
        return f"speaks {wire.tls_version}"

    context = client_context(check)
    return await attempt(Wire(target.address, check.port or target.port), check, ask)


def name_of(target: Target, check: Check) -> str:
    """Return the name that the server's certificate must have, and that it is asked for."""
    return check.host or str(target.address)


def client_context(check: Check) -> ssl.SSLContext:
    """Return what TLS is spoken with; raises CannotCheck if the authorities cannot be read."""
    if not check.verify:
        return _context(None, 0)
    if check.ca_file is None:
        return _context("", 0)
    try:
        return _context(check.ca_file, Path(check.ca_file).stat().st_mtime_ns)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "no certificate in it"
        raise CannotCheck(f"the authorities in {check.ca_file} cannot be read ({reason})") from None


@lru_cache(maxsize=64)
def _context(authorities: str | None, _changed: int) -> ssl.SSLContext:
    """None: nothing is verified; empty: by the system's authorities; read again when the file has changed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities:
        context.load_verify_locations(authorities)
    else:
        context.load_default_certs()
    return context
