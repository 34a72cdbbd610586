# SPDX-License-Identifier: Apache-2.0
"""Why a server gets a connection: pure explanations of what the packets' side does."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import Final

from poise.servers import maglev, pick
from poise.servers.model import Mode, Policy, Protocol, Server, State, Vip
from poise.servers.schedule import schedule
from poise.servers.standing import UNKNOWN, Choice, Standing, fractions, shown_state, unused_reason

_DRAWS: Final = 4096  # sequence numbers that are tried, for the chances of a policy that draws servers
_BY_HASH: Final = (Policy.HASH, Policy.MAGLEV)
_BY_DRAW: Final = (Policy.POWER_OF_TWO, Policy.PREQUAL)
_RULES: Final = {
    Policy.ROUND_ROBIN: "servers take turns",
    Policy.WEIGHTED_ROUND_ROBIN: "servers take turns, as often as their weights say",
    Policy.AWRR: "servers take turns, as often as their loads allow",
    Policy.HASH: "the hash of the flow stands for a turn of the schedule",
    Policy.MAGLEV: "the hash of the flow stands for a row of the Maglev table",
    Policy.POWER_OF_TWO: "of two servers that are drawn, the one with less load gets it",
    Policy.LEAST_LOADED: "the server with the least load per weight gets it",
    Policy.PREQUAL: "of two servers that are drawn, the fastest one that is not hot gets it, "
    "or the one with less load if both are hot",
}


class Reason(IntEnum):
    """Why a packet went where it went: enum reason of contract.h."""

    NONE = 0
    POLICY = 1
    REPEATED_SYN = 2
    COOKIE = 3
    HANDSHAKE = 4
    FLOW = 5
    HASH = 6
    CONNECTION = 7
    QUIC_ID = 8
    UNKNOWN = 9


_REASONS: Final = {
    Reason.NONE: "no packet came",
    Reason.POLICY: "it begins a connection, which the policy {policy} placed",
    Reason.REPEATED_SYN: "its SYN was sent again, and goes where the first one went",
    Reason.COOKIE: "the cookie in its timestamp names the server",
    Reason.HANDSHAKE: "its connection is remembered from its SYN on",
    Reason.FLOW: "it carries no cookie, but its flow is remembered",
    Reason.HASH: "nothing is remembered of its flow, so that the hash of the flow decides",
    Reason.CONNECTION: "the table of connections has it",
    Reason.QUIC_ID: "its connection id names the server",
    Reason.UNKNOWN: "it belongs to no connection that is known",
}


@dataclass(frozen=True)
class Live:
    """A server's load in effect, per weight; latency in microseconds per weight, 0 if unknown."""

    load: int = 0
    latency: int = 0


def explain(
    vip: Vip,
    client: str,
    standings: Mapping[int, Standing],
    choice: Choice,
    lives: Mapping[int, Live],
    *,
    flow: int,
    turn: int,
) -> dict[str, object]:
    """Return which server a new connection would get, and why, for JSON.

    client: ADDRESS:PORT. lives: by server id. flow: the hash of the flow, 64 bits. turn: the next one of the
    schedule. Returned: vip, client, rule, server (None if there is none, else the most likely), chance (0
    to 1), sentence, and servers, each with name, id, state, share, chance, load, reason.
    """
    chances = _chances(vip.policy, choice, lives, flow, turn)
    names = {server.id: server.name for server in vip.servers}
    likeliest = max(chances, key=lambda number: (chances[number], -number), default=None)
    parts = fractions(choice)
    servers = []
    for server in vip.servers:
        standing, chance = standings.get(server.id, UNKNOWN), chances.get(server.id, 0.0)
        reason = unused_reason(server, standing, choice) or _reason(vip, standing, chance)
        servers.append(
            {
                "name": server.name,
                "id": server.id,
                "state": shown_state(server, standing),
                "share": parts.get(server.id, 0.0),
                "chance": chance,
                "load": lives[server.id].load if server.id in lives else None,
                "reason": reason,
            }
        )
    name = None if likeliest is None else names[likeliest]
    return {
        "vip": vip.name,
        "client": client,
        "rule": _rule(vip),
        "server": name,
        "chance": 0.0 if likeliest is None else chances[likeliest],
        "sentence": _sentence(vip, client, name, 0.0 if likeliest is None else chances[likeliest]),
        "servers": servers,
    }


