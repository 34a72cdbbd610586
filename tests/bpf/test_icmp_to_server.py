# SPDX-License-Identifier: Apache-2.0

import pytest
from scapy.layers.inet import IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.packet import Packet

from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.icmp import (
    CUT,
    DNS,
    DRAINING,
    HASHED,
    READY,
    ROUTER,
    UNREACHABLE,
    VIP,
    Family,
    Flow,
    arriving,
    at_server,
    cut_short,
    error,
    error_each,
    family_each,
    fill,
    of_router,
    outcome,
    stamped,
    to_servers,
)
from tests.bpf.packets import MSS, NOP, SACK_OK, timestamp, usual

pytestmark = pytest.mark.root


@pytest.fixture
def balancer(icmp_balancer: Balancer) -> Balancer:
    """The balancer, with nothing remembered."""
    return icmp_balancer


def _expect(balancer: Balancer, packet: bytes, out: bytes) -> None:
    """It is sent to a server, as `out`."""
    assert outcome(balancer, packet) == (Verdict.REDIRECT, out.hex(" "), {"icmp_to_server": 1})


@error_each
@pytest.mark.parametrize("number", [READY, DRAINING])
def test_an_error_goes_to_the_server_whose_timestamp_it_quotes(
    balancer: Balancer, family: Family, kind: Packet, number: int
) -> None:
    """The cookie in the quoted TSval names the server, which then recognises its own packet."""
    flow = Flow(family)
    quote = flow.reply(stamped(flow, number))
    _expect(
        balancer,
        arriving(of_router(flow, quote, kind)),
        to_servers(at_server(flow, quote, number, kind)),
    )


TIMESTAMPS = {
    "at an odd offset": lambda stamp: NOP + stamp,
    "after other options": lambda stamp: MSS + SACK_OK + stamp,
    "after two NOPs and others": lambda stamp: NOP + NOP + SACK_OK + NOP + stamp,
    "last of forty bytes": lambda stamp: NOP * 30 + stamp,
}


@family_each
@pytest.mark.parametrize("options", TIMESTAMPS.values(), ids=TIMESTAMPS.keys())
def test_a_quoted_timestamp_may_stand_anywhere(balancer: Balancer, family: Family, options: object) -> None:
    """RFC 7323 lets options stand at any byte."""
    assert callable(options)
    flow = Flow(family)
    quote = flow.reply(options(timestamp(flow.stamped(DRAINING), 9)))
    _expect(balancer, arriving(of_router(flow, quote)), to_servers(at_server(flow, quote, DRAINING)))


@family_each
@pytest.mark.parametrize("tags", [(10,), (100, 10)])
def test_tags_of_an_error_are_replaced_by_those_of_the_way(
    balancer: Balancer, family: Family, tags: tuple[int, ...]
) -> None:
    """From a VLAN, and into one."""
    flow = Flow(family)
    quote = flow.reply(stamped(flow, READY))
    packet, out = of_router(flow, quote), at_server(flow, quote, READY)
    _expect(balancer, arriving(packet, tags), to_servers(out))
    try:
        fill(balancer, tags)
        _expect(balancer, arriving(packet), to_servers(out, tags))
        _expect(balancer, arriving(packet, tags[:1]), to_servers(out, tags))
    finally:
        fill(balancer)


@family_each
@pytest.mark.parametrize("kept", [8, 12, 20, 21, 31])
def test_a_quote_without_its_timestamp_goes_where_the_handshake_went(
    balancer: Balancer, family: Family, kept: int
) -> None:
    """Routers may quote no more than eight bytes of TCP: RFC 792."""
    flow = Flow(family)
    syn = flow.packet(flow.at_client, flow.at_vip, usual(1, 0), b"", flags="S")
    assert balancer.run(arriving(syn)).verdict == Verdict.REDIRECT
    quote = cut_short(flow.reply(stamped(flow, DRAINING)), family, kept)
    _expect(balancer, arriving(of_router(flow, quote)), to_servers(at_server(flow, quote, READY)))


