# SPDX-License-Identifier: Apache-2.0
"""512 VIPs of 500 servers: how long a start takes, and a reload after one file was changed."""

import json
import os
import statistics
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from poise.lab.balancer import Balancer
from poise.lab.namespaces import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]

VIPS = 512
SERVERS = 500
START = 30.0  # seconds
RELOAD = 0.2  # seconds, the median
RELOADS = 11
FIRST = IPv4Address("10.1.1.0")


class Plant(Lab):
    """A balancer, `here`, and a machine with all the servers' addresses on the same link."""

    def build(self) -> None:
        """Make both machines and write the configuration."""
        self.here, self.servers = self.namespace("here"), self.namespace("servers")
        self.link(self.here, "eth0", self.servers, "eth0")
        self.here.ip("address add 10.1.0.1/16 dev eth0")
        self.servers.ip(*(f"address add {FIRST + number}/16 dev eth0" for number in range(SERVERS)))
        self.socket = self.directory / "poise.sock"
        self.configuration = self.directory / "poise.yaml"
        self.included = self.directory / "conf.d"
        self.included.mkdir()
        settings = {
            "interfaces": ["eth0"],
            "include": "conf.d",
            "vips": [],
            "vip_limit": VIPS,
            "socket": str(self.socket),
            "state_directory": str(self.directory / "state"),
            "pin_directory": str(self.pins),
        }
        self.configuration.write_text(json.dumps(settings))
        for number in range(VIPS):
            self.write(number)

    def write(self, number: int, weight: int = 1) -> None:
        """Write the file of one VIP; weight: of its first server."""
        lines = [
            f"  - {{address: {FIRST + at}, port: {1024 + number}, name: web{at}, "
            f"weight: {1 if at else weight}}}"
            for at in range(SERVERS)
        ]
        vip = IPv4Address("192.0.2.0") + number % 64
        head = f"vips:\n- name: vip{number}\n  address: {vip}\n  port: {1000 + number}\n  policy: maglev\n"
        self.file(number).write_text(f"{head}  servers:\n" + "\n".join(lines) + "\n")

    def file(self, number: int) -> Path:
        """The file of one VIP."""
        return self.included / f"vip{number:03}.yaml"


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    """The machines, and no balancer yet."""
    with Plant() as found:
        yield found


@pytest.fixture(scope="module")
def started(plant: Plant) -> Iterator[tuple[Balancer, float]]:
    """A balancer, and how many seconds its first start took."""
    balancer = Balancer(plant.here, plant.configuration, plant.socket, plant.directory / "log")
    try:
        yield balancer, start(balancer)
    finally:
        balancer.undo()


@pytest.fixture
def balancer(started: tuple[Balancer, float]) -> Balancer:
    """The balancer, which runs."""
    return started[0]


def start(balancer: Balancer) -> float:
    """Return how many seconds pass until it answers."""
    begun = time.monotonic()
    balancer.start(within=4 * START)
    seconds = time.monotonic() - begun
    fields = Path(f"/proc/{balancer.pid}/stat").read_text().rpartition(")")[2].split()
    busy = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")  # utime and stime of proc(5)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{balancer.pid}/status").read_text().splitlines()
    )
    print(f"the start took {seconds:.1f} s, {busy:.1f} s of them busy; it has{status['VmRSS']}")  # noqa: T201  measured
    return seconds


def test_a_start_with_256000_servers_is_quick(started: tuple[Balancer, float]) -> None:
    """At the first start all VIPs serve within half a minute."""
    balancer, seconds = started
    status = balancer.client.status()
    assert (status["vips"], status["servers"]) == (VIPS, VIPS * SERVERS)
    vips = balancer.client.vips()
    assert {vip["usable"] for vip in vips} == {SERVERS}
    assert seconds < START


def test_a_reload_after_one_file_was_changed_is_quick(plant: Plant, balancer: Balancer) -> None:
    """A change of one of 512 files is in force at once, whatever the others hold."""
    took = []
    for number in range(RELOADS):
        plant.write(7 * number, weight=2 + number)
        begun = time.monotonic()
        told = balancer.client.reload()
        took.append(time.monotonic() - begun)
        assert (told["added"], told["changed"], told["removed"]) == ([], [f"vip{7 * number}"], [])
    print(f"reloads took {[round(1000 * each) for each in took]} ms")  # noqa: T201  a measurement
    assert statistics.median(took) < RELOAD


def test_a_change_of_one_server_is_quick(balancer: Balancer) -> None:
    """So is what an operator changes."""
    took = []
    for number in range(RELOADS):
        begun = time.monotonic()
        balancer.client.set_state(f"web{number}", "drain", vip=f"vip{number}")
        took.append(time.monotonic() - begun)
    print(f"drains took {[round(1000 * each) for each in took]} ms")  # noqa: T201  a measurement
    assert statistics.median(took) < RELOAD


def test_a_restart_with_256000_servers_is_quick(balancer: Balancer) -> None:
    """A killed daemon is succeeded within half a minute, and nothing has changed."""
    before = balancer.client.vips()
    balancer.kill()
    seconds = start(balancer)
    assert balancer.client.vips() == before
    assert seconds < START
