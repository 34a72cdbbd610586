# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.resources import as_file, files
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from poise.kernel.libbpf import Object
from poise.quic import tables as quic
from poise.quic.connection_id import encode, unroutable
from poise.quic.keys import set_key
from poise.servers.contents import carry_out, shape_of
from poise.servers.model import Address, Hop, Model, Policy, Protocol, QuicIds, Server, State, Vip
from poise.servers.plan import plan
from poise.servers.rows import of_model
from poise.servers.tables import Present

pytestmark = pytest.mark.root

CLIENTS = {4: "198.51.100.7", 6: "2001:db8:c::7"}
VIPS: dict[int, Address] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
NETWORKS: dict[int, Address] = {4: IPv4Address("10.0.0.0"), 6: IPv6Address("2001:db8:5::")}
TABLES = (
    *("vips", "vip_addresses", "servers", "server_addresses", "origins", "pools", "maglevs", "links"),
    *("direct", "direct6", "quic_configs", "settings", "events", "flows"),
)
PLAIN = QuicIds(0, 2, 6)
SINGLE_PASS = QuicIds(1, 2, 14, bytes(range(16)))
FOUR_PASS = QuicIds(2, 2, 9, bytes(range(16, 32)))
STATES = {3: State.READY, 300: State.DRAIN, 4: State.CUT, 5: State.REMOVED}
REDIRECT = 4


class Balancer:
    """The real program with a QUIC VIP of each IP version, and one plain UDP VIP."""

    def __init__(self) -> None:
        """Load it and fill its tables."""
        with as_file(files("poise.objects") / "balancer.bpf.o") as path:
            self.object = Object(path)
        self.object.load()
        self._maps = {name: self.object.map(name) for name in TABLES}
        self._maps["settings"].set(0, {"flow_rate": 1000})
        quic_vips = [_vip(index, version) for index, version in enumerate((4, 6))]
        plain = replace(_vip(2, 4), name="plain", port=53, protocol=Protocol.UDP, quic_ids=())
        model = Model((*quic_vips, plain))
        for vip in model.vips:
            for row, key in quic.keys(vip).items():
                set_key(self.object, row, key)
        hops = {
            server.address: Hop(None, 2, bytes([2, 0, 0, 0, 0, 2]), bytes([2, 0, 0, 0, 0, 1]), valid=True)
            for _, server in model.servers()
        }
        content = of_model(model, hops, bytes(range(16)))
        for step in plan(Present.empty(shape_of(self._maps)), content):
            carry_out(step, self._maps)

    def target(self, payload: bytes, version: int = 4, port: int = 443) -> int | None:
        """The id of the server to which a datagram is sent, None if it is not; checksums must be right."""
        ip = IP(src=CLIENTS[4], dst=str(VIPS[4])) if version == 4 else IPv6(src=CLIENTS[6], dst=str(VIPS[6]))
        frame = Ether(dst="02:00:00:00:00:09") / ip / UDP(sport=40000, dport=port) / Raw(payload)
        result = self.object.program("balancer").test_run(bytes(frame))
        if result.verdict != REDIRECT:
            return None
        out = Ether(result.packet)
        found = out[IP if version == 4 else IPv6]
        received = bytes(out)
        for layer in (found, found[UDP]):
            if "chksum" in layer.fields:
                del layer.chksum
        assert bytes(out) == received
        assert bytes(found[UDP].payload) == payload
        return int(_address(found.dst)) - int(NETWORKS[version])

    def forget(self) -> None:
        """Forget all flows."""
        for flow, _ in list(self._maps["flows"].items()):
            self._maps["flows"].delete(flow)


def _address(text: str) -> Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


def _vip(index: int, version: int) -> Vip:
    servers = tuple(
        Server(number, f"s{number}", NETWORKS[version] + number, 443, state, 0, declared=True)
        for number, state in STATES.items()
    )
    return Vip(
        *(index, f"vip{index}", VIPS[version], 443, Policy.ROUND_ROBIN, servers),
        protocol=Protocol.QUIC,
        quic_ids=(PLAIN, SINGLE_PASS, FOUR_PASS),
    )


@pytest.fixture(scope="module")
def loaded() -> Iterator[Balancer]:
    """The program."""
    balancer = Balancer()
    with closing(balancer.object):
        yield balancer


@pytest.fixture
def balancer(loaded: Balancer) -> Balancer:
    """The program, with no flow remembered."""
    loaded.forget()
    return loaded


def packet(ids: QuicIds, server_id: int) -> bytes:
    """A 1-RTT packet to a server's connection id."""
    return b"\x40" + encode(ids, server_id, bytes(range(ids.nonce_length))) + b"\xff" * 20


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "ids", [PLAIN, SINGLE_PASS, FOUR_PASS], ids=["plaintext", "single pass", "four passes"]
)
def test_a_connection_id_leads_to_its_server(balancer: Balancer, ids: QuicIds, version: int) -> None:
    """Whatever its flow, a packet goes where its connection id says, also to a draining or removed server."""
    assert [balancer.target(packet(ids, number), version) for number in (3, 300, 5)] == [3, 300, 5]


@pytest.mark.parametrize("version", [4, 6])
def test_what_names_no_server_goes_by_its_flow(balancer: Balancer, version: int) -> None:
    """Ids of servers that are cut or unknown, and unroutable ids, go to the ready server, as any UDP does."""
    for server_id in (4, 6, 511, 512, 0xFFFF):
        assert balancer.target(packet(PLAIN, server_id), version) == 3
    assert balancer.target(b"\x40" + unroutable(8) + b"\xff" * 20, version) == 3
    assert balancer.target(b"\xc0\0\0\0\1\x08" + unroutable(8) + b"\xff" * 1200, version) == 3
    assert balancer.target(b"", version) == 3


def test_other_udp_is_not_read_as_quic(balancer: Balancer) -> None:
    """At a VIP of plain UDP, a payload that looks like a connection id means nothing."""
    assert balancer.target(packet(PLAIN, 300), port=53) == 3
