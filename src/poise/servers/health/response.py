# SPDX-License-Identifier: Apache-2.0
"""The response to a request of HTTP/1.1 (RFC 9112), read as far as a check needs it."""

import re
from typing import Final

from poise.servers.health.wire import NotWell, Wire

LONGEST_HEAD: Final = 65_536  # bytes
LONGEST_BODY: Final = 65_536  # bytes of it that are looked at
_LONGEST_LINE: Final = 4_096  # bytes of a status line, or of the size of a chunk

_BEGINNING: Final = b"HTTP/1."
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_END: Final = re.compile(rb"\r?\n\r?\n")
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r?\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding:[^\r\n]*\bchunked[ \t]*\r?\n", re.IGNORECASE)
_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


class Response:
    """What a server answers over one wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = b""

    async def head(self) -> tuple[int, bytes]:
        """Return the status and the head of the final response, which ends with an empty line."""
        while True:
            self._wire.doing = "waiting for a status line"
            while b"\n" not in self._buffer and _may_begin(self._buffer):
                if len(self._buffer) > _LONGEST_LINE:
                    raise NotWell(f"answered with a status line of more than {_LONGEST_LINE} bytes")
                await self._more("the end of a status line")
            match = _STATUS.match(self._buffer)
            if match is None:
                raise NotWell(f"answered something that is not HTTP/1.1: {_shown(self._buffer)}")
            self._wire.doing = "waiting for the rest of the head"
            while (end := _END.search(self._buffer)) is None:
                if len(self._buffer) > LONGEST_HEAD:
                    raise NotWell(f"answered with a head of more than {LONGEST_HEAD} bytes")
                await self._more("the end of its head")
            status, head = int(match[1]), self._buffer[: end.end()]
            self._buffer = self._buffer[end.end() :]
            if status >= 200 or status == 101:
                return status, head

    async def body(self, head: bytes) -> bytes:
        """Return the body, or of a long one the beginning."""
        self._wire.doing = "waiting for the body"
        if _CHUNKED.search(head):
            return await self._chunks()
        length = _LENGTH.search(head)
        if length is not None:
            return await self._exactly(min(int(length[1]), LONGEST_BODY))
        while len(self._buffer) < LONGEST_BODY:
            data = await self._wire.receive()
            if not data:
                break
            self._buffer += data
        return self._buffer[:LONGEST_BODY]

    async def _chunks(self) -> bytes:
        body = b""
        while len(body) < LONGEST_BODY:
            while b"\n" not in self._buffer and len(self._buffer) < _LONGEST_LINE:
                await self._more("the end of its body")
            size = _SIZE.match(self._buffer)
            if size is None:
                raise NotWell(f"answered with a broken chunk: {_shown(self._buffer)}")
            self._buffer = self._buffer[size.end() :]
            length = int(size[1], 16)
            if not length:
                break
            body += await self._exactly(min(length, LONGEST_BODY))
            if length <= LONGEST_BODY:
                await self._line_end()
        return body[:LONGEST_BODY]

    async def _line_end(self) -> None:
        while b"\n" not in self._buffer[:2]:
            if len(self._buffer) >= 2:
                raise NotWell(f"answered with a broken chunk: {_shown(self._buffer)}")
            await self._more("the end of its body")
        self._buffer = self._buffer[self._buffer.index(b"\n") + 1 :]

    async def _exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            await self._more("the end of its body")
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return data

    async def _more(self, what: str) -> None:
        data = await self._wire.receive()
        if not data:
            raise NotWell(f"closed the connection before {what}")
        self._buffer += data


def _may_begin(data: bytes) -> bool:
    """Whether this may be the beginning of a status line."""
    return _BEGINNING.startswith(data[: len(_BEGINNING)])


def _shown(data: bytes) -> str:
    return repr(data[:40])[1:]
