# SPDX-License-Identifier: Apache-2.0
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from poise.servers.model import Vip
from tests.bpf.balancer import Balancer, TcVerdict, Verdict
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import patched, without_tags
from tests.bpf.network import BLACKHOLED_CLIENT, BLACKHOLED_CLIENT6, CLIENT, CLIENT6, Site
from tests.bpf.packets import (
    DESTINATION,
    HOP_BY_HOP,
    NOP,
    SACK,
    End,
    tagged,
    usual,
    with_extensions,
    with_ip_options,
)
from tests.bpf.services import (
    CLOSING,
    CUT,
    CUT6,
    EMPTY,
    FAMILIES,
    FIRST,
    FIRST6,
    HASHED,
    LOOPED,
    LOOPED6,
    TOKEN,
    WEB,
    WEB6,
    WITHOUT_HOP,
    WITHOUT_HOP6,
    Family,
)

pytestmark = pytest.mark.root

CONNECTION = Connection()
LAST_FRAME = bytes.fromhex("02ffffffffff 02ffffffffff 88b5 00") + bytes(45)  # 0x88b5: for experiments
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 0x10  # linux/if_packet.h
SECONDS = 10  # until a frame that must come is given up


class Wire:
    """What the balancer sends out of its interface towards servers, as the other end of it sees it."""

    def __init__(self, site: Site) -> None:
        with site.servers.enter():
            self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self._ear.bind(("eth0", 0x0003))
        self._ear.settimeout(SECONDS)
        self._ear.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        with site.here.enter():
            self._mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._mouth.bind(("eth1", 0))

    def close(self) -> None:
        """Hear nothing more."""
        self._ear.close()
        self._mouth.close()

    def _hear(self) -> bytes:
        """Return a frame with its tags: the kernel tells the outer one beside it (packet(7))."""
        frame, notes, _, _ = self._ear.recvmsg(65535, 128)
        for _, _, note in notes:
            status, _, _, _, _, tag, kind = struct.unpack("=IIIHHHH", note)
            if status & TP_STATUS_VLAN_VALID:
                frame = frame[:12] + kind.to_bytes(2, "big") + tag.to_bytes(2, "big") + frame[12:]
        return frame

    def heard(self, number: int) -> list[bytes]:
        """Return so many frames, and those beyond that have come meanwhile."""
        self._mouth.send(LAST_FRAME)
        frames: list[bytes] = []
        ended = False
        while len(frames) < number or not ended:
            frame = self._hear()
            if frame == LAST_FRAME:
                ended = True
            else:
                frames.append(frame)
        return frames


@pytest.fixture
def wire(site: Site, balancer: Balancer) -> Iterator[Wire]:  # noqa: ARG001  the tables decide what is heard
    """The link towards servers, overheard."""
    wire = Wire(site)
    yield wire
    wire.close()


@contextmanager
def counting(balancer: Balancer, **expected: int) -> Iterator[None]:
    """Check which events are counted meanwhile."""
    before = balancer.events()
    yield
    after = balancer.events()
    assert {
        name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)
    } == expected


def _handed_up(balancer: Balancer, packet: bytes) -> bytes:
    """The packet as XDP hands it to the slow path."""
    balancer.start_afresh()
    result = balancer.run(packet)
    assert (result.verdict, result.packet[6:12]) == (Verdict.PASS, TOKEN)
    return result.packet


RESETS = {
    "without options": CONNECTION.request("R", seq=CLIENT_ISN),
    "with ACK": CONNECTION.request("RA", seq=CLIENT_ISN, ack=1),
    "with other options": CONNECTION.request("R", NOP + NOP + SACK, seq=CLIENT_ISN),
    "with IP options": with_ip_options(CONNECTION.request("R", seq=CLIENT_ISN), b"\x94\x04\0\0" + NOP * 36),
    "with an odd payload": CONNECTION.request("R", seq=CLIENT_ISN, payload=b"why"),
    "with Ethernet padding": CONNECTION.request("R", seq=CLIENT_ISN).ljust(60, b"\0"),
    "with a TTL of 2": CONNECTION.request("R", seq=CLIENT_ISN, ttl=2),
}


@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS.keys())
def test_copies_a_forgotten_reset_to_every_server(balancer: Balancer, wire: Wire, reset: bytes) -> None:
    """Each server of the VIP to which something can be sent gets the reset as if it had come to it alone."""
    usable = [server for server in WEB.servers if server not in (CUT, WITHOUT_HOP, LOOPED)]
    frame = _handed_up(balancer, reset)
    with counting(balancer):
        verdict, _ = balancer.run_slow_path(frame)
    assert verdict == TcVerdict.SHOT
    expected = [CONNECTION.at_server(reset, server) for server in usable]
    assert [frame.hex(" ") for frame in wire.heard(len(usable))] == [frame.hex(" ") for frame in expected]


@pytest.mark.parametrize("vip", [CLOSING, EMPTY], ids=lambda vip: vip.name)
def test_copies_a_reset_to_servers_of_its_vip_only(balancer: Balancer, wire: Wire, vip: Vip) -> None:
    """Other VIPs' servers are not bothered."""
    connection = Connection(vip)
    reset = connection.request("R", seq=CLIENT_ISN)
    verdict, _ = balancer.run_slow_path(_handed_up(balancer, reset))
    assert verdict == TcVerdict.SHOT
    expected = [connection.at_server(reset, server) for server in vip.servers]
    assert wire.heard(len(expected)) == expected


