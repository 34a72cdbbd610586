# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from contextlib import ExitStack

import pytest

from poise.lab.addresses import Family
from poise.lab.network import ServersLab
from poise.lab.udp import UdpClients, UdpServer
from tests.e2e.counters import drops

pytestmark = pytest.mark.root

PORT = 5353
SOCKETS = 60


def udp_vip(lab: ServersLab, servers: int) -> dict[str, object]:
    """A VIP of UDP with the first servers of the lab."""
    vip = lab.vip_settings(lab.servers[:servers], server_port=PORT)
    return vip | {"protocol": "udp", "port": PORT}


@pytest.mark.parametrize(("family", "checksums"), [(4, True), (4, False), (6, True)])
def test_flows_stay_with_their_server(family: Family, checksums: bool) -> None:  # noqa: FBT001
    """A flow of UDP keeps its server while others come and go, and is answered in the VIP's name."""
    with ServersLab(4, family=family) as lab, ExitStack() as stack:
        for server in lab.servers:
            stack.enter_context(UdpServer(server, PORT, checksums=checksums))
        balancer = lab.start_balancer(vips=[udp_vip(lab, 3)])
        clients = stack.enter_context(UdpClients(lab.clients[0], lab.vip, PORT, SOCKETS, checksums=checksums))
        before = clients.ask()
        assert set(before) == {"web1", "web2", "web3"}
        web4 = lab.server("web4")
        balancer.client.add(web4.address, PORT, name="web4")
        balancer.client.drain("web1")
        balancer.client.remove("web2")
        assert clients.ask() == before
        others = stack.enter_context(UdpClients(lab.clients[1], lab.vip, PORT, SOCKETS, checksums=checksums))
        assert set(others.ask()) == {"web3", "web4"}
        assert drops(balancer) == {}


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_follow_their_first(family: Family) -> None:
    """Datagrams larger than the links reach the server whole, and so do its answers the client."""
    with ServersLab(3, clients=1, family=family) as lab, ExitStack() as stack:
        for server in lab.servers:
            stack.enter_context(UdpServer(server, PORT))
        balancer = lab.start_balancer(vips=[udp_vip(lab, 3)])
        clients = stack.enter_context(UdpClients(lab.clients[0], lab.vip, PORT, 12))
        names = clients.ask()
        assert clients.ask(size=8000) == names
        assert clients.ask(answer_size=8000) == names
        assert clients.ask(size=30000, answer_size=30000) == names
        assert Counter(names).keys() <= {"web1", "web2", "web3"}
        assert drops(balancer) == {}
