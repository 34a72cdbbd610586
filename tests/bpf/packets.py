# SPDX-License-Identifier: Apache-2.0
"""Frames as they arrive, crafted by scapy, and as they must leave: changed byte by byte, summed anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypedDict, Unpack

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import checksum

ETHERNET = 14  # bytes of the Ethernet header, after which the IP header starts

# TCP options, RFC 9293 section 3.2, RFC 7323 and RFC 2018.
END = b"\0"
NOP = b"\1"
MSS = bytes.fromhex("020405b4")
WINDOW_SCALE = bytes.fromhex("030307")
SACK_OK = bytes.fromhex("0402")
SACK = bytes.fromhex("050a 11111111 22222222")
MPTCP = bytes.fromhex("1e0c 0081 3333333344444444")  # RFC 8684, MP_CAPABLE


@dataclass(frozen=True)
class End:
    """One end of a connection."""

    address: IPv4Address
    port: int


@dataclass(frozen=True)
class Macs:
    """The addresses of an Ethernet header."""

    target: bytes
    source: bytes

    def packed(self) -> bytes:
        """Return them as they stand in a frame."""
        return self.target + self.source


def timestamp(tsval: int, tsecr: int) -> bytes:
    """Return the ten bytes of a timestamp option."""
    return b"\x08\x0a" + tsval.to_bytes(4, "big") + tsecr.to_bytes(4, "big")


def usual(tsval: int, tsecr: int) -> bytes:
    """Return the options that every stack sends once a connection is established."""
    return NOP + NOP + timestamp(tsval, tsecr)


class Fields(TypedDict, total=False):
    """What else a segment can say."""

    payload: bytes
    seq: int
    ack: int
    window: int
    ttl: int
    tos: int
    identification: int
    dont_fragment: bool


def segment(
    macs: Macs, source: End, target: End, flags: str, options: bytes = b"", **fields: Unpack[Fields]
) -> bytes:
    """Return a frame with right checksums; options are filled up with END."""
    options = options.ljust(-(-len(options) // 4) * 4, END)
    eth = Ether(dst=macs.target.hex(":"), src=macs.source.hex(":"))
    ip = IP(
        src=str(source.address),
        dst=str(target.address),
        id=fields.get("identification", 0x4D2),
        flags="DF" if fields.get("dont_fragment") else 0,
        ttl=fields.get("ttl", 64),
        tos=fields.get("tos", 0),
    )
    tcp = TCP(
        sport=source.port,
        dport=target.port,
        flags=flags,
        seq=fields.get("seq", 0),
        ack=fields.get("ack", 0),
        window=fields.get("window", 501),
        dataofs=5 + len(options) // 4,
    )
    return bytes(eth / ip / tcp / Raw(options + fields.get("payload", b"")))


def tcp_offset(frame: bytes) -> int:
    """Return where the TCP header starts."""
    return ETHERNET + (frame[ETHERNET] & 0x0F) * 4


def ip_length(frame: bytes) -> int:
    """Return the length that the IP header states."""
    return int.from_bytes(frame[ETHERNET + 2 : ETHERNET + 4], "big")


def target_of(frame: bytes) -> End:
    """Return the end that the frame is for."""
    tcp = tcp_offset(frame)
    return End(IPv4Address(frame[30:34]), int.from_bytes(frame[tcp + 2 : tcp + 4], "big"))


def source_of(frame: bytes) -> End:
    """Return the end that the frame comes from."""
    tcp = tcp_offset(frame)
    return End(IPv4Address(frame[26:30]), int.from_bytes(frame[tcp : tcp + 2], "big"))


def timestamps_of(frame: bytes) -> tuple[int, int]:
    """Return TSval and TSecr of a frame with the `usual` options."""
    at = tcp_offset(frame) + 24
    return int.from_bytes(frame[at : at + 4], "big"), int.from_bytes(frame[at + 4 : at + 8], "big")


def patched(frame: bytes, changes: Mapping[int, bytes]) -> bytes:
    """Return the frame with other bytes at these offsets."""
    data = bytearray(frame)
    for offset, value in changes.items():
        data[offset : offset + len(value)] = value
    return bytes(data)


def summed(frame: bytes) -> bytes:
    """Return a TCP frame with both checksums computed from scratch."""
    tcp = tcp_offset(frame)
    frame = patched(frame, {ETHERNET + 10: bytes(2), tcp + 16: bytes(2)})
    transport = frame[tcp : ETHERNET + ip_length(frame)]
    pseudo = frame[ETHERNET + 12 : ETHERNET + 20] + b"\0\x06" + len(transport).to_bytes(2, "big")
    of_ip = checksum(frame[ETHERNET:tcp]).to_bytes(2, "big")
    return patched(frame, {ETHERNET + 10: of_ip, tcp + 16: checksum(pseudo + transport).to_bytes(2, "big")})


def with_ip_options(frame: bytes, options: bytes) -> bytes:
    """Return the frame with IP options in front of its TCP header."""
    words = 5 + len(options) // 4
    length = (ip_length(frame) + len(options)).to_bytes(2, "big")
    frame = patched(frame, {ETHERNET: bytes([0x40 | words]), ETHERNET + 2: length})
    return summed(frame[: ETHERNET + 20] + options + frame[ETHERNET + 20 :])


def forwarded(
    frame: bytes,
    macs: Macs,
    *,
    source: End | None = None,
    target: End | None = None,
    tsval: tuple[int, int] | None = None,
    tsecr: tuple[int, int] | None = None,
) -> bytes:
    """Return the same frame one hop on: other MAC addresses, TTL less one, and the checksums that belong.

    source, target: the ends that are replaced. tsval, tsecr: a timestamp, and what replaces it.
    """
    tcp = tcp_offset(frame)
    changes = {0: macs.packed(), ETHERNET + 8: bytes([frame[ETHERNET + 8] - 1])}
    for end, address_at, port_at in ((source, 12, 0), (target, 16, 2)):
        if end:
            changes[ETHERNET + address_at] = end.address.packed
            changes[tcp + port_at] = end.port.to_bytes(2, "big")
    for place, word in ((2, tsval), (6, tsecr)):
        if word:
            old, new = (value.to_bytes(4, "big") for value in word)
            header = frame[tcp : tcp + (frame[tcp + 12] >> 4) * 4]
            (at,) = (
                at + place
                for at in range(20, len(header) - 9)
                if header[at : at + 2] == b"\x08\x0a" and header[at + place : at + place + 4] == old
            )
            changes[tcp + at] = new
    return summed(patched(frame, changes))
