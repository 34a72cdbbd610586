# SPDX-License-Identifier: Apache-2.0
import pytest

from poise.lab.connection_rate import connection_rate
from poise.lab.namespaces import LabError
from poise.lab.network import ServersLab

pytestmark = pytest.mark.root


def test_every_step_has_its_rate_and_every_connection_one_request() -> None:
    """The rate is that of the kernel's own count of opened connections, step by step."""
    with ServersLab(1, clients=1) as lab:
        (server,) = lab.servers
        rate = connection_rate(lab.clients[0], server.address, server.port, total=3000, step=1000)
        opened = lab.clients[0].counters()["TcpActiveOpens"]
    assert len(rate.rates) == 3
    assert all(value > 100 for value in rate.rates)
    # Those under way when wrk is told to stop are not completed, and it tries the address once before.
    assert opened - 65 <= rate.requests <= opened
    assert opened >= 3000
    assert rate.connect_errors == rate.read_errors == rate.write_errors == rate.status_errors == 0


def test_a_rate_that_cannot_be_measured_is_an_error() -> None:
    """Too few connections in the time allowed are no result."""
    with ServersLab(1, clients=1) as lab:
        lab.servers[0].kill()
        with pytest.raises(LabError, match=r"of 1000000 connections"):
            connection_rate(lab.clients[0], lab.servers[0].address, 80, total=1_000_000, timeout=1)
