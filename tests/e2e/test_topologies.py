# SPDX-License-Identifier: Apache-2.0
from typing import Literal

import pytest

from poise.lab.network import ServersLab

pytestmark = pytest.mark.root


@pytest.mark.parametrize("vip", ["routed", "on-link"])
@pytest.mark.parametrize("arms", [1, 2])
def test_clients_reach_all_servers_by_the_vip(arms: Literal[1, 2], vip: Literal["routed", "on-link"]) -> None:
    """With one arm or two, and a VIP that is routed or on the clients' link, every server gets its turn."""
    with ServersLab(3, arms=arms, vip=vip) as lab:
        balancer = lab.start_balancer()
        answers = [
            client.run(["curl", "--silent", "--fail", "--max-time", "5", f"http://{lab.vip}/"])
            for client in lab.clients
            for _ in range(3)
        ]
        assert sorted(answers) == ["web1\n"] * 2 + ["web2\n"] * 2 + ["web3\n"] * 2
        assert "mode=native" in balancer.log.read_text()
