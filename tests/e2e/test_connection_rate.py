# SPDX-License-Identifier: Apache-2.0
"""Connections come as fast at the end as at the beginning, though every port is used again and again."""

import pytest

from poise.lab.connection_rate import connection_rate
from poise.lab.network import ServersLab

pytestmark = [pytest.mark.root, pytest.mark.slow]

CONNECTIONS = 500_000
STEP = 100_000
KEPT = 0.9  # of the first step's rate in the last one


def test_half_a_million_connections_from_one_address_do_not_slow_down() -> None:
    """No orphan is left on a server to meet its port again: the rate lasts, and no SYN is challenged."""
    with ServersLab(8, clients=1) as lab:
        balancer = lab.start_balancer()
        rate = connection_rate(lab.clients[0], lab.vip, lab.port, total=CONNECTIONS, step=STEP)
        counters = balancer.client.counters()
        hosts = [lab.clients[0], *(server.namespace for server in lab.servers)]
        challenges = [host.counters()["TcpExtTCPSYNChallenge"] for host in hosts]
        rejected = [host.counters()["TcpExtTSEcrRejected"] for host in hosts]
    assert rate.rates[-1] >= KEPT * rate.rates[0], rate.rates
    assert not any(challenges)
    assert not any(rejected)
    assert rate.connect_errors == rate.read_errors == rate.write_errors == rate.status_errors == 0
    assert not {name: count for name, count in counters.items() if count and name.startswith("drop_")}
