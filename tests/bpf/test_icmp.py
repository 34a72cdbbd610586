# SPDX-License-Identifier: Apache-2.0
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest
from scapy.layers.inet import ICMP, IP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.packet import Packet, Raw

from tests.bpf.balancer import Balancer, TcVerdict, Verdict
from tests.bpf.icmp import (
    CLIENT,
    CUT,
    DIRECT_CLIENT,
    DNS,
    DRAINING,
    ERRORS,
    FAMILIES,
    HASHED,
    MODEL,
    OWN,
    READY,
    ROUTER,
    SERVERS_MAC,
    SILENT_CLIENT,
    STATES,
    UNREACHABLE,
    UNREACHABLE_CLIENT,
    VIP,
    WEB,
    Family,
    Flow,
    Site,
    arriving,
    counted,
    error,
    from_servers,
    hops,
    ip,
    run_with_budget,
    to_client,
    to_servers,
)
from tests.bpf.packets import MSS, NOP, SACK_OK, patched, timestamp, usual
from tests.bpf.services import KEY, TOKEN

pytestmark = pytest.mark.root

family_each = pytest.mark.parametrize("family", FAMILIES)
error_each = pytest.mark.parametrize(
    ("family", "kind"),
    [pytest.param(f, k, id=f"{f}, {name}") for f in FAMILIES for name, k in ERRORS[f].items()],
)
DIRECT = frozenset(ip_network(address) for address in DIRECT_CLIENT.values())
SECONDS = 10  # until a frame that must come is given up


@pytest.fixture(scope="module")
def world() -> Iterator[Site]:
    """The network around the balancer."""
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def loaded(world: Site) -> Iterator[Balancer]:
    """The balancer; while the tests run, this thread lives where it is."""
    with world.here.enter():
        balancer = Balancer()
        _fill(balancer)
        yield balancer
        balancer.close()


@pytest.fixture
def balancer(loaded: Balancer) -> Balancer:
    """The balancer, with nothing remembered."""
    loaded.start_afresh()
    return loaded


def _fill(balancer: Balancer, tags: tuple[int, ...] = ()) -> None:
    balancer.fill(MODEL, hops(socket.if_nametoindex("eth1"), tags), KEY, DIRECT)


def _run(balancer: Balancer, packet: bytes) -> tuple[Verdict, str, dict[str, int]]:
    before = balancer.events()
    result = balancer.run(packet)
    out = "" if result.verdict == Verdict.DROP else result.packet.hex(" ")
    return result.verdict, out, counted(balancer, before)


def _expect(balancer: Balancer, packet: bytes, out: bytes) -> None:
    """It is sent to a server, as `out`."""
    assert _run(balancer, packet) == (Verdict.REDIRECT, out.hex(" "), {"icmp_to_server": 1})


def _stamped(flow: Flow, number: int) -> bytes:
    return usual(flow.stamped(number), 7)


def _to_server(flow: Flow, quote: bytes, number: int, kind: Packet | None = None, ttl: int = 63) -> Packet:
    """The error as the server gets it."""
    address, _ = flow.at_server(number)
    seen = flow.readdressed(quote, flow.at_server(number), flow.at_client)
    return error(flow.family, ROUTER[flow.family], address, seen, kind, ttl=ttl)


def _of_router(flow: Flow, quote: bytes, kind: Packet | None = None, ttl: int = 64) -> Packet:
    return error(flow.family, ROUTER[flow.family], VIP[flow.family], quote, kind, ttl=ttl)


