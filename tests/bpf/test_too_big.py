# SPDX-License-Identifier: Apache-2.0
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN
from scapy.packet import Packet, Raw

from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.icmp import (
    CLIENT_MAC,
    DNS,
    DRAINING,
    FAMILIES,
    HERE_MAC,
    MODEL,
    READY,
    SERVER_MTU,
    WEB,
    Family,
    Flow,
    Site,
    arriving,
    counted,
    frame,
    hops,
    run_with_budget,
)
from tests.bpf.packets import NOP, timestamp, usual
from tests.bpf.services import KEY

pytestmark = pytest.mark.root

MTU = SERVER_MTU[DRAINING]
LONGEST = {4: 576, 6: 1280}  # bytes of a message: RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4 c
HEADERS = {4: 28, 6: 48}  # before the quote

family_each = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def balancer() -> Iterator[Balancer]:
    """The balancer; while the tests run, this thread lives where it is."""
    with Site() as site, site.here.enter():
        balancer = Balancer()
        balancer.fill(MODEL, hops(socket.if_nametoindex("eth1")), KEY)
        yield balancer
        balancer.close()


@contextmanager
def _every_mtu(balancer: Balancer, mtu: int) -> Iterator[None]:
    """Meanwhile the ways to all servers have this MTU."""
    usual_hops = hops(socket.if_nametoindex("eth1"))
    balancer.fill(MODEL, {address: replace(hop, mtu=mtu) for address, hop in usual_hops.items()}, KEY)
    try:
        yield
    finally:
        balancer.fill(MODEL, usual_hops, KEY)


def _request(
    flow: Flow, length: int, options: bytes | None = None, extension: Packet | None = None
) -> Packet:
    """A packet of the client for the server with the small MTU, `length` bytes from its IP header on."""
    if options is None:
        options = usual(7, flow.stamped(DRAINING))
    ends = (flow.at_client, flow.at_vip)
    empty = len(flow.packet(*ends, options, b"", extension=extension))
    packet = flow.packet(*ends, options, bytes(range(256)) * 6, extension=extension)
    packet.lastlayer().load = packet.lastlayer().load[: length - empty]
    if flow.family == 4:
        packet.flags = "DF"
    assert len(packet) == length
    return packet


def _answer(packet: Packet, mtu: int = MTU) -> Packet:
    """What the client is told, with checksums computed from scratch."""
    quote = bytes(packet)
    if IP in packet:
        quote = quote[: LONGEST[4] - HEADERS[4]]
        return (
            IP(src=packet.dst, dst=packet.src, id=0, flags="DF", ttl=64)
            / ICMP(type=3, code=4, nexthopmtu=mtu)
            / Raw(quote[: len(quote) // 4 * 4])
        )
    quote = quote[: LONGEST[6] - HEADERS[6]]
    header = IPv6(src=packet.dst, dst=packet.src, hlim=64)
    return header / ICMPv6PacketTooBig(mtu=mtu) / Raw(quote[: len(quote) // 4 * 4])


def _check(balancer: Balancer, packet: Packet, answer: Packet, tags: tuple[int, ...] = ()) -> None:
    before = balancer.events()
    result = balancer.run(arriving(packet, tags))
    out = frame(CLIENT_MAC, HERE_MAC, answer, tags)
    assert (result.verdict, result.packet.hex(" ")) == (Verdict.TX, out.hex(" "))
    assert counted(balancer, before) == {"too_big_answered": 1}


@family_each
@pytest.mark.parametrize("length", [MTU + 1, MTU + 2, MTU + 3, MTU + 4, 1500])
@pytest.mark.parametrize("tags", [(), (10,), (100, 10)])
def test_a_client_is_told_the_mtu_of_the_way_to_its_server(
    balancer: Balancer, family: Family, length: int, tags: tuple[int, ...]
) -> None:
    """From the VIP's address, by the way that the packet came, quoting it as the client sent it."""
    packet = _request(Flow(family), length)
    _check(balancer, packet, _answer(packet), tags)


@family_each
def test_what_fits_is_forwarded(balancer: Balancer, family: Family) -> None:
    """The MTU itself is not too big; and of the other server no MTU is known."""
    flow = Flow(family)
    other = _request(flow, 1500, usual(7, flow.stamped(READY)))
    for packet in (_request(flow, MTU), other):
        before = balancer.events()
        assert balancer.run(arriving(packet)).verdict == Verdict.REDIRECT
        assert counted(balancer, before) == {}


@family_each
def test_the_quoted_echo_is_the_clients_own(balancer: Balancer, family: Family) -> None:
    """Also where its timestamps stand at an odd offset, or its echo is a SYN-ACK's."""
    flow = Flow(family)
    packet = _request(flow, 1450, NOP + timestamp(7, flow.stamped(DRAINING)))
    _check(balancer, packet, _answer(packet))


def test_the_quote_has_all_headers_of_ipv6(balancer: Balancer) -> None:
    """The client's kernel looks behind extension headers for the ports."""
    for extension in (IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(20))]), IPv6ExtHdrFragment(id=9, m=1)):
        packet = _request(Flow(6), 1450, extension=extension)
        _check(balancer, packet, _answer(packet))


def test_options_of_ipv4_are_quoted(balancer: Balancer) -> None:
    """The answer itself has none."""
    packet = _request(Flow(4), 1450)
    packet.options = [b"\x94\x04\0\0"]
    _check(balancer, packet, _answer(packet))


@family_each
def test_a_small_packet_is_quoted_in_whole_words(balancer: Balancer, family: Family) -> None:
    """Below the length of a message all of it is quoted, but for what makes no word of four bytes."""
    with _every_mtu(balancer, 300):
        packet = _request(Flow(family), 303)
        _check(balancer, packet, _answer(packet, 300))


@family_each
def test_datagrams_are_answered_too(balancer: Balancer, family: Family) -> None:
    """UDP depends on it as TCP does: RFC 8899 falls back to it, QUIC may use it."""
    flow = Flow(family, DNS)
    with _every_mtu(balancer, 1300):
        assert balancer.run(arriving(_request(flow, 1300))).verdict == Verdict.REDIRECT
        packet = _request(flow, 1400)
        _check(balancer, packet, _answer(packet, 1300))


def test_what_may_be_fragmented_is_dropped(balancer: Balancer) -> None:
    """Nobody who allows fragments waits for a message; poise makes no fragments."""
    packet = _request(Flow(4, WEB), 1450)
    packet.flags = 0
    before = balancer.events()
    assert balancer.run(arriving(packet)).verdict == Verdict.DROP
    assert counted(balancer, before) == {"drop_too_big": 1}


@family_each
def test_answers_are_limited(balancer: Balancer, family: Family) -> None:
    """RFC 4443, section 2.4 f: a flood of packets that are too big does not become one of messages."""
    sent = arriving(_request(Flow(family), 1500))
    events = run_with_budget(balancer, "too_big", 2, lambda: [balancer.run(sent) for _ in range(3)])
    assert events == {"too_big_answered": 2, "drop_too_big_limit": 1}
