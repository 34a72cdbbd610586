# SPDX-License-Identifier: Apache-2.0
"""Malformed and unexpected packets, under the sentences of docs/reference/packets.md."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import ip_length, ip_offset, patched, tcp_offset, transport_of, with_ip_length
from tests.bpf.network import (
    BLACKHOLED_CLIENT,
    CLIENT,
    CLIENT_MAC,
    CLIENTS_MAC,
    DIRECT_CLIENT,
    DIRECT_CLIENT6,
    NARROW_CLIENT,
    NARROW_CLIENT6,
    UNREACHABLE_CLIENT6,
)
from tests.bpf.packets import (
    DESTINATION,
    HOP_BY_HOP,
    LONG_DESTINATION,
    End,
    Extension,
    fragments,
    tagged,
    usual,
    with_extensions,
    without_sum,
)
from tests.bpf.services import FAMILIES, IPV4, IPV6, MTU, NARROW_NAMES, NARROW_VIP, Family, server_of

CLOCK = 0x3456789A
PORT = 40000


@dataclass(frozen=True)
class Sample:
    """A packet, and what comes before it."""

    packet: bytes
    before: tuple[bytes, ...] = ()


Builder = Callable[[], Iterable[bytes | Sample]]
BUILDERS: dict[str, Builder] = {}


def packet(sentence: str) -> Callable[[Builder], Builder]:
    """Register what makes the packets of a sentence."""

    def register(builder: Builder) -> Builder:
        BUILDERS[sentence] = builder
        return builder

    return register


def as_sample(made: bytes | Sample) -> Sample:
    """Return what a builder made, with nothing before it if it did not say."""
    return made if isinstance(made, Sample) else Sample(made)


def web(family: Family, **client: object) -> Connection:
    """Return a connection of TCP."""
    return Connection(family.web, End(client.get("client", family.client), PORT))  # type: ignore[arg-type]


def names(family: Family) -> Connection:
    """Return a flow of UDP."""
    return Connection(family.names, End(family.client, PORT))


def request(family: Family, server: int = 0, flags: str = "PA", *, mark: int = 1) -> bytes:
    """Return data of a client whose echo names a server."""
    connection = web(family)
    options = usual(77, connection.stamped(CLOCK, server, mark=mark))
    return connection.request(flags, options, payload=b"GET / HTTP/1.1\r\n", seq=CLIENT_ISN + 1, ack=1)


def reply(family: Family, server: int = 0, client: object = None) -> bytes:
    """Return data of a server."""
    connection = web(family, client=client or family.client)
    return connection.reply(server_of(family.web, server), "PA", usual(CLOCK, 77), payload=b"page" * 10)


def both_ways(family: Family) -> Iterator[bytes]:
    """Yield a packet of each protocol from a client and from a server."""
    yield request(family)
    yield reply(family)
    yield names(family).datagram(payload=b"question")
    yield names(family).answer(server_of(family.names, 0), payload=b"answer")


def in_two(frame: bytes) -> list[bytes]:
    """Return two fragments, the ports and TCP's options in the first."""
    return fragments(frame, 40 if transport_of(frame)[0] == 6 else 8)


def _each() -> Iterator[bytes]:
    for family in FAMILIES:
        yield from both_ways(family)


@packet("ARP, or any Ethernet type but IPv4, IPv6 and VLAN tags")
def _arp() -> Iterator[bytes]:
    arp = bytes.fromhex("0806 0001 0800 06 04 0001 020000000001 c6336407 000000000000 c000020a")
    for tags in ((), (7,), (200, 7)):
        yield tagged((CLIENTS_MAC + CLIENT_MAC + arp).ljust(60, b"\0"), *tags)
    yield from (patched(frame, {12: b"\x88\x47"}) for frame in _each())
    yield from (patched(frame, {12: b"\0\x40"}) for frame in _each())


@packet("more than two VLAN tags")
def _three_tags() -> Iterator[bytes]:
    yield from (tagged(tagged(frame, 1, 2), 3) for frame in _each())


@packet("to an Ethernet broadcast or multicast address")
def _not_unicast() -> Iterator[bytes]:
    for frame in _each():
        yield patched(frame, {0: b"\xff" * 6})
        yield patched(frame, {0: b"\x33\x33\0\0\0\1"})


@packet("from an Ethernet multicast address")
def _from_multicast() -> Iterator[bytes]:
    yield from (patched(frame, {6: b"\x33\x33\0\0\0\1"}) for frame in _each())


