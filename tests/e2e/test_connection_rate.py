# SPDX-License-Identifier: Apache-2.0
"""Connections come as fast at the end as at the beginning, though every port is used again and again."""

import pytest

from poise.lab.connection_rate import ConnectionRate, connection_rate
from poise.lab.network import ServersLab

pytestmark = [pytest.mark.root, pytest.mark.slow]

CONNECTIONS = 500_000
STEP = 100_000
KEPT = 0.9  # of the first step's rate in the last one
ATTEMPTS = 3


def test_half_a_million_connections_from_one_address_do_not_slow_down() -> None:
    """No orphan is left on a server to meet its port again: the rate lasts, and no SYN is challenged.

    Orphans slow down the end of every run; what else this machine does may slow down any part of one.
    """
    rates = []
    for _ in range(ATTEMPTS):
        rate = _open_connections()
        rates.append(rate.rates)
        if rate.rates[-1] >= KEPT * rate.rates[0]:
            return
    pytest.fail(f"the rate sags in each run: {rates}")


def _open_connections() -> ConnectionRate:
    """One run, of which everything but the rate is as it must be."""
    with ServersLab(8, clients=1) as lab:
        balancer = lab.start_balancer()
        rate = connection_rate(lab.clients[0], lab.vip, lab.port, total=CONNECTIONS, step=STEP)
        counters = balancer.client.counters()
        hosts = [lab.clients[0], *(server.namespace for server in lab.servers)]
        for name in ("TcpExtTCPSYNChallenge", "TcpExtTSEcrRejected"):
            assert not any(host.counters()[name] for host in hosts), name
    assert rate.connect_errors == rate.read_errors == rate.write_errors == rate.status_errors == 0
    assert not {name: count for name, count in counters.items() if count and name.startswith("drop_")}
    return rate
