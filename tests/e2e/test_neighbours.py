# SPDX-License-Identifier: Apache-2.0
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import Literal

import pytest

from poise.lab.balancer import Balancer
from poise.lab.conversation import Conversation, Listeners
from poise.lab.network import CLIENTS_GATEWAY, ServersLab
from tests.e2e.counters import drops
from tests.e2e.http import ask
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.root

LISTENING = 7000
NEW_MAC = "02:00:00:00:00:77"
FOLLOWED_WITHIN = 2.0  # seconds
NOTICED_WITHIN = 30.0  # seconds; a few with speed_up_arp


@pytest.mark.parametrize("arms", [1, 2])
def test_the_first_packet_to_an_unknown_neighbour_is_not_lost(arms: Literal[1, 2]) -> None:
    """A SYN-ACK waits until its client's MAC address is known, so that nobody has to send a SYN again."""
    with ServersLab(2, clients=1, arms=arms) as lab:
        balancer = lab.start_balancer()
        (client,) = lab.clients
        ask(client, lab.vip, lab.port)
        before = balancer.client.counters()["neighbour_unresolved"]
        for _ in range(3):
            lab.router.ip(f"neigh flush to {CLIENTS_GATEWAY.network}")
            ask(client, lab.vip, lab.port)
        assert balancer.client.counters()["neighbour_unresolved"] >= before + 3
        assert client.counters()["TcpExtTCPSynRetrans"] == 0
        assert drops(balancer) == {}


@pytest.mark.parametrize(
    ("announced", "within"),
    [(1, FOLLOWED_WITHIN), pytest.param(0, NOTICED_WITHIN, marks=pytest.mark.slow)],
    ids=["announced", "silently"],
)
def test_a_server_with_another_mac_is_followed(announced: int, within: float) -> None:
    """Old and new connections follow a server to its new MAC address, also when it does not announce that."""
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        if not announced:
            speed_up_arp(lab)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        (client,) = lab.clients
        conversations = [
            stack.enter_context(Conversation(client, lab.vip, listeners, port=lab.port, timeout=within))
            for _ in lab.servers
        ]
        moved = lab.servers[0].namespace
        moved.sysctl({"net.ipv4.conf.eth0.arp_notify": announced})
        moved.ip(f"link set eth0 address {NEW_MAC}")
        for conversation in conversations:
            conversation.exchange()
        assert meet(lab, listeners, 3) == ["web1", "web2", "web3"]
        assert drops(balancer) == {}


def test_a_server_that_is_not_there_gets_no_connections() -> None:
    """A server whose neighbour never answers takes no turn, and nothing else suffers from it."""
    with ServersLab(2, clients=1) as lab:
        balancer = lab.start_balancer()
        balancer.client.add(IPv4Address("10.2.0.99"), lab.port, name="nobody")
        assert not is_reachable(balancer, "nobody")
        answers = [ask(lab.clients[0], lab.vip, lab.port) for _ in range(6)]
        assert sorted(answers) == ["web1"] * 3 + ["web2"] * 3
        assert lab.clients[0].counters()["TcpExtTCPSynRetrans"] == 0
        assert drops(balancer) == {}


def test_a_server_that_is_down_gets_no_connections_until_it_is_back() -> None:
    """Once ARP has given a server up the others take its turns; when it is back, all is as before."""
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        speed_up_arp(lab)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        (client,) = lab.clients
        conversations = [
            stack.enter_context(Conversation(client, lab.vip, listeners, port=lab.port)) for _ in lab.servers
        ]
        lab.switch.ip("link set web1 down")
        wait_until(lambda: not is_reachable(balancer, "web1"), NOTICED_WITHIN)
        assert meet(lab, listeners, 6) == ["web2"] * 3 + ["web3"] * 3
        assert client.counters()["TcpExtTCPSynRetrans"] == 0
        lab.switch.ip("link set web1 up")
        wait_until(lambda: is_reachable(balancer, "web1"), NOTICED_WITHIN)
        assert meet(lab, listeners, 6) == ["web1"] * 2 + ["web2"] * 2 + ["web3"] * 2
        for conversation in conversations:
            conversation.exchange()
        assert drops(balancer) == {}


@pytest.mark.parametrize("side", ["clients", "servers"])
def test_an_interface_that_was_down_works_again(side: str) -> None:
    """When an interface is back, without its former routes and neighbours, so are old and new connections."""
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        conversations = [
            stack.enter_context(Conversation(lab.clients[0], lab.vip, listeners, port=lab.port))
            for _ in lab.servers
        ]
        lab.router.ip(f"link set {side} down")
        if side == "servers":
            wait_until(lambda: not is_reachable(balancer, "web1"), NOTICED_WITHIN)
        lab.router.ip(f"link set {side} up")
        wait_until(lambda: all(server["reachable"] for server in balancer.client.servers()), NOTICED_WITHIN)
        for conversation in conversations:
            conversation.exchange()
        assert meet(lab, listeners, 6) == ["web1"] * 2 + ["web2"] * 2 + ["web3"] * 2
        assert drops(balancer) == {}


def speed_up_arp(lab: ServersLab) -> None:
    """Have the balancer's kernel look after servers many times as often; else it may take a minute."""
    clocks = {
        "interval_probe_time_ms": 500,
        "base_reachable_time_ms": 1000,
        "retrans_time_ms": 100,
        "delay_first_probe_time": 1,
    }
    lab.router.sysctl({f"net.ipv4.neigh.servers.{name}": value for name, value in clocks.items()})


def meet(lab: ServersLab, listeners: Listeners, number: int) -> list[str]:
    """The servers that so many new connections lead to, sorted; each has to be there in time."""
    met = []
    for _ in range(number):
        with Conversation(
            lab.clients[0], lab.vip, listeners, port=lab.port, timeout=FOLLOWED_WITHIN
        ) as conversation:
            conversation.exchange()
            met.append(conversation.server_name)
    return sorted(met)


def is_reachable(balancer: Balancer, name: str) -> bool:
    """What poise tells of a server."""
    return next(bool(server["reachable"]) for server in balancer.client.servers() if server["name"] == name)
