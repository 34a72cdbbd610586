# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, drops, laws, passes
from tests.bpf.connection import Connection
from tests.bpf.headers import ETHERNET, Macs, patched, tcp_offset
from tests.bpf.network import CLIENT, CLIENT6, CLIENT_MAC, CLIENTS_MAC, SERVERS_MAC
from tests.bpf.packets import END, End, segment, summed, usual
from tests.bpf.services import CLOSING, EMPTY, FIRST, FIRST6, SECOND, WEB, WEB6, end_of, server_mac

pytestmark = pytest.mark.root

CONNECTION = Connection()
REQUEST = CONNECTION.request("PA", usual(5000, 6000), payload=b"GET / HTTP/1.1\r\n")
REPLY = CONNECTION.reply(FIRST, "PA", usual(5000, 6000), payload=b"HTTP/1.1 200 OK\r\n")
ELSEWHERE = End(IPv4Address("192.0.2.99"), 80)
ELSEWHERE6 = End(IPv6Address("2001:db8:f::99"), 80)


def _ether(payload: Packet) -> bytes:
    return bytes(Ether(dst=CLIENTS_MAC.hex(":"), src=CLIENT_MAC.hex(":")) / payload)


def _to(end: End) -> bytes:
    client = End(CLIENT if end.address.version == 4 else CLIENT6, 40000)
    return segment(Macs(CLIENTS_MAC, CLIENT_MAC), client, end, "S", options=usual(1, 0))


def _from(end: End) -> bytes:
    client = End(CLIENT if end.address.version == 4 else CLIENT6, 40000)
    return segment(Macs(SERVERS_MAC, server_mac(FIRST)), end, client, "A", options=usual(1, 2))


def _to_vip() -> IP:
    return IP(src=str(CLIENT), dst=str(WEB.address))


@laws(
    passes("a packet for another address", _to(ELSEWHERE), "pass_unrelated"),
    passes("a packet for a VIP's address and another port", _to(End(WEB.address, 81)), "pass_unrelated"),
    passes(
        "a packet for one VIP's address and another's port",
        _to(End(EMPTY.address, 443)),
        "pass_unrelated",
    ),
    passes("a packet for a server past its VIP", _to(end_of(FIRST)), "pass_unrelated"),
    passes(
        "a packet from a server's address and another port",
        _from(End(FIRST.address, 22)),
        "pass_unrelated",
    ),
    passes(
        "a packet from one server's address and another's port",
        _from(End(FIRST.address, SECOND.port)),
        "pass_unrelated",
    ),
    passes("a packet from a VIP's own end", _from(end_of(WEB)), "pass_unrelated"),
    passes("UDP for a VIP's address and a port of TCP", _ether(_to_vip() / UDP(dport=80)), "pass_unrelated"),
    passes("a ping of a VIP", _ether(_to_vip() / ICMP()), "pass_other_protocol"),
    passes("ARP for a VIP", _ether(ARP(psrc=str(CLIENT), pdst=str(WEB.address))), "pass_not_ip"),
    passes("IPv6 for another address", _to(ELSEWHERE6), "pass_unrelated"),
    passes("IPv6 for a VIP's address and another port", _to(End(WEB6.address, 81)), "pass_unrelated"),
    passes("IPv6 from a server's address and another port", _from(End(FIRST6.address, 22)), "pass_unrelated"),
    passes("IPv6 from a VIP's own end", _from(end_of(WEB6)), "pass_unrelated"),
    passes(
        "an IEEE 802.3 frame, with a length for its type", patched(REQUEST, {12: b"\0\x40"}), "pass_not_ip"
    ),
    passes("a packet of IP version 5", patched(REQUEST, {ETHERNET: b"\x55"}), "pass_truncated"),
    passes("a broadcast", patched(REQUEST, {0: b"\xff" * 6}), "pass_not_unicast"),
    passes("a multicast", patched(REPLY, {0: b"\x01\x00\x5e\0\0\1"}), "pass_not_unicast"),
    passes(
        "a later fragment for a VIP", summed(patched(REQUEST, {20: b"\x20\x01"})), "pass_fragment_unknown"
    ),
    passes("a last fragment for a VIP", summed(patched(REQUEST, {20: b"\x1f\xff"})), "pass_fragment_unknown"),
    passes(
        "a later fragment from a server", summed(patched(REPLY, {20: b"\x20\xb9"})), "pass_fragment_unknown"
    ),
)
def test_leaves_to_the_kernel_what_is_not_for_it(balancer: Balancer, case: Case) -> None:
    """What is neither for a VIP nor from a server passes unchanged, and is counted as such."""
    assert case.run(balancer) == case.outcome


