# SPDX-License-Identifier: Apache-2.0
"""Who gets new connections, by each policy, with what servers report of their load."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from poise.lab.balancer import Balancer
from poise.lab.namespaces import end
from poise.lab.network import ServersLab
from poise.lab.nginx import Nginx
from poise.lab.traffic import long_lived, short_requests
from tests.e2e.configuring import reconfigure
from tests.e2e.counters import drops, placed
from tests.e2e.http import ask
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.root

slow = partial(pytest.param, marks=pytest.mark.slow)

POLICIES = (
    "round-robin",
    "weighted-round-robin",
    "hash",
    "maglev",
    "power-of-two",
    "least-loaded",
    "awrr",
    "prequal",
)
LOOKS = {"interval": "200ms", "stale": "1s"}
REPORT = "load"  # a file of each server, which says its load
BY_URL = {"from": "url", "url": f"http://{{address}}:{{port}}/files/{REPORT}", **LOOKS}
AGENT_PORT = 9110
RATE = 200  # connections a second
SOME = 100  # connections, of which shares are to be seen
WITHIN = 60.0  # seconds, of what takes a few where nothing else runs


def start(lab: ServersLab, policy: str, **settings: object) -> Balancer:
    """Start a balancer whose only VIP has this policy, and further settings."""
    return lab.start_balancer(vips=[lab.vip_settings(policy=policy) | settings])


def report(server: Nginx, said: object) -> None:
    """Have a server say this of its load, text as it is and all else as JSON."""
    text = said if isinstance(said, str) else json.dumps(said)
    path = server.directory / "files" / REPORT
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


@contextmanager
def requests(lab: ServersLab) -> Iterator[None]:
    """Open connections at a steady rate, each for one request."""
    traffic = short_requests(lab.clients[0], lab.vip, lab.port, rate=RATE, timeout=30)
    try:
        yield
    finally:
        assert traffic.finish().failed == 0


def next_placed(balancer: Balancer, number: int = SOME) -> Counter[str]:
    """Wait for so many new connections, and return on which servers they were placed."""
    before, now = placed(balancer), Counter[str]()

    def are_enough() -> bool:
        nonlocal now
        now = Counter(placed(balancer))
        now.subtract(before)
        return now.total() >= number

    wait_until(are_enough, WITHIN)
    return now


def gets_fewer(balancer: Balancer, busy: str) -> bool:
    """Whether this server gets less than half of what any other gets, twice in a row."""
    twice = [next_placed(balancer) for _ in range(2)]
    return all(2 * counts.pop(busy) < min(counts.values()) for counts in twice)


def is_even(balancer: Balancer) -> bool:
    """Whether no server gets twice as much as any other, twice in a row."""
    twice = [next_placed(balancer) for _ in range(2)]
    return all(max(counts.values()) < 2 * min(counts.values()) for counts in twice)


def wait_for_event(balancer: Balancer, kind: str, name: str, since: int = 0) -> dict[str, Any]:
    """Wait for an event of a server after the one with the id `since`, and return it."""
    found: list[dict[str, Any]] = []

    def happened() -> bool:
        found[:] = [
            event
            for event in balancer.client.events(since)
            if (event["kind"], event["server"]) == (kind, name)
        ]
        return bool(found)

    wait_until(happened, WITHIN)
    return found[0]


def last_event(balancer: Balancer) -> int:
    """The id of the latest event."""
    return max((int(event["id"]) for event in balancer.client.events()), default=0)


def shown_load(balancer: Balancer, name: str) -> float | None:
    """The load of a server that is shown."""
    loads: dict[str, float | None] = {server["name"]: server["load"] for server in balancer.client.servers()}
    return loads[name]


@contextmanager
def agents(lab: ServersLab) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Run `poise agent` on each server, which counts the connections of its nginx; the processes by name."""
    running = {}
    with ExitStack() as stack:
        for server in lab.servers:
            ends = [f"{server.address}:{port}" for port in (AGENT_PORT, server.port)]
            poise = str(Path(sys.executable).with_name("poise"))
            process = server.namespace.popen(
                [poise, "agent", "--listen", ends[0], "--service", ends[1]], stderr=subprocess.DEVNULL
            )
            stack.callback(end, process)
            running[server.name] = process
        yield running


@contextmanager
def connections_of_others(lab: ServersLab, server: Nginx, number: int) -> Iterator[None]:
    """Keep connections to a server open that poise has not placed."""
    with ExitStack() as stack, lab.router.enter():
        for _ in range(number):
            connection = HTTPConnection(str(server.address), server.port)
            stack.callback(connection.close)
            connection.connect()
        yield


@pytest.mark.parametrize("policy", ["awrr", "least-loaded", slow("power-of-two"), slow("prequal")])
def test_a_server_whose_agent_tells_more_load_gets_fewer_connections(policy: str) -> None:
    """What `poise agent` counts on a server decides; without its word, the server gets what others get."""
    with ServersLab(3, clients=1) as lab, agents(lab) as running:
        balancer = start(lab, policy, load={"from": "agent", "metric": "in_flight", **LOOKS})
        with requests(lab), connections_of_others(lab, lab.server("web1"), 200):
            wait_until(lambda: gets_fewer(balancer, "web1"), WITHIN)
            end(running["web1"])
            wait_until(lambda: is_even(balancer), WITHIN)


