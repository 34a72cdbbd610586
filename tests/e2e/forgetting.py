# SPDX-License-Identifier: Apache-2.0
"""A balancer that remembers few handshakes, and how to have it forget all of them."""

from poise.lab.balancer import Balancer
from poise.lab.network import ServersLab
from poise.lab.nginx import Nginx
from poise.lab.syn_flood import syn_flood

_ROWS = 1024  # the fewest
_SYNS = 30_000  # some thirty for each row, which holds three
_FLOODED = 9  # port of a second VIP, where its servers do not listen


def start_forgetful_balancer(lab: ServersLab, port: int, servers: list[Nginx] | None = None) -> Balancer:
    """Start poise for the servers' `port`."""
    return lab.start_balancer(
        vips=[
            lab.vip_settings(servers, server_port=port) | {"name": "vip"},
            lab.vip_settings(port=_FLOODED, server_port=_FLOODED) | {"name": "flooded"},
        ],
        handshake_rows=_ROWS,
    )


def forget_handshakes(lab: ServersLab) -> None:
    """Send so many SYNs that no earlier one is remembered."""
    syn_flood(lab.clients[0], lab.client_address(1), lab.vip, _FLOODED, _SYNS)
