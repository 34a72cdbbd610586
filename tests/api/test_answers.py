# SPDX-License-Identifier: Apache-2.0
"""What a running poise answers, held against docs/reference/api.md."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from poise.api.client import Client
from poise.lab.balancer import Balancer
from poise.lab.network import ServersLab
from poise.lab.traffic import long_lived

pytestmark = pytest.mark.root

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
CONNECTIONS = 4
WITHIN = 30.0  # seconds
CLIENT = (IPv4Address("198.51.100.7"), 40000)


class Running(NamedTuple):
    """A poise with open connections on a server that drains and on one that does not."""

    lab: ServersLab
    balancer: Balancer

    @property
    def client(self) -> Client:
        """Its API."""
        return self.balancer.client


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A stateful VIP, of which connections can be listed."""
    with ServersLab(2) as lab:
        balancer = lab.start_balancer(lab.servers, mode="stateful")
        traffic = long_lived(lab.clients[0], lab.vip, lab.port, connections=CONNECTIONS, interval=1.0)
        traffic.wait_until(lambda counts: counts.opened == CONNECTIONS, WITHIN)
        balancer.client.set_state("web1", "drain", deadline="1h")
        yield Running(lab, balancer)
        assert traffic.finish().reasons == {}


def explained(heading: str) -> set[str]:
    """The keys in the table below a heading of the page."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(
    ("heading", "method", "number"),
    [
        ("A server", Client.servers, 2),
        ("A VIP", Client.vips, 1),
        ("A connection", Client.connections, CONNECTIONS),
        ("A drain", Client.drains, 1),
        ("An event", Client.events, 2),
    ],
)
def test_lists(running: Running, heading: str, method: Any, number: int) -> None:  # noqa: ANN401  # a list
    """Each item of a list has the keys that the reference explains, and no others."""
    found = method(running.client)
    assert len(found) == number
    for item in found:
        assert set(item) == explained(heading)


def test_status(running: Running) -> None:
    """The status has the keys that the reference explains."""
    assert set(running.client.status()) == explained("The status")


def test_explanations(running: Running) -> None:
    """Both kinds of explanation together have the keys that the reference explains."""
    end = (IPv4Address(str(running.lab.vip)), running.lab.port)
    of_new = running.client.why(CLIENT, end)
    of_next = running.client.why(CLIENT, end, wait=0.1)
    assert set(of_new) | set(of_next) == explained("An explanation")
    assert set(of_next) == {"vip", "client", "server", "sentence", "rule", "reason"}
    keys = {"name", "id", "state", "share", "chance", "load", "reason"}
    assert [set(server) for server in of_new["servers"]] == [keys, keys]


def test_next_packet(running: Running) -> None:
    """Of an open connection, it is told where the next packet went."""
    open_one = next(each for each in running.client.connections() if each["server"] == "web2")
    client = (IPv4Address(open_one["client"]), open_one["port"])
    told = running.client.why(client, (IPv4Address(str(running.lab.vip)), running.lab.port), wait=10)
    assert told["server"] == "web2"
    assert told["reason"] != "none"


def test_plan(running: Running) -> None:
    """A plan has the keys that the reference explains."""
    assert set(running.client.plan(running.balancer.configuration)) == explained("A plan")


def test_metrics(running: Running) -> None:
    """All servers, and the counters, are among the metrics."""
    told = running.client.metrics()
    assert re.search(r'^poise_server_state\{server="web1",state="drain",vip=".*"\} 1\.0$', told, re.MULTILINE)
    assert re.search(r'^poise_server_open_connections\{server="web2",', told, re.MULTILINE)
    for counter in running.client.counters():
        assert f'poise_counters_total{{counter="{counter}"}}' in told
