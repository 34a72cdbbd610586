# SPDX-License-Identifier: Apache-2.0
"""The VIPs of `poise bench decision` that show what a new connection costs by policy."""

import random
from collections.abc import Mapping
from ipaddress import IPv4Address

from poise.kernel.maps import Map
from poise.servers.model import SERVER_IDS, Policy, Server, State, Vip
from poise.servers.schedule import awrr_shares, schedule

SERVERS = 256
_POLICIES = {
    "syn-rr": Policy.ROUND_ROBIN,
    "syn-wrr": Policy.WEIGHTED_ROUND_ROBIN,
    "syn-maglev": Policy.MAGLEV,
    "syn-pow2": Policy.POWER_OF_TWO,
    "syn-least": Policy.LEAST_LOADED,
    "syn-awrr": Policy.AWRR,
    "syn-prequal": Policy.PREQUAL,
}
_ADDRESSES = IPv4Address("10.9.1.0")
_FIRST_SERVER = IPv4Address("10.3.0.0")
_PORT = 80
_LARGEST_LOAD = 1000


def vips(first: int) -> dict[str, Vip]:
    """Return a VIP of each policy under the name of its row, with indexes from `first` on."""
    return {name: _vip(first, number, policy) for number, (name, policy) in enumerate(_POLICIES.items())}


def _vip(first: int, number: int, policy: Policy) -> Vip:
    servers = tuple(
        Server(
            *(server, f"s{server}", _FIRST_SERVER + number * SERVERS + server, 8080, State.READY, 0),
            declared=True,
            weight=1 + server % 4,
        )
        for server in range(SERVERS)
    )
    return Vip(first + number, f"bench, {policy}", _ADDRESSES + number, _PORT, policy, servers)


def fill(vip: Vip, maps: Mapping[str, Map]) -> None:
    """Have the VIP's pool and its servers' loads be as they are in service: no two servers are alike."""
    draw = random.Random(vip.index)  # noqa: S311  the same in each run
    ids = [server.id for server in vip.servers]
    loads = {number: draw.randrange(1, _LARGEST_LOAD) for number in ids}
    shares: Mapping[int, float] = {server.id: server.weight for server in vip.servers}
    if vip.policy == Policy.ROUND_ROBIN:
        shares = dict.fromkeys(ids, 1)
    elif vip.policy == Policy.AWRR:
        shares = awrr_shares(loads)
    turns = schedule(shares)
    (row, values), *_ = (
        (row, values) for row, values in maps["vips"].nonzero() if values["index"] == vip.index
    )
    maps["vips"].set(row, values | {"hot_above": _LARGEST_LOAD // 2})
    maps["pools"].set(values["pool"], {"size": len(ids), "ids": ids, "turns": len(turns), "schedule": turns})
    maps["lives"].update(
        (vip.index * SERVER_IDS + number, {"load": load, "step": 1, "latency": draw.randrange(1, 1000)})
        for number, load in loads.items()
    )
