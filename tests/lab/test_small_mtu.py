# SPDX-License-Identifier: Apache-2.0
import pytest

from poise.lab.addresses import Family
from poise.lab.bulk import download, upload
from poise.lab.namespaces import Namespace
from poise.lab.network import ServersLab
from poise.lab.udp import UdpClients, UdpServer

pytestmark = pytest.mark.root

MEGABYTE = 1_000_000
FILE = "some"
PORT = 5300


def too_big(namespace: Namespace, family: Family) -> int:
    """How often a router said that a packet does not fit."""
    return namespace.counters()["Icmp6OutPktTooBigs" if family == 6 else "IcmpOutDestUnreachs"]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("upwards", [False, True], ids=["download", "upload"])
@pytest.mark.parametrize("far", ["client", "server"])
def test_the_routers_at_a_small_mtu_say_so(far: str, upwards: bool, family: Family) -> None:  # noqa: FBT001
    """The router before the small link tells the sender, who then sends less; nobody else need know."""
    with ServersLab(1, clients=1, family=family, files={FILE: MEGABYTE}) as lab:
        client = lab.add_small_mtu_client(1280) if far == "client" else lab.clients[0]
        server = lab.add_small_mtu_server(1280) if far == "server" else lab.servers[0]
        near_router, far_router = lab.small_mtu_routers
        if upwards:
            upload(client, server.address, server.port, MEGABYTE)
        else:
            assert download(client, server.address, server.port, FILE).octets == MEGABYTE
        teller, other = (
            (far_router, near_router) if upwards == (far == "client") else (near_router, far_router)
        )
        assert too_big(teller, family) > 0
        assert too_big(other, family) == too_big(lab.router, family) == 0


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_that_are_too_big_are_sent_again_in_fragments(family: Family) -> None:
    """A client that is told of a small MTU learns it, and what it asks again arrives."""
    with ServersLab(1, clients=0, family=family) as lab:
        client, (server,) = lab.add_small_mtu_client(1280), lab.servers
        with UdpServer(server, PORT), UdpClients(client, server.address, PORT, 3) as clients:
            assert clients.ask(size=1400, answer_size=100) == ["web1"] * 3
            assert too_big(lab.small_mtu_routers[1], family) > 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("whole_side", [False, True])
def test_a_servers_own_link_can_have_a_small_mtu(whole_side: bool, family: Family) -> None:  # noqa: FBT001
    """The balancer's namespace tells clients what fits, and transfers work both ways."""
    with ServersLab(2, clients=1, family=family, files={FILE: MEGABYTE}) as lab:
        client, server = lab.clients[0], lab.servers[0]
        if whole_side:
            lab.set_servers_mtu(1400)
        else:
            lab.set_server_mtu("web1", 1400)
        with UdpServer(server, PORT), UdpClients(client, server.address, PORT, 1) as clients:
            assert clients.ask(size=1450, answer_size=100) == ["web1"]
        assert too_big(lab.router, family) == 1
        assert download(client, server.address, server.port, FILE).octets == MEGABYTE
        upload(client, server.address, server.port, MEGABYTE)
        with UdpServer(lab.servers[1], PORT), UdpClients(client, lab.servers[1].address, PORT, 1) as clients:
            assert clients.ask(size=1450, answer_size=100) == ["web2"]
        assert too_big(lab.router, family) == (2 if whole_side else 1)