def _cut_short(name: str, frame: bytes) -> Iterator[Case]:
    needed = tcp_offset(frame) + 20
    for length in range(ETHERNET, 61):
        law = f"{length} bytes of a frame {name}"
        if length < needed:
            yield passes(law, frame[:length], "pass_truncated")
        else:
            yield drops(law, frame[:length], "drop_malformed")


def _runts(name: str, frame: bytes, event: str, needed: int) -> Iterator[Case]:
    for length in range(ETHERNET, 61):
        counted = event if length >= needed else "pass_truncated"
        yield passes(f"{length} bytes of a frame {name}", frame[:length], counted)


@laws(
    _cut_short("for a VIP", REQUEST),
    _cut_short("from a server", REPLY),
    _runts("for another address", _to(ELSEWHERE), "pass_unrelated", ETHERNET + 20 + 20),
    _runts("of UDP", _ether(_to_vip() / UDP(dport=80) / (b"x" * 40)), "pass_unrelated", ETHERNET + 20 + 8),
)
def test_never_reads_past_the_end_of_a_frame(balancer: Balancer, case: Case) -> None:
    """A frame that ends before the TCP header does passes unchanged; one that is cut later goes nowhere."""
    assert case.run(balancer) == case.outcome


def _impossible_ip_headers() -> Iterator[Case]:
    for words in range(5):
        for name, frame in (("for a VIP", REQUEST), ("from a server", REPLY)):
            shrunk = patched(frame, {ETHERNET: bytes([0x40 | words])})
            yield passes(f"an IP header of {words} words, {name}", shrunk, "pass_truncated")
    for name, frame in (("for a VIP", CONNECTION.syn()), ("from a server", _from(end_of(FIRST)))):
        stretched = patched(frame[:73], {ETHERNET: b"\x4f"})
        yield passes(f"an IP header that leaves no room for TCP's, {name}", stretched, "pass_truncated")


@laws(_impossible_ip_headers())
def test_leaves_to_the_kernel_what_cannot_be_ip(balancer: Balancer, case: Case) -> None:
    """An IP header whose length is impossible is not looked into."""
    assert case.run(balancer) == case.outcome


def _impossible_tcp_headers(name: str, frame: bytes) -> Iterator[Case]:
    tcp = tcp_offset(frame)
    inside = frame[: tcp + 32]  # a TCP header with timestamps and nothing behind it
    total = (len(inside) - ETHERNET).to_bytes(2, "big")
    inside = summed(patched(inside, {ETHERNET + 2: total}))
    for words in range(5):
        short = summed(patched(inside, {tcp + 12: bytes([words << 4])}))
        yield drops(f"a data offset of {words} words, {name}", short, "drop_malformed")
    for words in range(9, 16):
        law = f"a data offset of {words} words where there are 8, {name}"
        yield drops(law, summed(patched(inside, {tcp + 12: bytes([words << 4])})), "drop_malformed")
    padded = patched(inside, {tcp + 12: b"\xa0"}) + END * 40
    law = f"a data offset past the IP packet, into the Ethernet padding, {name}"
    yield drops(law, summed(padded), "drop_malformed")
    for less in (1, 12, 13, 32, len(inside) - ETHERNET):
        total = (len(inside) - ETHERNET - less).to_bytes(2, "big")
        law = f"an IP length that cuts {less} bytes off the TCP header, {name}"
        yield drops(law, patched(inside, {ETHERNET + 2: total}), "drop_malformed")
    for more in (1, 1000, 65535 - len(inside) + ETHERNET):
        total = (len(inside) - ETHERNET + more).to_bytes(2, "big")
        law = f"an IP length of {more} bytes more than the frame holds, {name}"
        yield drops(law, patched(inside, {ETHERNET + 2: total}), "drop_malformed")


@laws(
    _impossible_tcp_headers("for a VIP", CONNECTION.request("PA", usual(5000, 6000))),
    _impossible_tcp_headers("for a VIP without servers", Connection(EMPTY).syn()),
    _impossible_tcp_headers("for a VIP that takes no connections", Connection(CLOSING).syn()),
    _impossible_tcp_headers("from a server", REPLY),
)
def test_discards_what_cannot_be_tcp(balancer: Balancer, case: Case) -> None:
    """A TCP header that does not fit its packet is never forwarded, nor answered."""
    assert case.run(balancer) == case.outcome
