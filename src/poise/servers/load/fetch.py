# SPDX-License-Identifier: Apache-2.0
"""A GET over HTTP/1.1 or HTTPS of a small body."""

import os
import socket
import ssl
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import anyio
import h11
from anyio.abc import ByteStream

from poise.servers.load.report import LARGEST_BODY, BadReport

_READ: Final = 1 << 14


async def fetch(url: str, token: str | None, within: float) -> bytes:
    """Return the body of the answer; raises BadReport with a sentence if there is none of status 200.

    token: sent as a bearer token. within: seconds for all of it. Redirections are not followed.
    """
    try:
        with anyio.fail_after(within):
            return await _fetch(url, token)
    except TimeoutError:
        raise BadReport(f"{url} did not answer within {within:g} s") from None
    except ssl.SSLError as error:
        raise BadReport(f"{url} failed in TLS: {error.reason or error}") from None
    except OSError as error:
        raise BadReport(f"{url} cannot be reached: {_words(error)}") from None
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        raise BadReport(f"{url} closed the connection before it had answered") from None
    except h11.RemoteProtocolError as error:
        raise BadReport(f"{url} does not speak HTTP: {error}") from None


def _words(error: OSError) -> str:
    """Return what is wrong, without the words of the library on top."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if cause.errno and not isinstance(cause, socket.gaierror):
        return os.strerror(cause.errno)
    return cause.strerror or str(cause)


async def _fetch(url: str, token: str | None) -> bytes:
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    stream: ByteStream = await anyio.connect_tcp(host, parts.port or (443 if is_tls else 80))
    async with stream:
        if is_tls:
            stream = await _secure(stream, host)
        connection = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", parts.netloc.rpartition("@")[2]),
            ("Connection", "close"),
            ("User-Agent", "poise"),
        ]
        if token:
            headers.append(("Authorization", f"Bearer {token}"))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = h11.Request(method="GET", target=target, headers=headers)
        await stream.send((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        return await _read(stream, connection, url)


async def _secure(stream: ByteStream, host: str) -> ByteStream:
    from anyio.streams.tls import TLSStream  # noqa: PLC0415 - few need it

    return await TLSStream.wrap(stream, hostname=host, ssl_context=_context(), standard_compatible=False)


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _read(stream: ByteStream, connection: h11.Connection, url: str) -> bytes:
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive(_READ))
            except anyio.EndOfStream:
                if connection.their_state is h11.SEND_RESPONSE:
                    raise
                connection.receive_data(b"")
        elif isinstance(event, h11.Response) and event.status_code != 200:
            raise BadReport(f"{url} answered {event.status_code}, not 200")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LARGEST_BODY:
                return body  # what is larger is refused, so that the rest need not come
        elif isinstance(event, h11.EndOfMessage):
            return body
        elif isinstance(event, h11.ConnectionClosed):
            raise anyio.EndOfStream
