# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Literal

import pytest

from poise.lab.addresses import Family
from poise.lab.bulk import download, upload
from poise.lab.namespaces import Namespace
from poise.lab.network import ServersLab
from poise.lab.xdp_pass import pass_everything
from tests.e2e.counters import drops

pytestmark = pytest.mark.root

MTU = 1280  # of one link; all others have 1500
OCTETS = 2_000_000
FILES = {"file": OCTETS}
WITHIN = 10.0  # seconds; without what the errors say, nothing of full length arrives at all

family_each = pytest.mark.parametrize("family", [4, 6])


def _download(client: Namespace, lab: ServersLab, times: int = 1) -> None:
    for _ in range(times):
        assert download(client, lab.vip, lab.port, "file", timeout=WITHIN).octets == OCTETS


def _upload(client: Namespace, lab: ServersLab, times: int = 1) -> None:
    for _ in range(times):
        upload(client, lab.vip, lab.port, OCTETS, timeout=WITHIN)


@family_each
def test_servers_learn_the_mtu_of_the_way_to_a_client(family: Family) -> None:
    """A router far from poise finds a server's packet too big; that server, and no other, is told."""
    with ServersLab(3, clients=1, files=FILES, family=family) as lab:
        client = lab.add_small_mtu_client(MTU)
        balancer = lab.start_balancer()
        _download(client, lab, times=3)  # from one server after the other
        _upload(client, lab)
        counters = balancer.client.counters()
        assert counters["icmp_to_server"] >= 3
        assert counters["icmp_to_all"] == 0
        assert drops(balancer) == {}


@family_each
def test_servers_learn_it_of_balancers_that_go_by_hash(family: Family) -> None:
    """Without cookies, the quote's ports tell the server as a packet's do."""
    with ServersLab(3, clients=1, files=FILES, family=family) as lab:
        client = lab.add_small_mtu_client(MTU)
        balancer = lab.start_balancer(mode="cookieless")
        _download(client, lab)
        _upload(client, lab)
        counters = balancer.client.counters()
        assert counters["icmp_to_server"] >= 1
        assert drops(balancer) == {}


@family_each
def test_clients_learn_the_mtu_of_the_way_to_a_server(family: Family) -> None:
    """A router near the server finds a client's packet too big; the client knows it as its own."""
    with ServersLab(0, clients=2, files=FILES, family=family) as lab:
        lab.add_small_mtu_server(MTU)
        balancer = lab.start_balancer()
        # Two clients: one that has learned the MTU asks for no more in its SYNs, and so does a server.
        _upload(lab.clients[0], lab)
        _download(lab.clients[1], lab)
        assert balancer.client.counters()["icmp_to_client"] >= 1
        assert drops(balancer) == {}


def _narrow_to_servers(lab: ServersLab) -> None:
    for server in lab.servers:
        lab.router.ip(f"route replace {server.address} dev {lab.interfaces[-1]} mtu {MTU}")


def _narrow_to_clients(lab: ServersLab) -> None:
    # bpf_fib_lookup() heeds the MTU of a route only if it is locked: ip_mtu_from_fib_result().
    lab.router.ip(f"route replace {lab.client_address()} dev {lab.interfaces[0]} mtu lock {MTU}")


@family_each
@pytest.mark.parametrize(
    ("narrow", "counter"),
    [
        pytest.param(_narrow_to_servers, "too_big_answered", id="to servers"),
        pytest.param(_narrow_to_clients, "pass_reply_too_big", id="to clients"),
    ],
)
@pytest.mark.parametrize("arms", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_both_learn_the_mtu_of_the_balancers_own_links(
    family: Family, arms: Literal[1, 2], narrow: Callable[[ServersLab], None], counter: str
) -> None:
    """Poise answers the client, the kernel the server: each hears of the link behind the balancer."""
    with ServersLab(2, clients=1, arms=arms, files=FILES, family=family) as lab:
        narrow(lab)
        if arms == 2:
            pass_everything(lab.switch, "b-clients")  # or a veth does not take what XDP answers
        balancer = lab.start_balancer()
        _download(lab.clients[0], lab, times=2)
        _upload(lab.clients[0], lab, times=2)
        assert balancer.client.counters()[counter] >= 1
        assert drops(balancer) == {}
