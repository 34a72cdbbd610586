# SPDX-License-Identifier: Apache-2.0
"""Requests to the kernel's rtnetlink and its notices (rtnetlink(7)); the only file that knows pyroute2.

pyroute2 codes and decodes the messages. Its sockets are not used: each of their calls runs an event loop of
its own, so none can be made from a coroutine, and after an overrun they have to be thrown away.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio
from pyroute2.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_EXT_ACK,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    nlmsg,
    nlmsgerr,
)
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from poise.errors import PoiseError

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_ATTEMPTS = 10  # a dump that is interrupted this often is given up
_LONGEST = 65536  # the kernel builds dumps of at most 32 KiB a datagram
_SO_RCVBUFFORCE = 33
_NOTICE_BUFFER = 4 << 20


class NetlinkError(PoiseError):
    """The kernel refused a request; `errno` says why, `reason` in words (the kernel's own, if it has any)."""

    def __init__(self, code: int, reason: str | None) -> None:
        self.errno = code
        self.reason = reason.rstrip(".") if reason else os.strerror(code)
        super().__init__(f"the kernel refused a netlink request: {self.reason}")


@dataclass(frozen=True, slots=True)
class Message:
    """One decoded message: its type (RTM_...), the fields of its fixed part, and its attributes by name."""

    kind: int
    fields: Mapping[str, int]
    attributes: Mapping[str, object]

    def number(self, name: str) -> int | None:
        """The attribute, if it is there and is a number."""
        value = self.attributes.get(name)
        return value if isinstance(value, int) else None

    def text(self, name: str) -> str | None:
        """The attribute, if it is there and is a name or an address."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else None

    def nested(self, *names: str) -> Mapping[str, object]:
        """The attributes within an attribute, or within one in there, by name; none if it is not there."""
        found = self.attributes
        for name in names:
            inner = found.get(name)
            found = dict(dict.get(inner, "attrs", ())) if isinstance(inner, dict) else {}
        return found


def request(
    kind: int,
    fields: Mapping[str, int],
    attributes: Mapping[str, object] | None = None,
    flags: int = 0,
) -> list[Message]:
    """Make one request (RTM_...) and return what the kernel answers, without the acknowledgement.

    Raises NetlinkError where the kernel refuses.
    """
    with _open() as kernel:
        kernel.send(_encode(kind, flags | NLM_F_REQUEST | NLM_F_ACK, fields, attributes or {}))
        return list(_answers(kernel))


def dump(kind: int, fields: Mapping[str, int]) -> list[Message]:
    """Everything the kernel has of one kind (RTM_GET...); a dump that a change broke in upon is repeated.

    Raises NetlinkError where the kernel refuses, and EINTR where changes never let a dump finish.
    """
    for _ in range(_ATTEMPTS):
        with _open() as kernel:
            kernel.send(_encode(kind, NLM_F_REQUEST | NLM_F_DUMP, fields, {}))
            try:
                return list(_answers(kernel))
            except InterruptedError:
                continue
    raise NetlinkError(errno.EINTR, "changes came faster than they could be read")


class Subscription:
    """The kernel's notices to some groups (RTNLGRP_...), from the moment this is made; a context manager."""

    def __init__(self, groups: Iterable[int]) -> None:
        self._socket = _open()
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _NOTICE_BUFFER)
        except PermissionError:  # without CAP_NET_ADMIN the kernel caps it at net.core.rmem_max
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NOTICE_BUFFER)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def read(self) -> list[Message] | None:
        """Wait for the next notices; None when some were lost."""
        while True:
            await anyio.wait_readable(self._socket)
            try:
                data = _receive(self._socket)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._drain()
                return None
            return [message for _, message in decode(data)]

    def _drain(self) -> None:
        """Read away what came before the loss.

        The kernel tells of a loss once, then goes on dropping until the queue has been emptied
        (NETLINK_S_CONGESTED): only now is nothing lost any more, and looking afresh worth the while.
        """
        while True:
            try:
                _receive(self._socket)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


def _open() -> socket.socket:
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    kernel.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    kernel.bind((0, 0))
    return kernel


def _receive(kernel: socket.socket) -> bytes:
    while True:
        data, (sender, _) = kernel.recvfrom(_LONGEST)
        if sender == 0:  # another process can write to a netlink socket, too
            return data


def _encode(kind: int, flags: int, fields: Mapping[str, int], attributes: Mapping[str, object]) -> bytes:
    message = MarshalRtnl.msg_map[kind]()
    message["header"] = {"type": kind, "flags": flags, "sequence_number": 1, "pid": 0}
    message.update(fields)
    message["attrs"] = list(attributes.items())
    message.encode()
    return bytes(message.data)


def decode(data: bytes) -> Iterator[tuple[int, Message]]:
    """The messages of a datagram from the kernel, each with its flags."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        layout = nlmsgerr if kind == NLMSG_ERROR else MarshalRtnl.msg_map.get(kind, nlmsg)
        message = layout(data, offset=offset)
        message.decode()
        fields = {name: message[name] for name, *_ in layout.fields if isinstance(message.get(name), int)}
        yield flags, Message(kind, fields, dict(dict.get(message, "attrs", ())))
        offset += (length + 3) & ~3


def _answers(kernel: socket.socket) -> Iterator[Message]:
    while True:
        data = _receive(kernel)
        for flags, message in decode(data):
            if flags & _DUMP_INTERRUPTED:
                raise InterruptedError
            if message.kind == NLMSG_DONE:
                return
            if message.kind == NLMSG_ERROR:
                code = -message.fields["error"]
                if code:
                    raise NetlinkError(code, message.text("NLMSGERR_ATTR_MSG"))
                return
            yield message
