# SPDX-License-Identifier: Apache-2.0
"""The DNS check: the server answers a query over UDP, and over TCP if that does not fit (RFC 7766)."""

import socket

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from poise.servers.care import Check
from poise.servers.health.attempt import attempt
from poise.servers.health.judge import Result
from poise.servers.health.target import CannotCheck, Target
from poise.servers.health.wire import NotWell, Wire

_LONGEST = 65_535  # bytes of a message


async def check(target: Target, check: Check) -> Result:
    """Ask for the records of a name; any answer without an error will do, unless a certain one is wanted."""
    port = check.port or target.port

    async def ask(wire: Wire) -> str:
        await wire.connect()
        wire.doing = "waiting for an answer"
        await wire.send(query.to_wire())
        response = _response(query, await wire.receive(_LONGEST))
        while response is None:  # it answers another question: of an earlier check, or forged
            response = _response(query, await wire.receive(_LONGEST))
        if response.flags & dns.flags.TC and check.answer is not None:
            with Wire(target.address, port) as stream:
                response = await _over_tcp(stream, query)
        return _verified(response, check)

    query = _query(check)
    return await attempt(Wire(target.address, port, socket.SOCK_DGRAM), check, ask)


def _query(check: Check) -> dns.message.QueryMessage:
    try:
        return dns.message.make_query(check.query, check.record)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise CannotCheck(f"DNS cannot be asked for {check.record} of {check.query!r} ({error})") from None


async def _over_tcp(stream: Wire, query: dns.message.QueryMessage) -> dns.message.Message:
    message = query.to_wire()
    await stream.connect()
    await stream.send(len(message).to_bytes(2, "big") + message)
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        more = await stream.receive()
        if not more:
            raise NotWell("closed the connection before the end of its answer over TCP")
        data += more
    response = _response(query, data[2:])
    if response is None:
        raise NotWell("answered another question over TCP than was asked")
    return response


def _response(query: dns.message.QueryMessage, data: bytes) -> dns.message.Message | None:
    """Return the response to a query that these bytes are, None if they are one to another."""
    try:
        response = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError) as error:
        if data[:2] != query.to_wire()[:2] and len(data) > 2:
            return None
        raise NotWell(f"answered something that is not DNS ({str(error).rstrip('.') or 'broken'})") from None
    return response if query.is_response(response) else None


def _verified(response: dns.message.Message, check: Check) -> str:
    code = response.rcode()
    if code != dns.rcode.NOERROR:
        raise NotWell(f"answered {dns.rcode.to_text(code)} to {check.record} of {check.query}")
    if check.answer is None:
        return f"answered {check.record} of {check.query}"
    kind = dns.rdatatype.from_text(check.record)
    answers = sorted(record.to_text() for rows in response.answer if rows.rdtype == kind for record in rows)
    if _plain(check.answer) not in map(_plain, answers):
        got = ", ".join(answers[:4]) or "nothing"
        raise NotWell(f"answered {got} to {check.record} of {check.query}, wanted {check.answer}")
    return f"answered {check.answer} to {check.record} of {check.query}"


def _plain(text: str) -> str:
    """A record in one form: addresses as the kernel writes them, names without the last dot."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, text))
        except OSError:
            continue
    return text.strip('"').rstrip(".").lower()
