# SPDX-License-Identifier: Apache-2.0
from contextlib import ExitStack

import pytest

from poise.lab.conversation import Conversation, Listeners
from poise.lab.network import ServersLab
from tests.e2e.counters import drops
from tests.e2e.forgetting import forget_handshakes, start_forgetful_balancer

pytestmark = pytest.mark.root

LISTENING = 7000
NUMBER = 30  # so many that some would be hashed to another server


# Where only the server has none, what is forgotten goes by hash, but was placed by turn: there no law holds.
@pytest.mark.parametrize(("without", "change"), [("client", "add"), ("client", "forget"), ("server", "add")])
def test_connections_without_timestamps(without: str, change: str) -> None:
    """Without timestamps a connection lasts as long as its handshake is remembered, or the servers stay."""
    with ServersLab(4, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        hosts = lab.clients if without == "client" else [server.namespace for server in lab.servers]
        for host in hosts:
            host.sysctl({"net.ipv4.tcp_timestamps": 0})
        listeners.beside(lab.servers)
        balancer = start_forgetful_balancer(lab, LISTENING, lab.servers[:3])
        conversations = [
            stack.enter_context(Conversation(lab.clients[0], lab.vip, listeners, port=lab.port, timeout=3))
            for _ in range(NUMBER)
        ]
        assert {conversation.server_name for conversation in conversations} == {"web1", "web2", "web3"}
        for conversation in conversations:
            conversation.exchange()
        if change == "add":
            balancer.client.add(lab.server("web4").address, LISTENING, name="web4", vip="vip")
        else:
            forget_handshakes(lab)
        for conversation in conversations:
            conversation.exchange()
        assert drops(balancer) == {}
