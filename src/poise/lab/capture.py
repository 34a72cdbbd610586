# SPDX-License-Identifier: Apache-2.0
"""The frames on an interface as they stand on the wire, VLAN tags included."""

import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from poise.lab.namespaces import LabError, Namespace

_ETH_P_ALL = 3
_MACS = 12  # octets before the tags
# linux/if_packet.h
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_TP_STATUS_VLAN_VALID = 1 << 4
_LONGEST = 65536 + 64


class Capture:
    """What an interface sends and receives from now on, as a context manager.

    An interface with an XDP program shows only what that passes on; the other end of its veth shows all.
    """

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.enter():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def until(self, last: Callable[[bytes], bool], timeout: float = 5) -> list[bytes]:
        """The frames up to the first that `last` is true of; LabError if none is within `timeout` seconds."""
        frames: list[bytes] = []
        deadline = time.monotonic() + timeout
        while not frames or not last(frames[-1]):
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                frames.append(self._receive())
            except TimeoutError:
                raise LabError(f"none of {len(frames)} captured frames was the awaited one") from None
        return frames

    def _receive(self) -> bytes:
        frame, ancillary, _, _ = self._socket.recvmsg(_LONGEST, socket.CMSG_SPACE(_AUXDATA.size))
        for level, kind, data in ancillary:
            if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
                status, *_, tci, protocol = _AUXDATA.unpack(data)
                # The kernel takes the outer tag of what it receives out of the frame.
                if status & _TP_STATUS_VLAN_VALID:
                    return frame[:_MACS] + struct.pack("!HH", protocol, tci) + frame[_MACS:]
        return frame


def tags_of(frame: bytes) -> tuple[int, ...]:
    """The VLAN ids of a frame, the outer one first."""
    ids = []
    at = _MACS
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        ids.append(int.from_bytes(frame[at + 2 : at + 4], "big") & 0xFFF)
        at += 4
    return tuple(ids)
