# SPDX-License-Identifier: Apache-2.0
"""The lab's tools over IPv6; what they promise, their own tests say, mostly over IPv4."""

import socket
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Literal

import pytest

from poise.lab.addresses import Family
from poise.lab.connection_rate import connection_rate
from poise.lab.conversation import Conversation, Listeners
from poise.lab.duplicates import Duplicates
from poise.lab.faults import bare_ack, drop_all, drop_first, syn_ack
from poise.lab.network import ServersLab
from poise.lab.syn_flood import syn_flood
from poise.lab.traffic import long_lived, short_requests

pytestmark = pytest.mark.root

PORT = 7000
DELAY = 0.02
WITHIN = 10.0  # seconds


@pytest.fixture
def lab() -> Iterator[ServersLab]:
    """One client, one server."""
    with ServersLab(1, clients=1, family=6) as built:
        yield built


@pytest.mark.parametrize("family", [4, 6])
def test_vips_are_where_their_name_says(family: Family) -> None:
    """A routed VIP is in nobody's subnet, one on the link in the clients', in each family."""
    routed, on_link = ServersLab(family=family), ServersLab(vip="on-link", family=family)
    assert routed.vip.version == on_link.vip.version == family
    assert on_link.vip in on_link.clients_gateway.network
    assert routed.vip not in routed.clients_gateway.network
    assert routed.vip not in routed.servers_gateway.network


@pytest.mark.parametrize("arms", [1, 2])
def test_every_host_has_its_addresses_at_once(arms: Literal[1, 2]) -> None:
    """No address waits for duplicate address detection, and none comes from a router."""
    with ServersLab(1, clients=1, family=6, arms=arms) as lab:
        for host in (lab.clients[0], lab.servers[0].namespace, lab.router):
            listed = host.run(["ip", "-6", "address", "show", "scope", "global"])
            assert "tentative" not in listed
            assert listed.count("inet6") == (2 if host is lab.router else 1)
        assert str(lab.client_address()) == "2001:db8:1::b"
        assert str(lab.servers[0].address) == "2001:db8:2::b"


def test_packets_to_a_routed_vip_come_to_the_balancer(lab: ServersLab) -> None:
    """Clients send packets for a VIP in nobody's subnet to the balancer."""
    assert lab.vip == IPv6Address("2001:db8:9::1")
    with drop_all(lab.router, f"ip6 daddr {lab.vip} udp dport {PORT}") as fault:
        with lab.clients[0].enter(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", (str(lab.vip), PORT))
        deadline = time.monotonic() + WITHIN
        while not fault.dropped:
            assert time.monotonic() < deadline


def test_steady_traffic_is_counted(lab: ServersLab) -> None:
    """Long-lived connections and short requests are served and told by their server's name."""
    client, (server,) = lab.clients[0], lab.servers
    kept = long_lived(client, server.address, server.port, connections=50, interval=0.2)
    short = short_requests(client, server.address, server.port, rate=100)
    kept.wait_until(lambda counts: counts.answers >= 200, WITHIN)
    short.wait_until(lambda counts: counts.served >= 50, WITHIN)
    assert kept.finish().servers == {"web1": 50}
    counts = short.finish()
    assert (counts.failed, counts.servers) == (0, {"web1": counts.served})


def test_conversations_and_duplicates(lab: ServersLab) -> None:
    """A conversation has both its ends, and copies of its segments reach the server."""
    server = lab.servers[0].namespace
    with Listeners(PORT, greeting=b"hello") as listeners:
        listeners.beside(lab.servers)
        with Conversation(lab.clients[0], lab.servers[0].address, listeners, source_port=33333) as talk:
            assert talk.name == (str(lab.client_address()), 33333)
            deadline = time.monotonic() + WITHIN
            with Duplicates(lab.clients[0], talk, 33333):
                while server.counters()["TcpExtTCPDSACKOldSent"] < 10:
                    assert time.monotonic() < deadline
            talk.exchange()
            talk.end()


def test_faults_drop_what_they_name(lab: ServersLab) -> None:
    """SYN-ACKs and the handshake's ACK are found behind IPv6's header."""
    address = (str(lab.servers[0].address), lab.port)
    for host, match in ((lab.clients[0], syn_ack(lab.port)), (lab.router, bare_ack(lab.port, 6))):
        with drop_first(host, 1, match) as fault:
            with lab.clients[0].enter():
                socket.create_connection(address, timeout=WITHIN).close()
            assert fault.dropped == 1


def test_every_syn_of_a_flood_is_sound(lab: ServersLab) -> None:
    """A port where nobody listens refuses all SYNs: none is damaged."""
    server = lab.servers[0].namespace
    before = server.counters()["TcpOutRsts"]
    syn_flood(lab.clients[0], lab.client_address(), lab.servers[0].address, PORT, 1000)
    with lab.clients[0].enter(), pytest.raises(ConnectionRefusedError):  # behind the flood
        socket.create_connection((str(lab.servers[0].address), PORT), timeout=WITHIN)
    assert server.counters()["TcpOutRsts"] - before == 1001
    assert server.counters()["TcpInCsumErrors"] == 0


def test_the_connection_rate_is_counted(lab: ServersLab) -> None:
    """Each step's rate is told, and nothing fails."""
    measured = connection_rate(lab.clients[0], lab.servers[0].address, lab.port, total=1000, step=500)
    assert len(measured.rates) >= 2
    assert measured.connect_errors == measured.status_errors == 0


def test_a_far_client_sees_the_round_trip_that_was_asked_for(lab: ServersLab) -> None:
    """A handshake over the long wire takes twice its delay."""
    far = lab.add_far_client(DELAY)
    with far.enter():
        start = time.monotonic()
        socket.create_connection((str(lab.servers[0].address), lab.port), timeout=WITHIN).close()
        assert time.monotonic() - start >= 2 * DELAY
