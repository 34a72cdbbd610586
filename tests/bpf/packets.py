# SPDX-License-Identifier: Apache-2.0
"""Frames as they arrive, crafted by scapy, and as they must leave: changed byte by byte, summed anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import pairwise
from typing import NamedTuple, TypedDict, Unpack

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from poise.servers.model import Address
from tests.bpf.headers import (
    ETHERNET,
    FRAGMENT,
    Macs,
    address_place,
    ip_length,
    ip_offset,
    patched,
    tcp_offset,
    transport_of,
    with_ip_length,
    without_tags,
)

TCP_NUMBER, UDP_NUMBER = 6, 17  # IPPROTO_TCP, IPPROTO_UDP

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

    address: Address
    port: int


class Extension(NamedTuple):
    """An extension header of IPv6: its number, and what follows its first byte (RFC 8200, section 4)."""

    number: int
    content: bytes


HOP_BY_HOP = Extension(0, b"\0\1\4\0\0\0\0")
ROUTING = Extension(43, b"\2\4\0\0\0\0\0" + bytes(16))  # type 4, no segments left
DESTINATION = Extension(60, b"\0\1\4\0\0\0\0")
ATOMIC_FRAGMENT = Extension(FRAGMENT, b"\0\0\0\x12\x34\x56\x78")  # RFC 6946
LONG_DESTINATION = Extension(60, b"\x0f\1\x7c" + bytes(124))


def timestamp(tsval: int, tsecr: int) -> bytes:
    """Return the ten bytes of a timestamp option."""
    return b"\x08\x0a" + tsval.to_bytes(4, "big") + tsecr.to_bytes(4, "big")


def usual(tsval: int, tsecr: int) -> bytes:
    """Return the options that every stack sends once a connection is established."""
    return NOP + NOP + timestamp(tsval, tsecr)


class Fields(TypedDict, total=False):
    """What else a packet can say."""

    payload: bytes
    seq: int
    ack: int
    window: int
    ttl: int
    tos: int
    identification: int
    dont_fragment: bool


def _ip(source: End, target: End, fields: Fields) -> Packet:
    if source.address.version == 6:
        return IPv6(
            src=str(source.address),
            dst=str(target.address),
            hlim=fields.get("ttl", 64),
            tc=fields.get("tos", 0),
            fl=fields.get("identification", 0x4D2),
        )
    return IP(
        src=str(source.address),
        dst=str(target.address),
        id=fields.get("identification", 0x4D2),
        flags="DF" if fields.get("dont_fragment") else 0,
        ttl=fields.get("ttl", 64),
        tos=fields.get("tos", 0),
    )


def _framed(macs: Macs, packet: Packet) -> bytes:
    return bytes(Ether(dst=macs.target.hex(":"), src=macs.source.hex(":")) / packet)


def segment(
    macs: Macs, source: End, target: End, flags: str, options: bytes = b"", **fields: Unpack[Fields]
) -> bytes:
    """Return a frame with right checksums; options are filled up with END."""
    options = options.ljust(-(-len(options) // 4) * 4, END)
    tcp = TCP(
        sport=source.port,
        dport=target.port,
        flags=flags,
        seq=fields.get("seq", 0),
        ack=fields.get("ack", 0),
        window=fields.get("window", 501),
        dataofs=5 + len(options) // 4,
    )
    return _framed(macs, _ip(source, target, fields) / tcp / Raw(options + fields.get("payload", b"")))


def datagram(macs: Macs, source: End, target: End, **fields: Unpack[Fields]) -> bytes:
    """Return a frame of UDP with right checksums."""
    udp = UDP(sport=source.port, dport=target.port)
    return _framed(macs, _ip(source, target, fields) / udp / Raw(fields.get("payload", b"")))


def summed(frame: bytes) -> bytes:
    """Return a frame of TCP or UDP, of any family, with its checksums computed from scratch."""
    at = ip_offset(frame)
    if frame[at] >> 4 == 4:
        frame = patched(frame, {at + 10: bytes(2)})
        frame = patched(frame, {at + 10: checksum(frame[at : at + (frame[at] & 15) * 4]).to_bytes(2, "big")})
    protocol, transport = transport_of(frame)
    place = transport + (16 if protocol == TCP_NUMBER else 6)
    frame = patched(frame, {place: bytes(2)})
    return patched(frame, {place: transport_sum(frame, protocol, transport).to_bytes(2, "big")})


def transport_sum(frame: bytes, protocol: int, transport: int) -> int:
    """Return the checksum of the pseudo-header and all from `transport` on; of UDP never 0 (RFC 768)."""
    at = ip_offset(frame)
    body = frame[transport : at + ip_length(frame)]
    places = (address_place(frame, "source"), address_place(frame, "target"))
    addresses = b"".join(frame[place.start : place.stop] for place in places)
    number = checksum(addresses + len(body).to_bytes(4, "big") + bytes((0, 0, 0, protocol)) + body)
    return number or (0xFFFF if protocol == UDP_NUMBER else 0)


def from_port(frame: bytes, port: int) -> bytes:
    """Return the frame from another port, for floods: its checksum is wrong then."""
    return patched(frame, {transport_of(frame)[1]: port.to_bytes(2, "big")})


def without_sum(frame: bytes) -> bytes:
    """Return a frame of UDP that has no checksum: 0 (RFC 768)."""
    return patched(frame, {transport_of(frame)[1] + 6: bytes(2)})


def with_ip_options(frame: bytes, options: bytes) -> bytes:
    """Return the frame of IPv4 with IP options in front of its TCP header."""
    words = 5 + len(options) // 4
    length = (ip_length(frame) + len(options)).to_bytes(2, "big")
    frame = patched(frame, {ETHERNET: bytes([0x40 | words]), ETHERNET + 2: length})
    return summed(frame[: ETHERNET + 20] + options + frame[ETHERNET + 20 :])


def with_extensions(frame: bytes, *extensions: Extension) -> bytes:
    """Return the frame of IPv6 with these extension headers in front of what it carries."""
    at = ip_offset(frame)
    following = frame[at + 6]
    chain = b""
    for extension in reversed(extensions):
        chain = bytes([following]) + extension.content + chain
        following = extension.number
    longer = patched(frame, {at + 6: bytes([following])})
    longer = longer[: at + 40] + chain + longer[at + 40 :]
    return with_ip_length(longer, ip_length(frame) + len(chain))


def tagged(frame: bytes, *tags: int) -> bytes:
    """Return the frame with these VLAN ids, the outer one first, of two the type of IEEE 802.1ad."""
    types = (b"\x88\xa8", b"\x81\x00")[-len(tags) :] if tags else ()
    inner = b"".join(kind + tag.to_bytes(2, "big") for kind, tag in zip(types, tags, strict=True))
    return frame[:12] + inner + frame[12:]


def fragments(frame: bytes, *cuts: int, identification: int = 0x7A7A) -> list[bytes]:
    """Return the fragments of a packet, cut at these places, multiples of 8, behind its last header.

    RFC 791, section 3.2, and RFC 8200, section 4.5: of IPv6 the fragment header comes after all others.
    """
    at = ip_offset(frame)
    protocol, transport = transport_of(frame)
    body = frame[transport : at + ip_length(frame)]
    edges = [0, *cuts, len(body)]
    whole = []
    for start, stop in pairwise(edges):
        more = stop < len(body)
        if frame[at] >> 4 == 4:
            place = start // 8 | (0x2000 if more else 0)
            changes = {at + 4: identification.to_bytes(2, "big"), at + 6: place.to_bytes(2, "big")}
            head = patched(frame[:transport], changes)
        else:
            place = start | more
            header = bytes((protocol, 0)) + place.to_bytes(2, "big") + identification.to_bytes(4, "big")
            last = _last_header(frame, transport)
            head = patched(frame[:transport], {last: bytes([FRAGMENT])}) + header
        whole.append(_ip_summed(with_ip_length(head + body[start:stop], len(head) - at + stop - start)))
    return whole


def _last_header(frame: bytes, transport: int) -> int:
    """Return where the number of the transport protocol stands."""
    place, at = ip_offset(frame) + 6, ip_offset(frame) + 40
    while at < transport:
        place, at = at, at + (8 if frame[place] == FRAGMENT else 8 * (frame[at + 1] + 1))
    return place


def _ip_summed(frame: bytes) -> bytes:
    at = ip_offset(frame)
    if frame[at] >> 4 == 6:
        return frame
    frame = patched(frame, {at + 10: bytes(2)})
    return patched(frame, {at + 10: checksum(frame[at : at + (frame[at] & 15) * 4]).to_bytes(2, "big")})


def forwarded(
    frame: bytes,
    macs: Macs,
    *,
    source: End | None = None,
    target: End | None = None,
    tsval: tuple[int, int] | None = None,
    tsecr: tuple[int, int] | None = None,
    tags: tuple[int, ...] = (),
) -> bytes:
    """Return the same frame one hop on: other MAC addresses, TTL less one, and the checksums that belong.

    source, target: the ends that are replaced. tsval, tsecr: a timestamp, and what replaces it. tags: VLAN
    ids in place of those with which it came.
    """
    frame = without_tags(frame)
    protocol, transport = transport_of(frame)
    hops = ETHERNET + (8 if frame[ETHERNET] >> 4 == 4 else 7)
    changes = {0: macs.packed(), hops: bytes([frame[hops] - 1])}
    for end, name, port_at in ((source, "source", 0), (target, "target", 2)):
        if end:
            changes[address_place(frame, name).start] = end.address.packed
            changes[transport + port_at] = end.port.to_bytes(2, "big")
    for place, word in ((2, tsval), (6, tsecr)):
        if word:
            changes |= _timestamp_change(frame, place, word)
    changed = patched(frame, changes)
    if protocol == UDP_NUMBER and frame[transport + 6 : transport + 8] == bytes(2):
        return tagged(_ip_summed(changed), *tags)
    return tagged(summed(changed), *tags)


def forwarded_later(
    frame: bytes,
    macs: Macs,
    *,
    source: Address | None = None,
    target: Address | None = None,
    tags: tuple[int, ...] = (),
) -> bytes:
    """Return a fragment without ports one hop on."""
    frame = without_tags(frame)
    hops = ETHERNET + (8 if frame[ETHERNET] >> 4 == 4 else 7)
    changes = {0: macs.packed(), hops: bytes([frame[hops] - 1])}
    for address, name in ((source, "source"), (target, "target")):
        if address:
            changes[address_place(frame, name).start] = address.packed
    return tagged(_ip_summed(patched(frame, changes)), *tags)


def _timestamp_change(frame: bytes, place: int, word: tuple[int, int]) -> Mapping[int, bytes]:
    old, new = (value.to_bytes(4, "big") for value in word)
    tcp = tcp_offset(frame)
    header = frame[tcp : tcp + (frame[tcp + 12] >> 4) * 4]
    (at,) = (
        at + place
        for at in range(20, len(header) - 9)
        if header[at : at + 2] == b"\x08\x0a" and header[at + place : at + place + 4] == old
    )
    return {tcp + at: new}


def target_of(frame: bytes) -> End:
    """Return the end that the frame is for."""
    return _end(frame, "target", 2)


def source_of(frame: bytes) -> End:
    """Return the end that the frame comes from."""
    return _end(frame, "source", 0)


def _end(frame: bytes, name: str, port_at: int) -> End:
    place, transport = address_place(frame, name), transport_of(frame)[1] + port_at
    return End(
        ip_address(frame[place.start : place.stop]), int.from_bytes(frame[transport : transport + 2], "big")
    )


def timestamps_of(frame: bytes) -> tuple[int, int]:
    """Return TSval and TSecr of a frame with the `usual` options."""
    at = tcp_offset(frame) + 24
    return int.from_bytes(frame[at : at + 4], "big"), int.from_bytes(frame[at + 4 : at + 8], "big")
