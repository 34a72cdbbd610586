# SPDX-License-Identifier: Apache-2.0
"""What poise's and the kernels' counters say of a test that is over."""

from poise.lab.balancer import Balancer


def drops(balancer: Balancer) -> dict[str, int]:
    """What poise has discarded, by reason; empty if nothing."""
    counters = balancer.client.counters().items()
    return {name: count for name, count in counters if name.startswith("drop_") and count}


def placed(balancer: Balancer) -> dict[str, int]:
    """Connections placed so far on each server, of the only VIP, by its name."""
    return {server["name"]: server["connections"] for server in balancer.client.servers()}