def _chances(
    policy: Policy, choice: Choice, lives: Mapping[int, Live], flow: int, turn: int
) -> dict[int, float]:
    """Return by server id with which chance a new connection goes there; without those that have none."""
    if not choice.shares:
        return {}
    rows = maglev.table(choice.weights) if policy is Policy.MAGLEV else ()
    pool = pick.Pool(sorted(choice.shares), schedule(choice.shares), rows, choice.hot_above)
    loads = {server: pick.Live(live.load, latency=live.latency) for server, live in lives.items()}
    sequence_numbers = Random(0)  # noqa: S311  # no secret: the same question gets the same answer
    draws = _DRAWS if policy in _BY_DRAW else 1
    picked = (
        pick.pick(policy, pool, loads, hash=flow, turn=turn, random=pick.random_number(flow, isn))
        for isn in (sequence_numbers.getrandbits(32) for _ in range(draws))
    )
    counts = Counter(server for server in picked if server is not None)
    return {server: count / draws for server, count in counts.items()}


def _rule(vip: Vip) -> str:
    rule = _RULES[vip.policy]
    return f"{rule}, of every packet" if vip.mode is Mode.COOKIELESS else rule


def _reason(vip: Vip, standing: Standing, chance: float) -> str:
    """Return why a server that takes new connections gets this one, or does not, as the end of a sentence."""
    if vip.policy in _BY_DRAW:
        reason = f"it wins {100 * chance:.0f} % of the draws" if chance else "it loses against all others"
    elif vip.policy in _BY_HASH:
        reason = f"the hash of the flow stands for {'it' if chance else 'another one'}"
    elif vip.policy is Policy.LEAST_LOADED:
        reason = "it has the least load" if chance else "another one has less load, or as little and its turn"
    else:
        reason = "it is its turn" if chance else "its turn comes later"
    if standing.up is False:
        reason += "; it is down, but so few servers are up that all are used"
    elif standing.share < 1 and vip.mode is not Mode.COOKIELESS:
        reason += f"; it starts slowly, and is at {100 * standing.share:.0f} % of its share"
    return reason


def _sentence(vip: Vip, client: str, server: str | None, chance: float) -> str:
    if server is None:
        fate = "is refused" if vip.protocol is Protocol.TCP else "gets no answer"
        return f"a new connection from {client} to {vip.name} {fate}: no server takes any"
    to = f"to {server}" if chance == 1 else f"most likely to {server} ({100 * chance:.0f} %)"
    return f"a new connection from {client} to {vip.name} goes {to}: {_rule(vip)}"


def explain_watch(vip: Vip, client: str, reason: Reason, number: int | None) -> dict[str, object]:
    """Return where the packet that was watched for went, and why, for JSON.

    number: the id of the server, None if there was none. Returned: vip, client, rule, server (name or None),
    reason (as `cookie`), sentence.
    """
    server = next((server for server in vip.servers if server.id == number), None)
    return {
        "vip": vip.name,
        "client": client,
        "rule": _because(vip, reason),
        "server": server.name if server else None,
        "reason": reason.name.lower(),
        "sentence": _watch_sentence(vip, client, server, number, reason),
    }


def _watch_sentence(vip: Vip, client: str, server: Server | None, number: int | None, reason: Reason) -> str:
    if reason is Reason.NONE:
        return f"no packet from {client} to {vip.name} came meanwhile"
    if server:
        state = "" if server.state is State.READY else f", which is {_STATES[server.state]}"
        where = f"went to {server.name}{state}"
    elif number is None:
        where = "went to no single server"
    else:
        where = f"went to a server with the id {number}, which {vip.name} does not have any more"
    return f"the packet from {client} to {vip.name} {where}: {_because(vip, reason)}"


def _because(vip: Vip, reason: Reason) -> str:
    if reason is Reason.HASH and vip.mode is Mode.COOKIELESS:
        return "the hash of its flow decides, of every packet"
    return _REASONS[reason].format(policy=vip.policy)


_STATES: Final = {
    State.DRAIN: "draining",
    State.MAINT: "in maintenance",
    State.REMOVED: "removed",
    State.CUT: "cut",
}