@pytest.mark.parametrize("tags", [(), (7,), (200, 7)], ids=len)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_copies_have_the_tags_of_each_server(
    balancer: Balancer, wire: Wire, family: Family, tags: tuple[int, ...]
) -> None:
    """Whatever tags a reset came with, each copy has those of its server, and its own hops less one."""
    connection = Connection(family.tagged, End(family.client, 40000))
    reset = connection.request("R", seq=CLIENT_ISN, ttl=2)
    with counting(balancer, reset_to_all=1):
        verdict, _ = balancer.run_slow_path(_handed_up(balancer, tagged(reset, *tags)))
    assert verdict == TcVerdict.SHOT
    expected = [connection.at_server(reset, server) for server in family.tagged.servers]
    assert [frame.hex(" ") for frame in wire.heard(3)] == [frame.hex(" ") for frame in expected]


def test_copies_a_reset_of_ipv6(balancer: Balancer, wire: Wire) -> None:
    """Servers of IPv6 are asked as those of IPv4 are, behind whatever extension headers."""
    connection = Connection(WEB6, End(CLIENT6, 40000))
    usable = [server for server in WEB6.servers if server not in (CUT6, WITHOUT_HOP6, LOOPED6)]
    for reset in (
        connection.request("R", seq=CLIENT_ISN),
        with_extensions(connection.request("RA", seq=CLIENT_ISN, ack=1), HOP_BY_HOP, DESTINATION),
    ):
        verdict, _ = balancer.run_slow_path(_handed_up(balancer, reset))
        assert verdict == TcVerdict.SHOT
        assert wire.heard(len(usable)) == [connection.at_server(reset, server) for server in usable]


def test_copies_no_more_resets_than_its_budget(balancer: Balancer, wire: Wire) -> None:
    """Whoever floods with resets does not have them multiplied without bound."""
    frame = _handed_up(balancer, CONNECTION.request("R", seq=CLIENT_ISN))
    copies = len(WEB.servers) - 2  # CUT, WITHOUT_HOP
    while True:
        second = int(time.monotonic())
        balancer.spend_reset_budget(second, left=2)
        before = balancer.events().get("drop_reset_limit", 0)
        verdict, _ = balancer.run_slow_path(frame)
        after = balancer.events().get("drop_reset_limit", 0)
        heard = len(wire.heard(2))
        if int(time.monotonic()) == second:
            break
    assert (verdict, heard, after - before) == (TcVerdict.SHOT, 2, copies - 2)


@pytest.mark.parametrize("tags", [(), (7,), (200, 7)], ids=len)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_has_the_kernel_find_a_clients_mac_address(
    balancer: Balancer, family: Family, tags: tuple[int, ...]
) -> None:
    """A reply that is complete but for that is sent by the kernel, as it is but for its tags."""
    client = End(family.silent_client, 40000)
    for packet in (
        Connection(family.web, client).reply(family.web.servers[0], "PA", usual(9, 8), payload=b"page"),
        Connection(family.names, client).answer(family.names.servers[0], payload=b"answer"),
    ):
        frame = _handed_up(balancer, tagged(packet, *tags))
        with counting(balancer):
            assert balancer.run_slow_path(frame) == (TcVerdict.REDIRECT, without_tags(frame))


def test_discards_a_reply_of_ipv6_whose_route_has_gone(balancer: Balancer) -> None:
    """As one of IPv4."""
    connection = Connection(WEB6, End(BLACKHOLED_CLIENT6, 40000))
    frame = patched(connection.at_client(connection.reply(FIRST6, "A")), {6: TOKEN})
    with counting(balancer, drop_no_neighbour=1):
        assert balancer.run_slow_path(frame)[0] == TcVerdict.SHOT


def test_discards_a_reply_whose_route_has_gone(balancer: Balancer) -> None:
    """Between XDP and the slow path the route can go; the packet does not come back as the VIP's."""
    connection = Connection(client=End(BLACKHOLED_CLIENT, 40000))
    frame = patched(connection.at_client(connection.reply(FIRST, "A")), {6: TOKEN})
    with counting(balancer, drop_no_neighbour=1):
        assert balancer.run_slow_path(frame)[0] == TcVerdict.SHOT


OTHERS = {
    "a reset": CONNECTION.request("R"),
    "a SYN": CONNECTION.syn(),
    "data from a server": CONNECTION.reply(FIRST, "PA", usual(1, 2), payload=b"page"),
    "a packet in the VIP's name": CONNECTION.at_client(CONNECTION.reply(FIRST, "A")),
    "one that has five bytes of the token": patched(CONNECTION.request("R"), {6: TOKEN[:5]}),
    "one whose target is the token": patched(CONNECTION.request("R"), {0: TOKEN}),
    "a ping, even with the token": bytes(
        Ether(dst=TOKEN.hex(":"), src=TOKEN.hex(":")) / IP(src=str(CLIENT), dst=str(WEB.address)) / ICMP()
    ),
    "ARP, even with the token": patched(bytes(64), {6: TOKEN, 12: b"\x08\x06"}),
    "53 bytes, even with the token": patched(CONNECTION.request("R"), {6: TOKEN})[:53],
}


@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS.keys())
def test_leaves_alone_what_xdp_did_not_hand_up(balancer: Balancer, wire: Wire, frame: bytes) -> None:
    """Without the secret nobody can have packets sent in a VIP's name."""
    with counting(balancer):
        assert balancer.run_slow_path(frame) == (TcVerdict.UNSPEC, frame)
    assert wire.heard(0) == []


def test_hands_up_no_reset_of_a_hashed_vip(balancer: Balancer) -> None:
    """Where the hash decides, there is nothing to ask."""
    result = balancer.run(Connection(HASHED).request("R"))
    assert result.verdict == Verdict.REDIRECT
