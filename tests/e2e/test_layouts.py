# SPDX-License-Identifier: Apache-2.0
from contextlib import ExitStack

import pytest

from poise.lab.conversation import Conversation, Listeners
from poise.lab.network import ServersLab
from tests.e2e.counters import drops

pytestmark = pytest.mark.root

LISTENING = 7000
NUMBER = 10  # of each client


@pytest.mark.parametrize("layout", ["msb", "lsb"])
def test_connections_work_where_a_server_has_one_clock(layout: str) -> None:
    """With net.ipv4.tcp_timestamps=2 at the servers, the paper's layouts serve; no kernel rejects an echo."""
    with ServersLab(2) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        hosts = (*lab.clients, *(server.namespace for server in lab.servers))
        for server in lab.servers:
            server.namespace.sysctl({"net.ipv4.tcp_timestamps": 2})
        listeners.beside(lab.servers)
        settings = lab.vip_settings(server_port=LISTENING) | {"timestamp_layout": layout}
        balancer = lab.start_balancer(vips=[settings])
        conversations = [
            stack.enter_context(Conversation(client, lab.vip, listeners, port=lab.port, timeout=5))
            for client in lab.clients * NUMBER
        ]
        assert {conversation.server_name for conversation in conversations} == {"web1", "web2"}
        for conversation in conversations * 3:
            conversation.exchange()
        for host in hosts:
            assert host.counters()["TcpExtTSEcrRejected"] == host.counters()["TcpExtPAWSEstab"] == 0
        assert drops(balancer) == {}
