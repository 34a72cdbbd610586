# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, drops, laws, redirects, sends_back
from tests.bpf.connection import Connection
from tests.bpf.headers import ETHERNET, tcp_offset
from tests.bpf.network import CLIENT_MAC, CLIENTS_MAC
from tests.bpf.packets import (
    END,
    MSS,
    NOP,
    WINDOW_SCALE,
    timestamp,
    usual,
    with_ip_options,
)
from tests.bpf.services import EMPTY, FIRST, HASHED

pytestmark = pytest.mark.root

REFUSED = "refused_signed_syn"
MD5 = b"\x13\x12" + bytes(range(16))  # RFC 2385
AO = b"\x1d\x10\x01\x02" + bytes(range(12))  # RFC 5925
CONNECTION = Connection()
CLOCK = 0x3456789A


def _error(connection: Connection, quote: bytes) -> bytes:
    """Port unreachable, from the VIP."""
    vip, client = str(connection.vip.address), str(connection.client.address)
    ip = IP(src=vip, dst=client, id=0, flags="DF", ttl=64)
    return bytes(
        Ether(dst=CLIENT_MAC.hex(":"), src=CLIENTS_MAC.hex(":")) / ip / ICMP(type=3, code=3) / Raw(quote)
    )


def _headers(frame: bytes) -> bytes:
    """The IP and TCP headers of a frame, which are what is quoted."""
    tcp = tcp_offset(frame)
    return frame[ETHERNET : tcp + (frame[tcp + 12] >> 4) * 4]


def _refused(law: str, connection: Connection, frame: bytes) -> Case:
    return sends_back(law, frame, _error(connection, _headers(frame)), REFUSED)


def _signed() -> Iterator[Case]:
    for name, options in (
        ("as Linux signs it", NOP + NOP + MD5 + MSS),
        ("and a window scale before", WINDOW_SCALE + MD5),
        ("and timestamps before", timestamp(1, 0) + MD5),
        ("at the very end of the longest header", NOP * 22 + MD5),
        ("of a wrong length", b"\x13\x04ab"),
        ("of another kind: TCP-AO", MSS + AO),
    ):
        yield _refused(f"with a signature {name}", CONNECTION, CONNECTION.syn(options))
    syn = CONNECTION.syn(MD5)
    yield _refused("with IP options", CONNECTION, with_ip_options(syn, b"\x94\x04\0\0"))
    yield _refused("with the most IP options", CONNECTION, with_ip_options(syn, b"\1" * 40))
    yield _refused("with Ethernet padding", CONNECTION, syn.ljust(200, b"\xee"))
    for payload in (b"x", b"fast open", b"x" * 1400):
        law = f"with {len(payload)} bytes, which are not quoted"
        yield _refused(law, CONNECTION, CONNECTION.syn(MD5, payload=payload))
    for vip in (HASHED, EMPTY):
        connection = Connection(vip)
        yield _refused(f"for the VIP {vip.name}", connection, connection.syn(MD5))
    for name, tags in (("a VLAN tag", b"\x81\0\0\x0a"), ("two", b"\x88\xa8\0\x64\x81\0\0\x0a")):
        answer = _error(CONNECTION, _headers(syn))
        tagged, back = (frame[:12] + tags + frame[12:] for frame in (syn, answer))
        yield sends_back(f"in a frame with {name}", tagged, back, REFUSED)


@laws(_signed())
def test_refuses_signed_syns(balancer: Balancer, case: Case) -> None:
    """What covers addresses and ports cannot be balanced: the client is told, by what it does believe."""
    assert case.run(balancer) == case.outcome


def _not_refused() -> Iterator[Case]:
    syn = CONNECTION.syn(usual(1, 0) + END + MD5)
    yield redirects("a SYN with END before a signature", syn, CONNECTION.at_server(syn, FIRST))
    syn = CONNECTION.syn(usual(1, 0) + b"\xfd\x14" + MD5)
    yield redirects("a SYN with an option that holds one", syn, CONNECTION.at_server(syn, FIRST))
    syn = CONNECTION.syn()
    yield redirects(
        "the next SYN, at its turn", syn, CONNECTION.at_server(syn, FIRST), before=(CONNECTION.syn(MD5),)
    )
    echo = CONNECTION.stamped(CLOCK, FIRST, mark=1)
    data = CONNECTION.request("A", usual(1, echo) + MD5)
    at_server = CONNECTION.at_server(data, FIRST, (echo, echo | 0x3FF))
    yield redirects("a signed segment but a SYN, which its server will discard", data, at_server)
    reply = CONNECTION.reply(FIRST, "A", usual(CLOCK, 1) + MD5)
    at_client = CONNECTION.at_client(reply, (CLOCK, CONNECTION.stamped(CLOCK, FIRST, mark=1)))
    yield redirects("a server's signed segment", reply, at_client)


@laws(_not_refused())
def test_looks_for_signatures_in_syns_alone(balancer: Balancer, case: Case) -> None:
    """Established connections do not pay for those that cannot be."""
    assert case.run(balancer) == case.outcome


@laws(drops("a signed SYN with RST", CONNECTION.request("SR", MD5), REFUSED))
def test_never_answers_a_reset(balancer: Balancer, case: Case) -> None:
    """As nothing else does that poise answers."""
    assert case.run(balancer) == case.outcome
