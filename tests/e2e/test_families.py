# SPDX-License-Identifier: Apache-2.0
"""What holds for IPv4 without VLAN tags holds for IPv6, and with one tag or two."""

from collections.abc import Sequence
from typing import Literal

import pytest

from poise.lab.addresses import Family
from poise.lab.conversation import Conversation, Listeners
from poise.lab.network import ServersLab
from tests.e2e.counters import drops
from tests.e2e.http import ask
from tests.e2e.test_survival import add, go_on, open_long_lived

pytestmark = pytest.mark.root

LISTENING = 7000


@pytest.mark.parametrize(
    ("arms", "vip"),
    [
        (1, "on-link"),
        (2, "routed"),
        pytest.param(1, "routed", marks=pytest.mark.slow),
        pytest.param(2, "on-link", marks=pytest.mark.slow),
    ],
)
def test_ipv6_connections_take_strict_turns(arms: Literal[1, 2], vip: Literal["routed", "on-link"]) -> None:
    """In each topology, connections over IPv6 opened one after the other go round in strict turns."""
    with ServersLab(3, arms=arms, vip=vip, family=6) as lab:
        balancer = lab.start_balancer()
        answers = [ask(lab.clients[turn % 2], lab.vip, lab.port) for turn in range(9)]
        assert answers[:-3] == answers[3:]
        assert set(answers) == {server.name for server in lab.servers}
        assert drops(balancer) == {}


def test_ipv6_connections_survive_changes_and_the_end_of_the_daemon() -> None:
    """Over IPv6 too, no open connection breaks when servers come and go, nor when the daemon is killed."""
    with ServersLab(4, family=6) as lab:
        balancer = lab.start_balancer(lab.servers[:3])
        connections = open_long_lived(lab)
        add(balancer, lab, "web4")
        balancer.client.drain("web1")
        go_on(connections)
        balancer.client.remove("web2")
        balancer.kill()
        go_on(connections)
        balancer.start()
        add(balancer, lab, "web2")
        go_on(connections)
        assert connections.finish().reasons == {}
        assert drops(balancer) == {}
        for host in (*lab.clients, *(server.namespace for server in lab.servers)):
            assert host.counters()["TcpExtTSEcrRejected"] == 0


@pytest.mark.parametrize(
    ("family", "client_tags", "server_tags"),
    [
        pytest.param(4, (10,), (), marks=pytest.mark.slow),
        (6, (10,), (20,)),
        (4, (100, 10), (20,)),
        pytest.param(4, (), (20,), marks=pytest.mark.slow),
        pytest.param(6, (100, 10), (200, 20), marks=pytest.mark.slow),
        pytest.param(4, (), (200, 20), marks=pytest.mark.slow),
    ],
)
def test_connections_go_through_vlans(
    family: Family, client_tags: Sequence[int], server_tags: Sequence[int]
) -> None:
    """With any number of tags on either side, connections are placed in turns, and survive changes."""
    with ServersLab(3, family=family, client_tags=client_tags, server_tags=server_tags) as lab:
        balancer = lab.start_balancer(lab.servers[:2])
        connections = open_long_lived(lab)
        answers = [ask(lab.clients[1], lab.vip, lab.port) for _ in range(4)]
        assert sorted(answers) == ["web1", "web1", "web2", "web2"]
        add(balancer, lab, "web3")
        balancer.client.remove("web1")
        go_on(connections)
        assert connections.finish().reasons == {}
        assert drops(balancer) == {}


def test_clients_learn_through_a_vlan_that_a_server_is_cut() -> None:
    """A reset that poise itself sends carries the tags of the packet that it answers."""
    with (
        ServersLab(1, clients=1, arms=1, client_tags=(10,), server_tags=(10,)) as lab,
        Listeners(LISTENING) as listeners,
    ):
        listeners.beside(lab.servers)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        with Conversation(lab.clients[0], lab.vip, listeners, port=lab.port) as conversation:
            balancer.client.remove("web1", now=True)
            conversation.client.sendall(b"is anybody there?")
            with pytest.raises(ConnectionResetError):
                conversation.client.recv(1)