@packet("ESP, AH, ICMP that is no error, or any other protocol but TCP and UDP")
def _other_protocol() -> Iterator[bytes]:
    to = IP(src=str(CLIENT), dst=str(IPV4.web.address))
    yield bytes(Ether(dst=CLIENTS_MAC.hex(":"), src=CLIENT_MAC.hex(":")) / to / ICMP())
    for number in (2, 41, 47, 50, 51, 132):
        yield patched(request(IPV4), {23: bytes([number])})
    for number in (50, 51, 58, 59, 132, 135):
        yield with_extensions(request(IPV6), Extension(number, bytes(7)))
        yield with_extensions(request(IPV6), HOP_BY_HOP, Extension(number, bytes(7)))


@packet("ends before its ports do, or inside its IP headers")
def _truncated() -> Iterator[bytes]:
    for frame in _each():
        ports = transport_of(frame)
        needed = ports[1] + (20 if ports[0] == 6 else 8)
        yield from (frame[:length] for length in range(14, needed))
    chained = with_extensions(request(IPV6), HOP_BY_HOP, DESTINATION)
    yield from (chained[:length] for length in range(14, tcp_offset(chained) + 20))
    whole = tagged(request(IPV4), 200, 7)
    yield from (whole[:length] for length in range(14, tcp_offset(whole) + 20))


@packet("an IP header of another version than its Ethernet type says, or shorter than 20 bytes")
def _wrong_version() -> Iterator[bytes]:
    for frame in _each():
        at = ip_offset(frame)
        yield from (patched(frame, {at: bytes([version << 4 | 5])}) for version in (0, 5, 15))
    for frame in both_ways(IPV4):
        yield from (patched(frame, {14: bytes([0x40 | words])}) for words in range(5))


@packet("more than 8 IPv6 extension headers, or more than 256 bytes of them")
def _long_headers() -> Iterator[bytes]:
    for frame in both_ways(IPV6):
        yield with_extensions(frame, *(DESTINATION,) * 8)
        yield with_extensions(frame, LONG_DESTINATION, LONG_DESTINATION, DESTINATION)


@packet("neither for a VIP nor from a server")
def _unrelated() -> Iterator[bytes]:
    for frame in _each():
        at = transport_of(frame)[1]
        yield patched(frame, {at: b"\x30\x39\x30\x39"})
    for address in ("192.0.2.99", "203.0.113.1"):
        yield patched(request(IPV4), {30: IPv4Address(address).packed})


@packet("a later fragment whose first one was not seen here")
def _unknown_fragment() -> Iterator[bytes]:
    for family in FAMILIES:
        for frame in both_ways(family):
            yield from fragments(frame, 8, 16)[1:]


@packet("a later fragment whose first one was forwarded")
def _known_fragment() -> Iterator[Sample]:
    for family in FAMILIES:
        for frame in both_ways(family):
            first, *later = in_two(frame)
            for fragment in later:
                yield Sample(fragment, (first,))


@packet("a first fragment")
def _first_fragment() -> Iterator[bytes]:
    for family in FAMILIES:
        yield fragments(request(family), 32)[0]
        yield fragments(reply(family), 32)[0]
        yield fragments(names(family).answer(server_of(family.names, 0), payload=bytes(99)), 8)[0]


@packet("TCP whose header is shorter than 20 bytes, longer than the packet or beyond its end")
def _malformed_tcp() -> Iterator[bytes]:
    for family in FAMILIES:
        for frame in (request(family), reply(family), Connection(family.empty, web(family).client).syn()):
            tcp = tcp_offset(frame)
            yield from (patched(frame, {tcp + 12: bytes([words << 4])}) for words in range(5))
            head = with_ip_length(frame[: tcp + 32], tcp + 32 - ip_offset(frame))
            yield from (patched(head, {tcp + 12: bytes([words << 4])}) for words in range(9, 16))


@packet("TCP or UDP longer by its IP header than the frame, or too short for its own header")
def _wrong_ip_length() -> Iterator[bytes]:
    for frame in _each():
        protocol, transport = transport_of(frame)
        shortest = transport - ip_offset(frame) + (20 if protocol == 6 else 8)
        yield from (with_ip_length(frame, shortest - less) for less in (1, 8))
        yield from (with_ip_length(frame, ip_length(frame) + more) for more in (1, 20000))


@packet("UDP whose own length is not that of the packet")
def _wrong_udp_length() -> Iterator[bytes]:
    for family in FAMILIES:
        frame = names(family).answer(server_of(family.names, 0))
        at = transport_of(frame)[1] + 4
        yield from (patched(frame, {at: length.to_bytes(2, "big")}) for length in (0, 7, 100, 65535))


@packet("UDP without a checksum")
def _no_checksum() -> Iterator[bytes]:
    for family in FAMILIES:
        yield without_sum(names(family).answer(server_of(family.names, 0)))


@packet("a wrong checksum of TCP, UDP or IP, which stays wrong")
def _wrong_checksum() -> Iterator[bytes]:
    for family in FAMILIES:
        for frame in (request(family), reply(family)):
            yield patched(frame, {len(frame) - 1: b"\x99"})
    yield patched(request(IPV4), {24: b"\x12\x34"})


