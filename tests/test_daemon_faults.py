# SPDX-License-Identifier: Apache-2.0
"""What a running poise does when its machine, its operators or its servers misbehave."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from poise.errors import PoiseError
from tests.disks import fill, small_disk
from tests.site import Site

pytestmark = pytest.mark.root

WITHIN = 20.0  # seconds
FLAPS = 10


@pytest.fixture
def site() -> Iterator[Site]:
    """A machine between a client and a server, which has a second address."""
    with Site() as found:
        found.server.ip("address add 10.2.0.12/24 dev eth0")
        servers = [{"name": f"web{n}", "address": f"10.2.0.1{n}", "port": 8080} for n in (1, 2)]
        found.configure({"name": "shop", "address": "192.0.2.10", "port": 80, "servers": servers})
        yield found


def test_a_full_disk_refuses_changes_and_harms_nothing(site: Site) -> None:
    """Without room on its disk poise refuses what it cannot remember, runs on, and can even be restarted."""
    with small_disk(site.state, 1024):
        balancer = site.running()
        fill(site.state / "ballast")
        with pytest.raises(PoiseError, match=rf"^cannot write {site.state}/servers\.db \(.*\): make room"):
            balancer.client.set_state("web1", "drain")
        assert [server["state"] for server in balancer.client.servers()] == ["ready", "ready"]
        balancer.kill()
        balancer.start()
        assert [server["state"] for server in balancer.client.servers()] == ["ready", "ready"]
        (site.state / "ballast").unlink()
        assert balancer.client.set_state("web1", "drain")["state"] == "drain"
        balancer.kill()
        balancer.start()
        assert [server["state"] for server in balancer.client.servers()] == ["drain", "ready"]
        balancer.stop()


def test_operators_at_once_do_not_get_in_each_others_way(site: Site) -> None:
    """Changes that come at the same time are made one after the other, and none is lost."""
    balancer = site.running()
    with ThreadPoolExecutor(8) as pool:
        for number in range(30):
            address, port = "10.2.0.11", 9000 + number
            pool.submit(balancer.client.add, address, port, name=f"new{number}")  # type: ignore[arg-type]
            if number % 3 == 0:
                pool.submit(balancer.client.reload)
    servers = {server["name"]: server["id"] for server in balancer.client.servers()}
    assert len(servers) == len(set(servers.values())) == 32
    balancer.kill()
    balancer.start()
    assert {server["name"]: server["id"] for server in balancer.client.servers()} == servers


def test_a_server_that_flaps_does_not_make_poise_flap(site: Site) -> None:
    """Checks that fail every now and then change nothing, as `fall` of them in a row must."""
    check = {"type": "tcp", "interval": "100ms", "timeout": "100ms", "rise": 2, "fall": 10}
    server = {"name": "web1", "address": "10.2.0.11", "port": 8080}
    site.configure({"address": "192.0.2.10", "port": 80, "servers": [server], "checks": [check]})
    balancer = site.running()
    deadline = time.monotonic() + WITHIN
    while not any(event["kind"] == "down" for event in balancer.client.events()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(FLAPS):
        with site.server.enter(), closing(socket.create_server(("10.2.0.11", 8080))):
            time.sleep(0.05)
        time.sleep(0.25)
    kinds = [event["kind"] for event in balancer.client.events()]
    assert kinds.count("up") <= 1
    assert kinds.count("down") <= 2