@family_each
def test_an_error_of_udp_goes_where_the_flow_went(balancer: Balancer, family: Family) -> None:
    """A datagram carries no cookie: what is remembered decides, even after eight bytes of quote."""
    flow = Flow(family, DNS)
    datagram = flow.packet(flow.at_client, flow.at_vip)
    assert balancer.run(arriving(datagram)).verdict == Verdict.REDIRECT
    for quote in (flow.reply(), cut_short(flow.reply(), family, 8)):
        _expect(balancer, arriving(of_router(flow, quote)), to_servers(at_server(flow, quote, READY)))


@family_each
def test_an_error_of_a_hashed_vip_goes_by_hash(balancer: Balancer, family: Family) -> None:
    """Whatever timestamp the server sent, it is no cookie."""
    flow = Flow(family, HASHED)
    for options in (b"", usual(flow.stamped(DRAINING), 1)):
        quote = flow.reply(options)
        _expect(balancer, arriving(of_router(flow, quote)), to_servers(at_server(flow, quote, READY)))


def test_options_of_both_ipv4_headers_are_passed_over(balancer: Balancer) -> None:
    """Neither the router's nor the server's header need be of twenty bytes."""
    flow = Flow(4)
    segment = flow.packet(flow.at_vip, flow.at_client, stamped(flow, DRAINING))
    segment.options = [IPOption_Router_Alert()]
    quote = bytes(segment)
    packet, out = of_router(flow, quote), at_server(flow, quote, DRAINING)
    for each in (packet, out):
        each.options = [IPOption_Router_Alert()] * 3
    _expect(balancer, arriving(packet), to_servers(out))


EXTENSIONS = {
    "hop by hop": IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]),
    "destination options": IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(20))]),
    "atomic fragment": IPv6ExtHdrFragment(id=7),
    "first fragment": IPv6ExtHdrFragment(id=7, m=1),
}


@pytest.mark.parametrize("extension", EXTENSIONS.values(), ids=EXTENSIONS.keys())
def test_extension_headers_of_the_quote_are_passed_over(balancer: Balancer, extension: Packet) -> None:
    """The ports stand behind them."""
    flow = Flow(6)
    quote = flow.reply(stamped(flow, DRAINING), extension=extension)
    _expect(balancer, arriving(of_router(flow, quote)), to_servers(at_server(flow, quote, DRAINING)))


def test_extension_headers_of_the_error_are_passed_over(balancer: Balancer) -> None:
    """A router's message may have options of its own."""
    flow = Flow(6)
    quote = flow.reply(stamped(flow, DRAINING))
    extension = EXTENSIONS["destination options"]
    server, _ = flow.at_server(DRAINING)
    seen = flow.readdressed(quote, flow.at_server(DRAINING), flow.at_client)
    packet = error(6, ROUTER[6], VIP[6], quote, extension=extension)
    _expect(
        balancer, arriving(packet), to_servers(error(6, ROUTER[6], server, seen, ttl=63, extension=extension))
    )


@family_each
def test_an_error_that_no_server_can_get_is_dropped(balancer: Balancer, family: Family) -> None:
    """Its end, its server's, and a size beyond the way there: each has its counter."""
    flow = Flow(family)
    ready = flow.reply(stamped(flow, READY))
    long = flow.reply(stamped(flow, DRAINING), b"x" * 1360)
    for packet, event in (
        (of_router(flow, ready, ttl=1), "drop_ttl_expired"),
        (of_router(flow, flow.reply(stamped(flow, 17))), "drop_unknown_server"),
        (of_router(flow, flow.reply(stamped(flow, CUT))), "drop_server_unreachable"),
        (of_router(flow, flow.reply(stamped(flow, UNREACHABLE))), "drop_server_unreachable"),
        (of_router(flow, long), "drop_too_big"),
    ):
        assert outcome(balancer, arriving(packet)) == (Verdict.DROP, "", {event: 1})
