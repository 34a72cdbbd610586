# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Raw

from poise.servers.model import Model, Policy, Vip
from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, laws, sends_back
from tests.bpf.network import CLIENT_MAC, CLIENTS_MAC, Site
from tests.bpf.services import KEY

pytestmark = pytest.mark.root

CLIENT = "2001:db8:1::7"
WEB = Vip(0, "web", IPv6Address("2001:db8:9::1"), 80, Policy.ROUND_ROBIN)
SIGNATURE = b"\x13\x12" + bytes(16) + b"\1\1"  # RFC 2385
HEADER = 40  # bytes of IPv6's
DESTINATION_OPTIONS = 60  # RFC 8200, section 4.6


@pytest.fixture(scope="module")
def balancer(site: Site, loaded: Balancer) -> Iterator[Balancer]:
    """The balancer with a VIP of IPv6."""
    with site.here.enter():
        loaded.fill(Model((WEB,)), {}, KEY)
        yield loaded


def _ethernet(target: bytes, source: bytes, tags: bytes) -> bytes:
    return target + source + tags + b"\x86\xdd"


def _extended(packet: bytes, extension: bytes) -> bytes:
    """The packet with an extension header of so many bytes, and what says so in the IPv6 header."""
    if not extension:
        return packet
    length = int.from_bytes(packet[4:6], "big") + len(extension)
    front = packet[:4] + length.to_bytes(2, "big") + bytes([DESTINATION_OPTIONS]) + packet[7:HEADER]
    return front + extension + packet[HEADER:]


def _options(length: int) -> bytes:
    """A header of destination options, all of it padding, before TCP."""
    return bytes([6, length // 8 - 1, 1, length - 4]) + bytes(length - 4)


def _refused(law: str, extension: bytes = b"", tags: bytes = b"", payload: bytes = b"") -> Case:
    tcp = TCP(sport=40000, dport=80, flags="S", dataofs=10)
    quote = _extended(
        bytes(IPv6(src=CLIENT, dst=str(WEB.address)) / tcp / Raw(SIGNATURE + payload)), extension
    )
    syn = _ethernet(CLIENTS_MAC, CLIENT_MAC, tags) + quote
    headers = quote[: len(quote) - len(payload)]
    error = IPv6(src=str(WEB.address), dst=CLIENT, hlim=64) / ICMPv6DestUnreach(code=4) / Raw(headers)
    return sends_back(law, syn, _ethernet(CLIENT_MAC, CLIENTS_MAC, tags) + bytes(error), "refused_signed_syn")


@laws(
    _refused("alone"),
    _refused("with nine bytes, which are not quoted", payload=b"fast open"),
    _refused("with an extension header", _options(8)),
    _refused("with the longest of extension headers", _options(256)),
    _refused("in a frame with a VLAN tag", tags=b"\x81\0\0\x0a"),
    _refused("in a frame with two", tags=b"\x88\xa8\0\x64\x81\0\0\x0a"),
)
def test_refuses_signed_syns(balancer: Balancer, case: Case) -> None:
    """As over IPv4, by ICMPv6, whose checksum covers the addresses too."""
    assert case.run(balancer) == case.outcome
