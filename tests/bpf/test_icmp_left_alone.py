# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.headers import patched
from tests.bpf.icmp import (
    CLIENT,
    FAMILIES,
    READY,
    ROUTER,
    VIP,
    WEB,
    Family,
    Flow,
    arriving,
    cut_short,
    error,
    family_each,
    ip,
    of_router,
    outcome,
    stamped,
)
from tests.bpf.packets import usual

pytestmark = pytest.mark.root


@pytest.fixture
def balancer(icmp_balancer: Balancer) -> Balancer:
    """The balancer, with nothing remembered."""
    return icmp_balancer


def _passing(family: Family) -> Iterator[tuple[str, Packet, str]]:
    flow = Flow(family)
    quote = flow.reply(stamped(flow, READY))
    vip, router = VIP[family], ROUTER[family]
    other = "203.0.113.5" if family == 4 else "2001:db8:f::5"
    echo: Packet = ICMP(type=8) if family == 4 else ICMPv6EchoRequest()
    yield "echo request to the VIP", ip(family, router, vip) / echo, "pass_other_protocol"
    if family == 4:
        for kind, name in ((4, "source quench"), (5, "redirect"), (0, "echo reply")):
            yield name, error(4, router, vip, quote, ICMP(type=kind)), "pass_other_protocol"
        fragment = error(4, router, vip, quote)
        fragment.flags = "MF"
        later_quote: Packet = IP(quote)
        later_quote.frag = 10
    else:
        yield "solicitation", ip(6, router, vip) / ICMPv6ND_NS(tgt=vip), "pass_other_protocol"
        fragment = error(6, router, vip, quote, extension=IPv6ExtHdrFragment(m=1))
        later_quote = ip(6, vip, CLIENT[6], IPv6ExtHdrFragment(offset=10, nh=6)) / Raw(bytes(40))
    yield "fragment", fragment, "pass_icmp_fragment"
    yield "quote of a later fragment", error(family, router, vip, bytes(later_quote)), "pass_icmp_unrelated"
    for name, (source, target) in {
        "quote from another port": ((vip, 81), flow.at_client),
        "quote from elsewhere": ((other, WEB), flow.at_client),
        "quote to another port of a server": (flow.at_client, (flow.at_server(READY)[0], 1)),
    }.items():
        stray = bytes(flow.packet(source, target))
        yield name, error(family, router, source[0], stray), "pass_icmp_unrelated"
    yield "quote that somebody else sent", error(family, router, other, quote), "pass_icmp_unrelated"
    to_server = bytes(flow.packet(flow.at_client, flow.at_server(READY)))
    yield "quote that another client sent", error(family, router, other, to_server), "pass_icmp_unrelated"
    pings = bytes(ip(family, vip, CLIENT[family]) / echo / Raw(bytes(20)))
    yield "quote of an echo", error(family, router, vip, pings), "pass_icmp_unrelated"
    header = 20 if family == 4 else 40
    for kept in (0, 1, header - 1, header, header + 7):
        yield f"quote of {kept} bytes", error(family, router, vip, quote[:kept]), "pass_icmp_malformed"
    for first in (0x00, 0x40 if family == 4 else 0x50, 0x44, 0xF5):
        broken = bytes([first]) + quote[1:]
        yield f"quote that begins with {first:#x}", error(family, router, vip, broken), "pass_icmp_malformed"
    longer = error(family, router, vip, quote)
    if family == 4:
        longer.len = 2000
    else:
        longer.plen = 2000
    yield "length beyond the frame", longer, "pass_icmp_malformed"


@pytest.mark.parametrize(
    ("packet", "event"),
    [pytest.param(p, e, id=f"{f}, {law}") for f in FAMILIES for law, p, e in _passing(f)],
)
def test_all_other_icmp_is_left_to_the_kernel(balancer: Balancer, packet: Packet, event: str) -> None:
    """Byte by byte as it came: what is not about a packet of a VIP, and what cannot be read."""
    sent = arriving(packet)
    assert outcome(balancer, sent) == (Verdict.PASS, sent.hex(" "), {event: 1})


@family_each
def test_padding_of_the_frame_is_no_quote(balancer: Balancer, family: Family) -> None:
    """What Ethernet appends does not belong to the packet, though it may look like ports and options."""
    flow = Flow(family)
    quote = flow.reply(stamped(flow, READY))
    for kept, event in ((7, "pass_icmp_malformed"), (8, "icmp_to_all"), (20, "icmp_to_all")):
        short = cut_short(quote, family, kept)
        padded = arriving(of_router(flow, short)) + quote[len(short) :]
        verdict, _, events = outcome(balancer, padded)
        assert (verdict, events) == (Verdict.PASS, {event: 1})


def test_an_icmp_header_cut_short_is_left_to_the_kernel(balancer: Balancer) -> None:
    """Seven bytes are no header."""
    sent = arriving(ip(4, ROUTER[4], VIP[4]) / Raw(b"\3\4\0\0\0\0\5"))[:41]
    sent = patched(sent, {23: b"\1"})
    assert outcome(balancer, sent) == (Verdict.PASS, sent.hex(" "), {"pass_truncated": 1})


@family_each
@settings(deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_quoted_checksums_are_right(
    balancer: Balancer, family: Family, data: st.DataObject
) -> None:
    """Of any bytes behind the ICMP header: right checksums leave, and the kernel gets it unchanged."""
    flow = Flow(family)
    if data.draw(st.booleans()):
        quote, source, target = flow.reply(stamped(flow, READY)), ROUTER[family], VIP[family]
    else:
        quote = bytes(flow.packet(flow.at_client, flow.at_server(READY), usual(8, 9)))
        source, target = flow.at_server(READY)[0], CLIENT[family]
    changed = bytearray(quote[: data.draw(st.integers(0, len(quote)))])
    for _ in range(data.draw(st.integers(0, 3)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    sent = arriving(error(family, source, target, bytes(changed)))
    result = balancer.run(sent)
    if result.verdict == Verdict.PASS:
        assert result.packet[12:] == sent[12:]
    elif result.verdict == Verdict.REDIRECT:
        assert _summed(result.packet, family) == result.packet


def _summed(received: bytes, family: Family) -> bytes:
    """The frame with the checksums of its own headers computed from scratch."""
    header = 20 if family == 4 else 40
    at = 14 + header
    icmp = received[at : at + 2] + bytes(2) + received[at + 4 :]
    if family == 4:
        ip_header = received[14:24] + bytes(2) + received[26:at]
        changes = {24: checksum(ip_header).to_bytes(2), at + 2: checksum(icmp).to_bytes(2)}
    else:
        pseudo = received[22:at] + len(icmp).to_bytes(4) + b"\0\0\0\x3a"  # RFC 8200, section 8.1
        changes = {at + 2: checksum(pseudo + icmp).to_bytes(2)}
    return patched(received, changes)
