# SPDX-License-Identifier: Apache-2.0
"""ICMP errors, and what is answered with one, under the sentences of docs/reference/packets.md."""

from collections.abc import Iterator

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from poise.servers.model import Address
from tests.bpf.connection import Connection
from tests.bpf.headers import ip_offset
from tests.bpf.network import CLIENT_MAC, CLIENTS_MAC
from tests.bpf.packets import End, tagged, usual
from tests.bpf.services import EMPTY, FAMILIES, IPV4, MTU, NARROW_VIP, Family, server_of
from tests.bpf.unexpected import (
    BUILDERS,
    CLOCK,
    PORT,
    Builder,
    Sample,
    as_sample,
    packet,
    reply,
    request,
    web,
)

ERRORS: dict[str, Builder] = {}  # apart, because what a damaged one quotes is checked where errors are tested

MD5 = b"\x13\x12" + bytes(16)  # RFC 2385
AO = b"\x1d\x10\x01\x02" + bytes(12)  # RFC 5925


def _errors(sentence: str, builder: Builder) -> None:
    ERRORS[sentence] = builder


def error(family: Family, target: Address, quote: bytes, *, more: bool = False) -> bytes:
    """Return a router's message that a packet, from its IP header on, could not be delivered."""
    router = str(family.far_client)
    message: Packet
    if family.version == 4:
        message = IP(src=router, dst=str(target), flags="MF" if more else 0) / ICMP(type=3, code=1)
    else:
        message = IPv6(src=router, dst=str(target))
        if more:
            message /= IPv6ExtHdrFragment(m=1)
        message /= ICMPv6DestUnreach(code=3)
    return bytes(Ether(dst=CLIENTS_MAC.hex(":"), src=CLIENT_MAC.hex(":")) / message / Raw(quote))


def _seen_by_client(family: Family) -> bytes:
    connection = web(family)
    frame = reply(family)
    out = connection.at_client(frame, (CLOCK, connection.stamped(CLOCK, 0, mark=1)))
    return out[ip_offset(out) :]


def _about_replies() -> Iterator[bytes]:
    for family in FAMILIES:
        found = error(family, family.web.address, _seen_by_client(family))
        yield from (found, tagged(found, 7))


def _about_replies_of_nobody() -> Iterator[bytes]:
    for family in FAMILIES:
        header = 20 if family.version == 4 else 40
        yield error(family, family.web.address, _seen_by_client(family)[: header + 8])


def _about_requests() -> Iterator[bytes]:
    for family in FAMILIES:
        connection = web(family)
        out = connection.at_server(request(family), server_of(family.web, 0))
        yield error(family, family.client, out[ip_offset(out) :])


def _about_others() -> Iterator[bytes]:
    for family in FAMILIES:
        stray = Connection(family.web, End(family.client, PORT)).request("A")
        yield error(family, family.client, stray[ip_offset(stray) :])


def _without_quote() -> Iterator[bytes]:
    for family in FAMILIES:
        yield from (error(family, family.web.address, _seen_by_client(family)[:kept]) for kept in (0, 19, 27))


def _in_fragments() -> Iterator[bytes]:
    yield from (error(family, family.web.address, _seen_by_client(family), more=True) for family in FAMILIES)


_errors("an ICMP error that quotes a packet of a VIP", _about_replies)
_errors(
    "an ICMP error that quotes so little of a VIP's packet that no server can be told",
    _about_replies_of_nobody,
)
_errors("an ICMP error that quotes a packet to a server", _about_requests)
_errors("an ICMP error that quotes anything else", _about_others)
_errors("an ICMP error that quotes less than an IP header and eight bytes", _without_quote)
_errors("the first fragment of an ICMP error", _in_fragments)


@packet("too big for the way to the server, not to be fragmented")
def _too_big() -> Iterator[bytes]:
    connection = Connection(NARROW_VIP, End(IPV4.client, PORT))
    options = usual(77, connection.stamped(CLOCK, 0, mark=1))
    frame = connection.request("A", options, payload=bytes(MTU), dont_fragment=True)
    yield from (frame, tagged(frame, 7))


@packet("a SYN with a signature of TCP, by MD5 or AO")
def _signed() -> Iterator[bytes]:
    for vip in (*(family.web for family in FAMILIES), EMPTY):
        client = IPV4.client if vip.address.version == 4 else FAMILIES[1].client
        yield from (Connection(vip, End(client, PORT)).syn(options) for options in (MD5, AO))


def corpus() -> list[tuple[str, Sample]]:
    """Return all packets but ICMP errors, with their sentences."""
    return [(sentence, as_sample(made)) for sentence, builder in BUILDERS.items() for made in builder()]
