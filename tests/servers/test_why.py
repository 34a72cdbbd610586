# SPDX-License-Identifier: Apache-2.0
import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.servers.model import Mode, Policy, Protocol, Server, State, Vip
from poise.servers.standing import Standing, choice
from poise.servers.watching import NO_SERVER
from poise.servers.why import Live, Reason, explain, explain_watch

CLIENT = "198.51.100.7:4000"
UP, DOWN = Standing(up=True), Standing(up=False)
CONTRACT = Path(__file__).parents[2] / "bpf/poise/contract.h"


def vip_of(policy: Policy, *states: State) -> Vip:
    """The VIP shop with servers web0, web1, ... in these states."""
    servers = tuple(
        Server(number, f"web{number}", IPv4Address("10.0.0.1"), 80 + number, state, 0.0, declared=True)
        for number, state in enumerate(states)
    )
    return Vip(0, "shop", IPv4Address("192.0.2.1"), 80, policy, servers, panic=0.0)


def ready(policy: Policy, count: int = 3) -> Vip:
    """The VIP shop with that many servers that are ready."""
    return vip_of(policy, *[State.READY] * count)


def why(vip: Vip, lives: Mapping[int, Live] | None = None, flow: int = 0, turn: int = 0) -> dict[str, Any]:
    """Why a server gets a new connection, all being up."""
    standings = {server.id: UP for server in vip.servers}
    return explain(vip, CLIENT, standings, choice(vip, standings), lives or {}, flow=flow, turn=turn)


def watched(vip: Vip, reason: Reason, server: int | None = None) -> dict[str, Any]:
    """Where a packet went that was watched for."""
    return explain_watch(vip, CLIENT, reason, server)


@given(
    st.sampled_from(list(Policy)),
    st.lists(st.tuples(st.sampled_from(list(State)), st.booleans(), st.integers(0, 99)), max_size=6),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=50)
def test_chances_are_of_servers_with_a_share_and_make_one(
    policy: Policy, servers: list[tuple[State, bool, int]], flow: int, turn: int
) -> None:
    """A new connection goes somewhere if anybody takes it, and never to a server that takes none."""
    vip = vip_of(policy, *(state for state, _, _ in servers))
    standings = {number: Standing(up=up) for number, (_, up, _) in enumerate(servers)}
    lives = {number: Live(load, latency=load) for number, (_, _, load) in enumerate(servers)}
    chosen = choice(vip, standings)
    told: Any = explain(vip, CLIENT, standings, chosen, lives, flow=flow, turn=turn)
    chances = {server["id"]: server["chance"] for server in told["servers"] if server["chance"]}
    assert chances.keys() <= chosen.shares.keys()
    assert sum(chances.values()) == pytest.approx(1 if chosen.shares else 0)
    assert told["chance"] == max(chances.values(), default=0)
    assert sum(server["share"] for server in told["servers"]) == pytest.approx(1 if chosen.shares else 0)
    assert (told["server"] is None) == (not chosen.shares)
    assert all(server["reason"] for server in told["servers"])


def test_turns_follow_each_other() -> None:
    """In turn, each server is the next one once."""
    told = [why(ready(Policy.ROUND_ROBIN), turn=turn) for turn in range(4)]
    assert {each["server"] for each in told[:3]} == {"web0", "web1", "web2"}
    assert told[3]["server"] == told[0]["server"]
    first = told[0]
    assert (first["vip"], first["client"], first["chance"]) == ("shop", CLIENT, 1)
    assert first["sentence"] == (
        f"a new connection from {CLIENT} to shop goes to {first['server']}: servers take turns"
    )
    reasons = {server["name"]: server["reason"] for server in first["servers"]}
    assert reasons.pop(first["server"]) == "it is its turn"
    assert set(reasons.values()) == {"its turn comes later"}


@pytest.mark.parametrize("policy", [Policy.HASH, Policy.MAGLEV])
def test_a_hash_always_stands_for_the_same_server(policy: Policy) -> None:
    """The turn does not matter, the hash does, and each server has its part of the hashes."""
    found = [why(ready(policy), flow=part << 58, turn=part)["server"] for part in range(64)]
    assert found == [why(ready(policy), flow=part << 58)["server"] for part in range(64)]
    if policy is Policy.MAGLEV:
        assert all(15 <= found.count(f"web{number}") <= 28 for number in range(3))
    told = why(ready(policy))
    reasons = sorted(server["reason"] for server in told["servers"])
    assert reasons == [
        *["the hash of the flow stands for another one"] * 2,
        "the hash of the flow stands for it",
    ]


def test_the_least_loaded_server_is_found() -> None:
    """Least-loaded looks at all servers; its answer says with which loads."""
    told = why(ready(Policy.LEAST_LOADED), {0: Live(7), 1: Live(3), 2: Live(9)})
    assert (told["server"], told["chance"]) == ("web1", 1)
    assert [server["load"] for server in told["servers"]] == [7, 3, 9]
    assert told["servers"][1]["reason"] == "it has the least load"


