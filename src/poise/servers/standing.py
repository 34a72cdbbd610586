# SPDX-License-Identifier: Apache-2.0
"""Who of a VIP's servers takes new connections, and which part of them: a pure function of what is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from poise.servers.model import Mode, Policy, Server, State, Vip

LEAST_SHARE: Final = 0.1  # of a server that has just come back; shares go in steps of this size
_STEPS: Final = 10
_NOT_READY: Final = {
    State.DRAIN: "it drains",
    State.MAINT: "it is in maintenance",
    State.REMOVED: "it is removed",
    State.CUT: "it is removed, and its connections are cut",
}
_LARGEST_WEIGHT: Final = 255  # struct pool has bytes for them


@dataclass(frozen=True)
class Standing:
    """What is known of a server.

    up: what its health checks say, None if nothing yet, which counts as up. reachable: the kernel knows a
    hop to it. share: which part of its share it gets while it starts slowly, 0.1 to 1. fault: what speaks
    against it, as the end of a sentence, if that is known.
    """

    up: bool | None = None
    reachable: bool = True
    share: float = 1.0
    fault: str | None = None

    @property
    def usable(self) -> bool:
        """Whether nothing speaks against new connections."""
        return self.reachable and self.up is not False


UNKNOWN: Final = Standing(up=None, reachable=False)


@dataclass(frozen=True)
class Choice:
    """Who takes new connections, by server id.

    shares: the proportions in which they get them, all above 0. weights: of the same servers, 1 to 255, for
    the Maglev table and for loads that are to be compared. hot_above: of Prequal, the load above which a
    server is hot, as in struct live. panicking: servers that are down are used, as too few others are up.
    """

    shares: Mapping[int, float] = field(default_factory=dict)
    weights: Mapping[int, int] = field(default_factory=dict)
    hot_above: int = 0
    panicking: bool = False


def choice(
    vip: Vip,
    standings: Mapping[int, Standing],
    awrr: Mapping[int, float] | None = None,
    hot_above: int = 0,
) -> Choice:
    """Return who takes the VIP's new connections.

    standings: by server id; a server without one is not reachable. awrr: the shares that loads ask for,
    with weights in them, by server id; a server without one gets the mean by weight. If fewer than
    `vip.panic` of the ready servers are usable, those that are down are used too: their checks may err, and
    the few others could not carry everything.
    """
    ready = [server for server in vip.servers if server.state is State.READY]
    reachable = [server for server in ready if _of(standings, server).reachable]
    usable = [server for server in reachable if _of(standings, server).usable]
    panicking = len(usable) < len(reachable) and len(usable) / len(ready) < vip.panic
    chosen = reachable if panicking else usable
    slow = {server.id: _slow_share(vip, _of(standings, server)) for server in chosen}
    full = _full_shares(vip, chosen, awrr)
    return Choice(
        {server.id: full[server.id] * slow[server.id] / _STEPS for server in chosen},
        _weights(vip, chosen, slow),
        hot_above,
        panicking,
    )


def _of(standings: Mapping[int, Standing], server: Server) -> Standing:
    return standings.get(server.id, UNKNOWN)


def _slow_share(vip: Vip, standing: Standing) -> int:
    """Return a server's share in tenths: a table that is made anew all the time would help nobody."""
    if vip.mode is Mode.COOKIELESS:  # each step would take open connections to other servers
        return _STEPS
    return min(max(int(standing.share * _STEPS + 1e-9), 1), _STEPS)


def _full_shares(vip: Vip, chosen: list[Server], awrr: Mapping[int, float] | None) -> dict[int, float]:
    if vip.policy is Policy.ROUND_ROBIN:
        return {server.id: 1.0 for server in chosen}
    weights = {server.id: float(server.weight) for server in chosen}
    if vip.policy is not Policy.AWRR or not awrr:
        return weights
    known = [awrr[number] / weight for number, weight in weights.items() if awrr.get(number, 0) > 0]
    mean = fmean(known) if known else 1.0
    return {
        number: awrr[number] if awrr.get(number, 0) > 0 else mean * weight
        for number, weight in weights.items()
    }


def _weights(vip: Vip, chosen: list[Server], slow: Mapping[int, int]) -> dict[int, int]:
    """Return the weights, in which only Maglev's have the slow start: of the others they say nothing of it.

    They are larger then by one factor for all, which a Maglev table does not see.
    """
    weights = {server.id: server.weight for server in chosen}
    if vip.policy is not Policy.MAGLEV or all(share == _STEPS for share in slow.values()):
        return weights
    factor = min(1.0, _LARGEST_WEIGHT / (_STEPS * max(weights.values())))
    return {number: max(round(weight * slow[number] * factor), 1) for number, weight in weights.items()}


def shown_state(server: Server, standing: Standing) -> str:
    """Return the state that users are shown: as asked for, or `down` of a ready one that checks say so of."""
    if server.state is State.READY and standing.up is False:
        return "down"
    return server.state.value


def fractions(choice: Choice) -> dict[int, float]:
    """Return which part of new connections each server is meant to get, 0 to 1, by server id."""
    whole = sum(choice.shares.values())
    return {number: share / whole for number, share in choice.shares.items()}


def unused_reason(server: Server, standing: Standing, choice: Choice) -> str | None:
    """Return why a server takes no new connections, as the end of a sentence; None if it does."""
    if server.id in choice.shares:
        return None
    if server.state is not State.READY:
        return _NOT_READY[server.state]
    if not standing.reachable:
        return standing.fault or "the way to it is not known"
    if standing.up is False:
        return standing.fault or "it is down"
    return "the choice was made before it was ready"
