# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from poise.api import server
from poise.api.client import Client
from poise.errors import PoiseError
from poise.lab.network import ServersLab
from poise.lab.traffic import long_lived, short_requests

pytestmark = pytest.mark.root

REQUESTS = 10_000
AT_ONCE = 300
CONNECTIONS = 100
RATE = 100  # short requests a second
WITHIN = 30.0  # seconds


def outcome(client: Client) -> str:
    """What becomes of a request."""
    try:
        return f"{len(client.counters()) > 0}"
    except PoiseError as error:
        return str(error)


def test_traffic_during_a_flood() -> None:
    """While the API gets 10,000 requests, nothing breaks or fails on the way; then a change is made."""
    with ServersLab(3) as lab:
        balancer = lab.start_balancer(lab.servers[:2])
        connections = long_lived(lab.clients[0], lab.vip, lab.port, connections=CONNECTIONS, interval=1.0)
        connections.wait_until(lambda counts: counts.opened == CONNECTIONS, WITHIN)
        requests = short_requests(lab.clients[0], lab.vip, lab.port, rate=RATE)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            found = Counter(threads.map(outcome, [balancer.client] * REQUESTS))
        refused = found.pop(f"poise serves {server.CONNECTIONS} clients already: ask again in a second", 0)
        assert found.pop("True") + refused == REQUESTS
        assert not found
        third = lab.servers[2]
        assert balancer.client.add(third.address, third.port, name=third.name)["state"] == "ready"
        now = connections.counts.answers
        connections.wait_until(lambda counts: counts.answers >= now + CONNECTIONS, WITHIN)
        assert connections.finish().reasons == {}
        served = requests.finish()
        assert served.served > 0
        assert served.failed == 0