@pytest.mark.parametrize("policy", [slow("awrr"), slow("least-loaded"), "power-of-two", "prequal"])
def test_a_server_that_reports_more_in_json_gets_fewer_connections(policy: str) -> None:
    """A number somewhere in JSON is read as the load; that which is high at present gets fewer."""
    with ServersLab(3, clients=1) as lab:
        for server in lab.servers:
            report(server, {"pool": [{"queue": 50}], "ms": 2.5})
        source = BY_URL | {"metric": "pool.0.queue"} | ({"latency": "ms"} if policy == "prequal" else {})
        balancer = start(lab, policy, load=source)
        with requests(lab):
            wait_until(lambda: is_even(balancer), WITHIN)
            report(lab.server("web2"), {"pool": [{"queue": 500}], "ms": 2.5})
            wait_until(lambda: gets_fewer(balancer, "web2"), WITHIN)


@pytest.mark.parametrize(
    "reports",
    [
        (("-1", "is -1, but a load is not negative"),),
        (("NaN", "is NaN, which is not finite"),),
        pytest.param(
            (
                ("1e999", "is Infinity, which is not finite"),
                ("busy", "answered neither a number nor JSON, but 'busy'"),
                ("true", "is true, which is not a number"),
                ('{"load": 0}', "answered JSON of more than a number"),
            ),
            marks=pytest.mark.slow,
            id="others",
        ),
    ],
)
def test_a_report_that_cannot_be_a_load_is_left_aside(reports: tuple[tuple[str, str], ...]) -> None:
    """Nothing that a server says instead of a load gains or costs it connections, and an event tells what.

    Shares that a load has made uneven are even again once it is too old.
    """
    with ServersLab(3, clients=1) as lab:
        web1, *others = lab.servers
        for server in others:
            report(server, 10)
        report(web1, 90)
        balancer = start(lab, "least-loaded", load=BY_URL)
        with requests(lab):
            wait_until(lambda: gets_fewer(balancer, "web1"), WITHIN)
            for said, why in reports:
                since = last_event(balancer)
                report(web1, said)
                lost = wait_for_event(balancer, "signal-lost", "web1", since)
                assert why in lost["message"]
                wait_until(lambda: shown_load(balancer, "web1") is None, WITHIN)
                wait_until(lambda: is_even(balancer), WITHIN)
                report(web1, 10)
                wait_for_event(balancer, "signal-back", "web1", lost["id"])
                assert shown_load(balancer, "web1") == 10


@pytest.mark.parametrize("mode", ["stateless", "stateful"])
def test_whoever_is_out_gets_nothing_by_any_policy(mode: str) -> None:
    """A server that is down or drained gets no connection, however little load it reports."""
    check = {"type": "http", "path": "/files/healthy", "status": [200], "interval": "200ms", "fall": 2}
    source = BY_URL | {"metric": "load", "latency": "ms"}
    with ServersLab(4, clients=1, files={"healthy": 1}) as lab:
        for server, load in zip(lab.servers, (50, 50, 0, 0), strict=True):
            report(server, {"load": load, "ms": load})
        balancer = start(lab, "round-robin", mode=mode, checks=[check])
        (lab.server("web3").directory / "files" / "healthy").unlink()
        wait_for_event(balancer, "down", "web3")
        balancer.client.drain("web4")
        before = placed(balancer)
        with requests(lab):
            for policy in POLICIES:
                settings = {"policy": policy, "mode": mode, "checks": [check], "load": source}
                reconfigure(balancer, vips=[lab.vip_settings() | settings])
                balancer.client.reload()
                counts = next_placed(balancer)
                assert (counts["web3"], counts["web4"]) == (0, 0)
                assert min(counts["web1"], counts["web2"]) > 0
        after = placed(balancer)
        assert (after["web3"], after["web4"]) == (before["web3"], before["web4"])


@pytest.mark.parametrize("mode", ["stateless", "stateful"])
def test_weighted_round_robin_takes_strict_turns(mode: str) -> None:
    """In each round of connections opened in turn, a server gets exactly as many as its weight."""
    weights = {"web1": 1, "web2": 2, "web3": 5}
    turns = sum(weights.values())
    with ServersLab(3, clients=1) as lab:
        vip = lab.vip_settings(mode=mode, policy="weighted-round-robin")
        vip["servers"] = [
            {"name": server.name, "address": str(server.address), "weight": weights[server.name]}
            | {"port": server.port}
            for server in lab.servers
        ]
        balancer = lab.start_balancer(vips=[vip])
        answers = [ask(lab.clients[0], lab.vip, lab.port) for _ in range(5 * turns)]
        assert Counter(answers[:turns]) == weights
        assert answers[turns:] == answers[:-turns]
        assert placed(balancer) == {name: 5 * weight for name, weight in weights.items()}
        assert drops(balancer) == {}


def test_least_loaded_evens_out_open_connections() -> None:
    """In a stateful VIP, new connections go to the servers that have fewer until all have as many.

    But for one, which may be placed just while the loads are written that it is not part of.
    """
    each = 40
    with ServersLab(3, clients=1) as lab:
        balancer = start(lab, "least-loaded", mode="stateful")
        for name in ("web2", "web3"):
            balancer.client.drain(name)
        first = long_lived(lab.clients[0], lab.vip, lab.port, connections=each, timeout=30)
        first.wait_until(lambda counts: counts.servers == {"web1": each}, WITHIN)
        for name in ("web2", "web3"):
            balancer.client.set_state(name, "ready")
        # From now on poise goes by what each of them has.
        wait_until(lambda: {shown_load(balancer, name) for name in ("web2", "web3")} == {0}, WITHIN)
        more = long_lived(lab.clients[0], lab.vip, lab.port, connections=2 * each, rate=40, timeout=30)
        more.wait_until(lambda counts: counts.opened == 2 * each, WITHIN)
        opened = {server["name"]: server["open"] for server in balancer.client.servers()}
        assert all(abs(number - each) <= 1 for number in opened.values()), opened
        assert opened == Counter(first.finish().servers) + Counter(more.finish().servers)