def test_draws_have_chances() -> None:
    """Of two drawn at random: the least loaded of four wins 7 in 16 draws, the most loaded 1 in 16."""
    lives = {number: Live(number) for number in range(4)}
    told = why(ready(Policy.POWER_OF_TWO, 4), lives)
    wanted = [7 / 16, 5 / 16, 3 / 16, 1 / 16]
    assert [server["chance"] for server in told["servers"]] == pytest.approx(wanted, abs=0.03)
    assert told["server"] == "web0"
    percent = f"{100 * told['chance']:.0f} %"
    assert f"goes most likely to web0 ({percent}): of two servers that are drawn" in told["sentence"]
    assert told["servers"][0]["reason"] == f"it wins {percent} of the draws"
    assert why(ready(Policy.POWER_OF_TWO, 4), lives) == told


def test_who_does_not_take_connections_is_told_why() -> None:
    """Each server without a share says what keeps it from one."""
    vip = vip_of(Policy.ROUND_ROBIN, State.READY, State.DRAIN, State.READY, State.READY)
    failing, lost = (
        Standing(up=False, fault="answered 503"),
        Standing(reachable=False, fault="there is no route"),
    )
    standings = {0: UP, 1: UP, 2: failing, 3: lost}
    told: Any = explain(vip, CLIENT, standings, choice(vip, standings), {}, flow=0, turn=0)
    assert [server["reason"] for server in told["servers"][1:]] == [
        "it drains",
        "answered 503",
        "there is no route",
    ]
    assert [server["state"] for server in told["servers"]] == ["ready", "drain", "down", "ready"]


def test_panic_and_a_slow_start_are_told() -> None:
    """Who is used although its checks fail, or less than it will be, is told to be so."""
    vip = replace(ready(Policy.ROUND_ROBIN, 2), panic=1.0)
    standings = {0: Standing(up=True, share=0.3), 1: DOWN}
    told: Any = explain(vip, CLIENT, standings, choice(vip, standings), {}, flow=0, turn=0)
    slow, down = (server["reason"] for server in told["servers"])
    assert slow.endswith("; it starts slowly, and is at 30 % of its share")
    assert down.endswith("; it is down, but so few servers are up that all are used")


def test_a_vip_without_servers_says_what_clients_get() -> None:
    """Without a server, TCP is refused, and UDP left without an answer."""
    vip = vip_of(Policy.HASH, State.MAINT)
    told = why(vip)
    assert (told["server"], told["chance"]) == (None, 0)
    assert told["sentence"] == f"a new connection from {CLIENT} to shop is refused: no server takes any"
    assert " gets no answer: " in why(replace(vip, protocol=Protocol.UDP))["sentence"]


def test_without_cookies_the_rule_holds_for_every_packet() -> None:
    """Where nothing keeps connections on their servers but the hash, the rule says so."""
    vip = replace(ready(Policy.MAGLEV), mode=Mode.COOKIELESS)
    assert why(vip)["rule"] == "the hash of the flow stands for a row of the Maglev table, of every packet"
    assert watched(vip, Reason.HASH, 1)["sentence"].endswith("the hash of its flow decides, of every packet")


def test_every_policy_has_a_rule() -> None:
    """No policy is left without an explanation."""
    assert len({why(ready(policy))["rule"] for policy in Policy}) == len(Policy)


def test_reasons_are_those_of_the_contract() -> None:
    """What BPF writes as a reason is read as the same one."""
    text = CONTRACT.read_text()
    body = re.sub(r"/\*.*?\*/", "", text.split("enum reason {")[1].split("}")[0], flags=re.DOTALL)
    assert re.findall(r"REASON_(\w+)", body) == [reason.name for reason in Reason]
    assert f"#define WATCH_NO_SERVER {NO_SERVER:#x}\n" in text


def test_the_next_packet_is_explained() -> None:
    """Where it went and by which rule; every reason has its own words."""
    told = watched(ready(Policy.HASH), Reason.COOKIE, 1)
    assert told == {
        "vip": "shop",
        "client": CLIENT,
        "rule": "the cookie in its timestamp names the server",
        "server": "web1",
        "reason": "cookie",
        "sentence": (
            f"the packet from {CLIENT} to shop went to web1: the cookie in its timestamp names the server"
        ),
    }
    said = {watched(ready(Policy.HASH), reason, 1)["sentence"] for reason in Reason}
    assert len(said) == len(Reason)
    assert "which the policy hash placed" in watched(ready(Policy.HASH), Reason.POLICY, 1)["sentence"]


def test_a_packet_that_did_not_come_is_not_explained() -> None:
    """When the flow was silent, that is the answer."""
    assert (
        watched(ready(Policy.HASH), Reason.NONE)["sentence"]
        == f"no packet from {CLIENT} to shop came meanwhile"
    )


def test_servers_that_are_not_ready_any_more_are_told_to_be_so() -> None:
    """Old connections go to servers that take no new ones, or are not even known any more."""
    vip = vip_of(Policy.HASH, State.DRAIN)
    assert "went to web0, which is draining: " in watched(vip, Reason.COOKIE, 0)["sentence"]
    assert (
        "went to a server with the id 7, which shop does not have any more: "
        in (watched(vip, Reason.COOKIE, 7)["sentence"])
    )
    unknown = watched(vip, Reason.UNKNOWN)
    assert (unknown["server"], "went to no single server: " in unknown["sentence"]) == (None, True)