@packet("Ethernet padding, whatever is in it")
def _padded() -> Iterator[bytes]:
    for family in FAMILIES:
        yield request(family) + b"\xee" * 40
        yield reply(family) + b"\xee" * 40


@packet("for a VIP, at the end of its hops")
def _hops_spent() -> Iterator[bytes]:
    for family in FAMILIES:
        hops = 22 if family == IPV4 else 21
        for frame in (request(family), web(family).syn(), names(family).datagram()):
            yield from (patched(frame, {hops: bytes([left])}) for left in (0, 1))


@packet("from a server, at the end of its hops")
def _reply_hops_spent() -> Iterator[bytes]:
    for family in FAMILIES:
        hops = 22 if family == IPV4 else 21
        for frame in (reply(family), names(family).answer(server_of(family.names, 0))):
            yield from (patched(frame, {hops: bytes([left])}) for left in (0, 1))


@packet("an echo that names an id no server has")
def _unknown_id() -> Iterator[bytes]:
    for family in FAMILIES:
        yield from (request(family, server, flags) for server in (300, 510) for flags in ("A", "PA", "RA"))


@packet("for a server to which no hop is known")
def _no_hop() -> Iterator[bytes]:
    for family in FAMILIES:
        yield request(family, 5)


@packet("UDP for a VIP of which no server takes new flows")
def _no_udp_server() -> Iterator[bytes]:
    for family in FAMILIES:
        yield Connection(family.empty_names, End(family.client, PORT)).datagram()


@packet("too big for the way to the server, of IPv4, may be fragmented")
def _too_big() -> Iterator[bytes]:
    connection = Connection(NARROW_VIP, End(CLIENT, PORT))
    options = usual(77, connection.stamped(CLOCK, 0, mark=1))
    yield connection.request("A", options, payload=bytes(MTU))
    flow = Connection(NARROW_NAMES, End(CLIENT, PORT))
    yield flow.datagram(payload=bytes(MTU))


@packet("from a server, too big for the link to the client, of IPv4, may be fragmented")
def _reply_too_big() -> Iterator[bytes]:
    connection = web(IPV4, client=NARROW_CLIENT)
    yield connection.reply(server_of(IPV4.web, 0), "A", usual(CLOCK, 77), payload=bytes(1000))


@packet("from a server, too big for the link to the client, not to be fragmented")
def _reply_too_big_with_df() -> Iterator[bytes]:
    connection = web(IPV4, client=NARROW_CLIENT)
    server = server_of(IPV4.web, 0)
    yield connection.reply(server, "A", usual(CLOCK, 77), payload=bytes(1000), dont_fragment=True)
    connection = web(IPV6, client=NARROW_CLIENT6)
    yield connection.reply(server_of(IPV6.web, 0), "A", usual(CLOCK, 77), payload=bytes(1300))


@packet("from a server to an address of the balancer")
def _own() -> Iterator[bytes]:
    for family in FAMILIES:
        yield reply(family, client=family.own_address)


@packet("from a server to a prefix under `direct:`")
def _direct() -> Iterator[bytes]:
    yield reply(IPV4, client=DIRECT_CLIENT)
    yield reply(IPV6, client=DIRECT_CLIENT6)


@packet("from a server to where no route leads")
def _no_route() -> Iterator[bytes]:
    yield reply(IPV4, client=BLACKHOLED_CLIENT)
    yield reply(IPV6, client=UNREACHABLE_CLIENT6)


@packet("from a server to a client whose MAC address is not known yet")
def _no_neighbour() -> Iterator[bytes]:
    for family in FAMILIES:
        yield reply(family, client=family.silent_client)


@packet("a SYN that a server sends from its service port")
def _server_connects() -> Iterator[bytes]:
    for family in FAMILIES:
        yield web(family).reply(server_of(family.web, 0), "S", usual(1, 0))


@packet("from a server that is cut")
def _of_cut() -> Iterator[bytes]:
    for family in FAMILIES:
        yield reply(family, 4)
        yield names(family).answer(server_of(family.names, 3))


@packet("a client's packet for a VIP without servers that take connections")
def _nobody_there() -> Iterator[bytes]:
    for family in FAMILIES:
        connection = Connection(family.empty, End(family.client, PORT))
        yield connection.syn()
        yield tagged(connection.syn(), 200, 7)


@packet("a client's packet for a server that is cut")
def _for_cut() -> Iterator[bytes]:
    for family in FAMILIES:
        yield request(family, 4)


@packet("a client's reset for a server that is cut")
def _reset_for_cut() -> Iterator[bytes]:
    for family in FAMILIES:
        yield request(family, 4, "RA")