@error_each
@pytest.mark.parametrize("number", [READY, DRAINING])
def test_an_error_goes_to_the_server_whose_timestamp_it_quotes(
    balancer: Balancer, family: Family, kind: Packet, number: int
) -> None:
    """The cookie in the quoted TSval names the server, which then recognises its own packet."""
    flow = Flow(family)
    quote = flow.reply(_stamped(flow, number))
    _expect(
        balancer,
        arriving(_of_router(flow, quote, kind)),
        to_servers(_to_server(flow, quote, number, kind)),
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
    _expect(balancer, arriving(_of_router(flow, quote)), to_servers(_to_server(flow, quote, DRAINING)))


@family_each
@pytest.mark.parametrize("tags", [(10,), (100, 10)])
def test_tags_of_an_error_are_replaced_by_those_of_the_way(
    balancer: Balancer, family: Family, tags: tuple[int, ...]
) -> None:
    """From a VLAN, and into one."""
    flow = Flow(family)
    quote = flow.reply(_stamped(flow, READY))
    packet, out = _of_router(flow, quote), _to_server(flow, quote, READY)
    _expect(balancer, arriving(packet, tags), to_servers(out))
    try:
        _fill(balancer, tags)
        _expect(balancer, arriving(packet), to_servers(out, tags))
        _expect(balancer, arriving(packet, tags[:1]), to_servers(out, tags))
    finally:
        _fill(balancer)


@family_each
@pytest.mark.parametrize("kept", [8, 12, 20, 21, 31])
def test_a_quote_without_its_timestamp_goes_where_the_handshake_went(
    balancer: Balancer, family: Family, kept: int
) -> None:
    """Routers may quote no more than eight bytes of TCP: RFC 792."""
    flow = Flow(family)
    syn = flow.packet(flow.at_client, flow.at_vip, usual(1, 0), b"", flags="S")
    assert balancer.run(arriving(syn)).verdict == Verdict.REDIRECT
    quote = _cut(flow.reply(_stamped(flow, DRAINING)), family, kept)
    _expect(balancer, arriving(_of_router(flow, quote)), to_servers(_to_server(flow, quote, READY)))


def _cut(quote: bytes, family: Family, kept: int) -> bytes:
    return quote[: (20 if family == 4 else 40) + kept]


@family_each
def test_an_error_of_udp_goes_where_the_flow_went(balancer: Balancer, family: Family) -> None:
    """A datagram carries no cookie: what is remembered decides, even after eight bytes of quote."""
    flow = Flow(family, DNS)
    datagram = flow.packet(flow.at_client, flow.at_vip)
    assert balancer.run(arriving(datagram)).verdict == Verdict.REDIRECT
    for quote in (flow.reply(), _cut(flow.reply(), family, 8)):
        _expect(balancer, arriving(_of_router(flow, quote)), to_servers(_to_server(flow, quote, READY)))


@family_each
def test_an_error_of_a_hashed_vip_goes_by_hash(balancer: Balancer, family: Family) -> None:
    """Whatever timestamp the server sent, it is no cookie."""
    flow = Flow(family, HASHED)
    for options in (b"", usual(flow.stamped(DRAINING), 1)):
        quote = flow.reply(options)
        _expect(balancer, arriving(_of_router(flow, quote)), to_servers(_to_server(flow, quote, READY)))


def test_options_of_both_ipv4_headers_are_passed_over(balancer: Balancer) -> None:
    """Neither the router's nor the server's header need be of twenty bytes."""
    flow = Flow(4)
    segment = flow.packet(flow.at_vip, flow.at_client, _stamped(flow, DRAINING))
    segment.options = [IPOption_Router_Alert()]
    quote = bytes(segment)
    packet, out = _of_router(flow, quote), _to_server(flow, quote, DRAINING)
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
    quote = flow.reply(_stamped(flow, DRAINING), extension=extension)
    _expect(balancer, arriving(_of_router(flow, quote)), to_servers(_to_server(flow, quote, DRAINING)))


def test_extension_headers_of_the_error_are_passed_over(balancer: Balancer) -> None:
    """A router's message may have options of its own."""
    flow = Flow(6)
    quote = flow.reply(_stamped(flow, DRAINING))
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
    ready = flow.reply(_stamped(flow, READY))
    long = flow.reply(_stamped(flow, DRAINING), b"x" * 1360)
    for packet, event in (
        (_of_router(flow, ready, ttl=1), "drop_ttl_expired"),
        (_of_router(flow, flow.reply(_stamped(flow, 17))), "drop_unknown_server"),
        (_of_router(flow, flow.reply(_stamped(flow, CUT))), "drop_server_unreachable"),
        (_of_router(flow, flow.reply(_stamped(flow, UNREACHABLE))), "drop_server_unreachable"),
        (_of_router(flow, long), "drop_too_big"),
    ):
        assert _run(balancer, arriving(packet)) == (Verdict.DROP, "", {event: 1})


@error_each
@pytest.mark.parametrize("port", [WEB, DNS])
@pytest.mark.parametrize("kept", [8, 1000])
def test_an_error_of_a_server_comes_to_the_client_from_the_vip(
    balancer: Balancer, family: Family, kind: Packet, port: int, kept: int
) -> None:
    """The client sees nothing of the server: neither as the sender, nor in its own packet."""
    flow = Flow(family, port)
    quote = _cut(bytes(flow.packet(flow.at_client, flow.at_server(READY), usual(8, 9))), family, kept)
    server, _ = flow.at_server(READY)
    client, _ = flow.at_client
    packet = error(family, server, client, quote, kind)
    seen = flow.readdressed(quote, flow.at_client, flow.at_vip)
    out = error(family, VIP[family], client, seen, kind, ttl=63)
    expected = (Verdict.REDIRECT, to_client(out).hex(" "), {"icmp_to_client": 1})
    assert _run(balancer, from_servers(packet)) == expected


@error_each
@pytest.mark.parametrize("tags", [(), (10,), (100, 10)])
def test_an_error_of_a_router_before_the_server_keeps_its_source(
    balancer: Balancer, family: Family, kind: Packet, tags: tuple[int, ...]
) -> None:
    """Only the quoted packet is translated, so that a traceroute shows the router; tags do not leak."""
    flow = Flow(family)
    quote = bytes(flow.packet(flow.at_client, flow.at_server(DRAINING), usual(8, 9)))
    client, _ = flow.at_client
    seen = flow.readdressed(quote, flow.at_client, flow.at_vip)
    packet = error(family, ROUTER[family], client, quote, kind)
    out = error(family, ROUTER[family], client, seen, kind, ttl=63)
    expected = (Verdict.REDIRECT, to_client(out).hex(" "), {"icmp_to_client": 1})
    assert _run(balancer, from_servers(packet, tags)) == expected


@family_each
def test_errors_to_clients_that_do_not_leave_are_counted(balancer: Balancer, family: Family) -> None:
    """Own addresses, direct prefixes, cut servers and the end of hops: as with replies."""

    def from_router(client: str, number: int = READY, ttl: int = 64) -> bytes:
        flow = Flow(family, client=client)
        quote = bytes(flow.packet(flow.at_client, flow.at_server(number)))
        return from_servers(error(family, ROUTER[family], client, quote, ttl=ttl))

    for packet, verdict, event in (
        (from_router(OWN[family]), Verdict.PASS, "pass_own_address"),
        (from_router(DIRECT_CLIENT[family]), Verdict.PASS, "pass_direct"),
        (from_router(UNREACHABLE_CLIENT[family]), Verdict.PASS, "pass_no_route"),
        (from_router(CLIENT[family], ttl=1), Verdict.PASS, "pass_reply_ttl_expired"),
        (from_router(CLIENT[family], CUT), Verdict.DROP, "drop_reply_of_cut_server"),
    ):
        out = packet.hex(" ") if verdict == Verdict.PASS else ""
        assert _run(balancer, packet) == (verdict, out, {event: 1})


def _passing(family: Family) -> Iterator[tuple[str, Packet, str]]:
    flow = Flow(family)
    quote = flow.reply(_stamped(flow, READY))
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
    assert _run(balancer, sent) == (Verdict.PASS, sent.hex(" "), {event: 1})


@family_each
def test_padding_of_the_frame_is_no_quote(balancer: Balancer, family: Family) -> None:
    """What Ethernet appends does not belong to the packet, though it may look like ports and options."""
    flow = Flow(family)
    quote = flow.reply(_stamped(flow, READY))
    for kept, event in ((7, "pass_icmp_malformed"), (8, "icmp_to_all"), (20, "icmp_to_all")):
        cut = _cut(quote, family, kept)
        padded = arriving(_of_router(flow, cut)) + quote[len(cut) :]
        verdict, _, events = _run(balancer, padded)
        assert (verdict, events) == (Verdict.PASS, {event: 1})


def test_an_icmp_header_cut_short_is_left_to_the_kernel(balancer: Balancer) -> None:
    """Seven bytes are no header."""
    sent = arriving(ip(4, ROUTER[4], VIP[4]) / Raw(b"\3\4\0\0\0\0\5"))[:41]
    sent = patched(sent, {23: b"\1"})
    assert _run(balancer, sent) == (Verdict.PASS, sent.hex(" "), {"pass_truncated": 1})


class Wire:
    """What leaves towards servers, as the other end of that link sees it."""

    def __init__(self, site: Site) -> None:
        with site.servers.enter():
            self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self._ear.bind(("eth0", 0x0003))
        self._ear.settimeout(SECONDS)

    def heard(self, number: int) -> list[bytes]:
        """Return so many IP packets of errors."""
        frames: list[bytes] = []
        while len(frames) < number:
            frame = self._ear.recv(65535)
            if frame[:6] == bytes.fromhex("02b000000002"):
                frames.append(frame)
        return frames

    def close(self) -> None:
        """Hear nothing more."""
        self._ear.close()


@contextmanager
def _overheard(site: Site) -> Iterator[Wire]:
    wire = Wire(site)
    try:
        yield wire
    finally:
        wire.close()


@family_each
@pytest.mark.parametrize("port", [WEB, DNS])
def test_an_error_of_a_forgotten_flow_goes_to_all_servers(
    balancer: Balancer, world: Site, family: Family, port: int
) -> None:
    """Each that can be reached gets it as if it had sent the packet; those that did not ignore it."""
    flow = Flow(family, port)
    quote = _cut(flow.reply(), family, 8)
    sent = arriving(_of_router(flow, quote))
    verdict, out, events = _run(balancer, sent)
    handed_up = patched(sent, {6: TOKEN})
    assert (verdict, out, events) == (Verdict.PASS, handed_up.hex(" "), {"icmp_to_all": 1})
    with _overheard(world) as wire:
        before = balancer.events()
        assert balancer.run_slow_path(handed_up)[0] == TcVerdict.SHOT
        assert counted(balancer, before) == {}
        heard = wire.heard(2)
    usable = [number for number in STATES if number not in (CUT, UNREACHABLE)]
    expected = [to_servers(_to_server(flow, quote, number)) for number in sorted(usable)]
    assert [frame.hex(" ") for frame in heard] == [frame.hex(" ") for frame in expected]


@family_each
def test_copies_of_errors_are_limited(balancer: Balancer, family: Family) -> None:
    """Whoever floods with errors does not have them multiplied without bound."""
    flow = Flow(family)
    sent = patched(arriving(_of_router(flow, _cut(flow.reply(), family, 8))), {6: TOKEN})
    events = run_with_budget(balancer, "icmp_copies", 1, lambda: balancer.run_slow_path(sent))
    assert events == {"drop_icmp_limit": 1}


@family_each
def test_the_kernel_finds_the_client_of_an_error(balancer: Balancer, family: Family) -> None:
    """An error that is complete but for the client's MAC address is sent by the kernel, as it is."""
    flow = Flow(family, client=SILENT_CLIENT[family])
    quote = bytes(flow.packet(flow.at_client, flow.at_server(READY)))
    client, _ = flow.at_client
    packet = from_servers(error(family, ROUTER[family], client, quote))
    seen = flow.readdressed(quote, flow.at_client, flow.at_vip)
    out = patched(
        to_client(error(family, ROUTER[family], client, seen, ttl=63)),
        {0: bytes.fromhex(SERVERS_MAC.replace(":", "")), 6: TOKEN},
    )
    expected = (Verdict.PASS, out.hex(" "), {"icmp_to_client": 1, "neighbour_unresolved": 1})
    assert _run(balancer, packet) == expected
    before = balancer.events()
    assert balancer.run_slow_path(out) == (TcVerdict.REDIRECT, out)
    assert counted(balancer, before) == {}
