# SPDX-License-Identifier: Apache-2.0
import re
import time

import pytest

from poise.lab.addresses import IPAddress
from poise.lab.balancer import Balancer
from poise.lab.faults import drop_random
from poise.lab.network import ServersLab
from poise.lab.short_requests import ShortRequestsCounts
from poise.lab.traffic import Traffic, long_lived, short_requests
from tests.e2e.counters import drops

pytestmark = pytest.mark.root

CONNECTIONS = 100
RATE = 300  # connections a second
WITHIN = 60.0  # seconds
# What a kernel counts when a segment does not fit its connection, is damaged, or ends a connection by force.
DAMAGE = re.compile(
    r"TcpExt(TSEcrRejected|PAWS\w+|TCPSYNChallenge|TCPChallengeACK|TCPAbort\w+|TCPACKSkipped\w+|EmbryonicRsts"
    r"|Syncookies\w+|OutOfWindowIcmps|TCPBacklogDrop|TCPRcvQDrop|ListenDrops|TCPOFOQueue)"
    r"|Tcp(InCsumErrors|InErrs|EstabResets|AttemptFails|OutRsts)"
    r"|Ip(InHdrErrors|InAddrErrors|InDiscards|InTruncatedPkts)"
    r"|IpExt(InCsumErrors|InNoRoutes)"
)
REJECTED = re.compile(r"TcpExt(TSEcrRejected|PAWS\w+)|TcpInCsumErrors|TcpEstabResets")


@pytest.mark.parametrize("seconds", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_the_kernels_of_clients_and_servers_notice_nothing(seconds: int) -> None:
    """After many connections and changes, no kernel has counted anything odd that it does not without poise.

    Such as echoes or timestamps that it rejected (PAWS), wrong checksums, challenges, resets.
    """
    with ServersLab(5) as lab:
        *balanced_servers, direct_server = lab.servers
        for server in lab.servers:
            assert server.namespace.run(["sysctl", "-n", "net.ipv4.tcp_timestamps"]) == "1\n"
        before = damage(lab)
        # Not one of the others: a client's timestamps for them and for the VIP are not of one clock.
        use(lab, direct_server.address, seconds)
        direct = change(before, damage(lab))
        balancer = lab.start_balancer(balanced_servers)
        before = damage(lab)
        use(lab, lab.vip, seconds, balancer)
        balanced = change(before, damage(lab))
        assert {name: count for name, count in balanced.items() if count > direct.get(name, 0)} == {}
        assert drops(balancer) == {}


@pytest.mark.slow
def test_random_loss_delays_but_breaks_nothing() -> None:
    """With 5 % of all packets lost each way, all requests are served, and no kernel rejects a timestamp."""
    with ServersLab(3) as lab:
        balancer = lab.start_balancer()
        client = lab.clients[0]
        with drop_random(client, 0.05), drop_random(client, 0.05, hook="output"):
            many = long_lived(client, lab.vip, lab.port, connections=CONNECTIONS, timeout=WITHIN)
            short = short_requests(client, lab.vip, lab.port, rate=RATE / 3, timeout=WITHIN)
            short.wait_until(lambda counts: counts.served >= 1000, 2 * WITHIN)
            assert short.finish(WITHIN).reasons == many.finish(WITHIN).reasons == {}
        rejected = {name: count for name, count in damage(lab).items() if REJECTED.fullmatch(name) and count}
        assert rejected == {}
        assert drops(balancer) == {}


def use(lab: ServersLab, address: IPAddress, seconds: int, balancer: Balancer | None = None) -> None:
    """Long-lived and short connections, while servers come and go."""
    many = long_lived(lab.clients[0], address, lab.port, connections=CONNECTIONS)
    short = short_requests(lab.clients[1], address, lab.port, rate=RATE)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for name in ("web1", "web2"):
            go_on(short)
            if balancer:
                balancer.client.drain(name)
                balancer.client.remove(name)
            go_on(short)
            if balancer:
                server = lab.server(name)
                balancer.client.add(server.address, server.port, name=name)
    assert short.finish().reasons == many.finish().reasons == {}


def go_on(short: Traffic[ShortRequestsCounts]) -> None:
    """Return after a fifth of a second's requests, or what a busy machine needs for them."""
    enough = short.counts.served + RATE // 5
    short.wait_until(lambda counts: counts.served >= enough, WITHIN)


def damage(lab: ServersLab) -> dict[str, int]:
    """The sum of what all kernels have counted."""
    total: dict[str, int] = {}
    for namespace in (*lab.clients, *(server.namespace for server in lab.servers)):
        for name, count in namespace.counters().items():
            if DAMAGE.fullmatch(name):
                total[name] = total.get(name, 0) + count
    return total


def change(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was added meanwhile."""
    return {name: count - before[name] for name, count in after.items() if count > before[name]}
