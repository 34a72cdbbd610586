# SPDX-License-Identifier: Apache-2.0
import pytest

from poise.lab.conversation import Conversation, Listeners
from poise.lab.network import ServersLab
from tests.e2e.counters import drops
from tests.e2e.http import ask

pytestmark = pytest.mark.root

LISTENING = 7000


def test_a_client_in_a_direct_prefix_reaches_the_servers_themselves() -> None:
    """What a server answers to a `direct:` prefix is left as it is, while other clients use the VIP."""
    with ServersLab(2) as lab:
        visitor, client = lab.clients
        balancer = lab.start_balancer(direct=[f"{lab.client_address(1)}/32"])
        for server in lab.servers:
            assert ask(visitor, server.address, server.port) == server.name
        assert sorted(ask(client, lab.vip, lab.port) for _ in range(4)) == ["web1"] * 2 + ["web2"] * 2
        assert balancer.client.counters()["pass_direct"] > 0
        assert drops(balancer) == {}


def test_the_balancer_itself_reaches_the_servers() -> None:
    """A program on the balancer, such as a health check, talks to a server's service port."""
    with ServersLab(2) as lab:
        balancer = lab.start_balancer()
        for server in lab.servers:
            assert ask(lab.router, server.address, server.port) == server.name
        assert drops(balancer) == {}


def test_other_services_pass_as_if_there_were_no_poise() -> None:
    """Other ports of the servers, connections that servers open, and pings are none of poise's business."""
    with ServersLab(2) as lab, Listeners(LISTENING) as listeners:
        listeners.beside(lab.servers)
        listeners.listen(lab.clients[0], "client", lab.client_address(1))
        balancer = lab.start_balancer()
        for namespace, address, name in (
            (lab.clients[0], lab.servers[0].address, "web1"),
            (lab.servers[1].namespace, lab.client_address(1), "client"),
        ):
            with Conversation(namespace, address, listeners) as conversation:
                conversation.exchange()
                assert conversation.server_name == name
        for address in (lab.vip, lab.servers[0].address):
            lab.clients[0].run(["ping", "-c", "1", "-W", "5", str(address)])
        assert drops(balancer) == {}
