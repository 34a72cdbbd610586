# SPDX-License-Identifier: Apache-2.0
import pytest

from poise.lab.conversation import Conversation, Listeners
from poise.lab.network import ServersLab
from tests.e2e.counters import drops
from tests.e2e.http import ask

pytestmark = pytest.mark.root

LISTENING = 7000
SECOND_PORT = 81


def test_each_vip_has_servers_of_its_own() -> None:
    """Two VIPs on one balancer share nothing: each takes turns among servers of its own."""
    with ServersLab(4, clients=1) as lab, Listeners(LISTENING) as listeners:
        listeners.beside(lab.servers)
        first = lab.vip_settings(lab.servers[:2])
        second = lab.vip_settings(lab.servers[1:], port=SECOND_PORT, server_port=LISTENING)
        balancer = lab.start_balancer(vips=[first | {"name": "first"}, second | {"name": "second"}])
        (client,) = lab.clients
        seen: dict[str, list[str]] = {"first": [], "second": []}
        for _ in range(6):
            seen["first"].append(ask(client, lab.vip, lab.port))
            with Conversation(client, lab.vip, listeners, port=SECOND_PORT) as conversation:
                conversation.exchange()
                seen["second"].append(conversation.server_name)
        assert sorted(seen["first"]) == ["web1"] * 3 + ["web2"] * 3
        assert sorted(seen["second"]) == ["web2"] * 2 + ["web3"] * 2 + ["web4"] * 2
        balancer.client.drain("web2", vip="first")
        assert {ask(client, lab.vip, lab.port) for _ in range(3)} == {"web1"}
        assert drops(balancer) == {}


def test_two_vips_of_different_addresses() -> None:
    """VIPs may have addresses of their own and the same port."""
    with ServersLab(2, clients=1) as lab:
        other = lab.vip + 1
        first = lab.vip_settings(lab.servers[:1])
        second = lab.vip_settings(lab.servers[1:]) | {"address": str(other)}
        balancer = lab.start_balancer(vips=[first, second])
        (client,) = lab.clients
        assert [ask(client, lab.vip, lab.port), ask(client, other, lab.port)] == ["web1", "web2"]
        assert drops(balancer) == {}


def test_by_hash_a_client_port_always_meets_the_same_server() -> None:
    """Without cookies, and while the servers stay, a client's address and port decide the server."""
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners:
        listeners.beside(lab.servers)
        balancer = lab.start_balancer(vips=[lab.vip_settings(mode="cookieless", server_port=LISTENING)])
        met: list[list[str]] = []
        for _ in range(2):
            met.append([])
            for port in range(20000, 20030):
                with Conversation(
                    lab.clients[0], lab.vip, listeners, port=lab.port, source_port=port
                ) as conversation:
                    conversation.exchange()
                    met[-1].append(conversation.server_name)
                    conversation.end()
        assert met[0] == met[1]
        assert set(met[0]) == {"web1", "web2", "web3"}
        assert drops(balancer) == {}
