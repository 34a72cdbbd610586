# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from typing import Literal

import pytest

from poise.lab.network import ServersLab
from poise.lab.traffic import long_lived
from tests.e2e.counters import drops
from tests.e2e.http import ask

pytestmark = pytest.mark.root

SERVERS = 8
SERVER_PORT = 8080
ROUNDS = 6


@pytest.mark.parametrize(
    ("arms", "vip", "mode"),
    [
        (1, "routed", "generic"),
        (1, "on-link", "native"),
        (2, "routed", "native"),
        (2, "on-link", "generic"),
        *(
            pytest.param(arms, vip, mode, marks=pytest.mark.slow)
            for arms, vip, mode in (
                (1, "routed", "native"),
                (1, "on-link", "generic"),
                (2, "routed", "generic"),
                (2, "on-link", "native"),
            )
        ),
    ],
)
def test_connections_take_strict_turns(
    arms: Literal[1, 2], vip: Literal["routed", "on-link"], mode: Literal["native", "generic"]
) -> None:
    """In each topology and XDP mode, connections opened one after the other go round in strict turns."""
    with ServersLab(SERVERS, arms=arms, vip=vip, server_port=SERVER_PORT) as lab:
        balancer = lab.start_balancer(xdp_mode=mode)
        number = ROUNDS * SERVERS + 3
        answers = [ask(lab.clients[turn % 2], lab.vip, lab.port) for turn in range(number)]
        assert answers[:-SERVERS] == answers[SERVERS:]
        assert set(answers[:SERVERS]) == {server.name for server in lab.servers}
        placed = {server["name"]: server["connections"] for server in balancer.client.servers()}
        assert placed == Counter(answers)
        assert f"mode={mode}" in balancer.log.read_text()
        assert drops(balancer) == {}


def test_connections_opened_at_once_are_spread_evenly() -> None:
    """The turns are strict among all CPUs: of 400 connections opened at once, each server gets as many."""
    with ServersLab(SERVERS, clients=1) as lab:
        balancer = lab.start_balancer()
        traffic = long_lived(lab.clients[0], lab.vip, lab.port, connections=400, rate=5000)
        traffic.wait_until(lambda counts: counts.opened == 400, 20)
        assert set(traffic.finish().servers.values()) == {400 // SERVERS}
        assert drops(balancer) == {}
