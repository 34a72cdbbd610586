# SPDX-License-Identifier: Apache-2.0
"""Where things stand in a frame, by the few rules that this takes: no library, so that it can be fast."""

from collections.abc import Mapping
from dataclasses import dataclass

ETHERNET = 14  # bytes of the Ethernet header, after which the IP header starts if there are no tags
TAG = 4
FRAGMENT = 44  # the number of IPv6's fragment header; the others: hop-by-hop, routing, destination
_EXTENSIONS = (0, 43, 60)
_TAGS = (b"\x81\x00", b"\x88\xa8")


@dataclass(frozen=True)
class Macs:
    """The addresses of an Ethernet header."""

    target: bytes
    source: bytes

    def packed(self) -> bytes:
        """Return them as they stand in a frame."""
        return self.target + self.source


def patched(frame: bytes, changes: Mapping[int, bytes]) -> bytes:
    """Return the frame with other bytes at these offsets."""
    data = bytearray(frame)
    for offset, value in changes.items():
        data[offset : offset + len(value)] = value
    return bytes(data)


def ip_offset(frame: bytes) -> int:
    """Return where the IP header starts, behind at most two VLAN tags."""
    at = ETHERNET
    while at < ETHERNET + 2 * TAG and frame[at - 2 : at] in _TAGS:
        at += TAG
    return at


def without_tags(frame: bytes) -> bytes:
    """Return the frame without its VLAN tags."""
    return frame[:12] + frame[ip_offset(frame) - 2 :]


def ip_length(frame: bytes) -> int:
    """Return the length of the IP packet, its header included, as that states it."""
    at = ip_offset(frame)
    if frame[at] >> 4 == 6:
        return int.from_bytes(frame[at + 4 : at + 6], "big") + 40
    return int.from_bytes(frame[at + 2 : at + 4], "big")


def with_ip_length(frame: bytes, length: int) -> bytes:
    """Return the frame with another length in its IP header, whose checksum stays."""
    at = ip_offset(frame)
    if frame[at] >> 4 == 6:
        return patched(frame, {at + 4: (length - 40).to_bytes(2, "big")})
    return patched(frame, {at + 2: length.to_bytes(2, "big")})


def address_place(frame: bytes, name: str) -> slice:
    """Return where the address of the "source" or the "target" stands."""
    at = ip_offset(frame)
    first, size = (at + 8, 16) if frame[at] >> 4 == 6 else (at + 12, 4)
    return slice(first, first + size) if name == "source" else slice(first + size, first + 2 * size)


def transport_of(frame: bytes) -> tuple[int, int]:
    """Return the number of the transport protocol, and where its header starts."""
    at = ip_offset(frame)
    if frame[at] >> 4 == 4:
        return frame[at + 9], at + (frame[at] & 15) * 4
    number, at = frame[at + 6], at + 40
    while number in _EXTENSIONS or number == FRAGMENT:
        length = 8 if number == FRAGMENT else 8 * (frame[at + 1] + 1)
        number, at = frame[at], at + length
    return number, at


def tcp_offset(frame: bytes) -> int:
    """Return where the TCP header starts."""
    return transport_of(frame)[1]
