# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Literal

import pytest

from poise.lab.addresses import Family
from poise.lab.balancer import Balancer
from poise.lab.faults import drop_all, syn
from poise.lab.network import ServersLab
from tests.e2e.counters import drops
from tests.e2e.http import ask
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.root

FILE = "healthy"  # while a server has it, it passes CHECK
CHECK = {
    "type": "http",
    "path": f"/files/{FILE}",
    "status": [200],
    "interval": "200ms",
    "timeout": "100ms",
    "rise": 2,
    "fall": 2,
}
TCP = {"type": "tcp", "interval": "200ms", "timeout": "100ms", "fall": 2}
REQUESTS = 12
WITHIN = 10.0  # seconds, of what takes less than one where nothing else runs


def start(lab: ServersLab, *checks: object, **settings: object) -> Balancer:
    """Start a balancer whose only VIP has these checks, and further settings."""
    return lab.start_balancer(vips=[lab.vip_settings() | {"checks": list(checks)} | settings])


def states(balancer: Balancer) -> dict[str, str]:
    """The state of each server that is shown, by its name."""
    return {server["name"]: server["state"] for server in balancer.client.servers()}


def wait_for(balancer: Balancer, **wanted: Literal["up", "down"]) -> None:
    """Wait until poise has told of servers that they are up or down, and so has acted upon it.

    It tells of none that never was down.
    """

    def told() -> dict[str, str]:
        events = balancer.client.events()
        last = {event["server"]: event["kind"] for event in events if event["kind"] in {"up", "down"}}
        return dict.fromkeys(wanted, "up") | last

    wait_until(lambda: told().items() >= wanted.items(), WITHIN)


def answers(lab: ServersLab) -> set[str]:
    """The names of those that answer some requests, on connections of their own."""
    return {ask(lab.clients[0], lab.vip, lab.port) for _ in range(REQUESTS)}


def sicken(lab: ServersLab, names: Iterable[str]) -> None:
    """Have servers fail their check, though they work."""
    for name in names:
        (lab.server(name).directory / "files" / FILE).unlink()


def cure(lab: ServersLab, names: Iterable[str]) -> None:
    """Have servers pass their check again."""
    for name in names:
        lab.server(name).put_file(FILE, 1)


@pytest.mark.parametrize(
    ("family", "mode", "arms"),
    [(4, "stateless", 2), (4, "cookieless", 1), (6, "stateful", 1), (6, "stateless", 2)],
)
def test_checks_reach_servers_past_the_vip(family: Family, mode: str, arms: Literal[1, 2]) -> None:
    """A server's answers to poise itself are left alone, although they come from its service port."""
    with ServersLab(2, clients=1, arms=arms, family=family, files={FILE: 1}) as lab:
        balancer = start(lab, CHECK, TCP, mode=mode)
        for server in lab.servers:
            server.kill()
        wait_for(balancer, web1="down", web2="down")
        for server in lab.servers:
            server.start()
        wait_for(balancer, web1="up", web2="up")
        wait_until(lambda: answers(lab) == {"web1", "web2"}, WITHIN)
        assert drops(balancer) == {}


def test_a_server_that_dies_gets_no_connections_until_it_is_back() -> None:
    """From the moment that its checks fail, every client is served by the others."""
    with ServersLab(3, clients=1, files={FILE: 1}) as lab:
        balancer = start(lab, CHECK)
        lab.server("web2").kill()
        wait_for(balancer, web2="down")
        assert answers(lab) == {"web1", "web3"}
        lab.server("web2").start()
        wait_for(balancer, web2="up")
        assert answers(lab) == {"web1", "web2", "web3"}


def test_a_server_that_is_silent_gets_no_connections() -> None:
    """One whose SYNs get lost, with a neighbour that answers ARP, is found out by its check all the same."""
    with ServersLab(2, clients=1) as lab:
        balancer = start(lab, TCP)
        with drop_all(lab.server("web1").namespace, syn(lab.port)):
            wait_for(balancer, web1="down")
            assert answers(lab) == {"web2"}
        wait_for(balancer, web1="up")


def test_open_connections_of_a_server_that_is_down_go_on() -> None:
    """A failed check takes new connections from a server, and not those that it has."""
    with ServersLab(2, clients=1, files={FILE: 1}) as lab, ExitStack() as stack:
        balancer = start(lab, CHECK)
        (client,) = lab.clients
        connections = [HTTPConnection(str(lab.vip), lab.port, timeout=10) for _ in range(4)]
        for connection in connections:
            stack.callback(connection.close)
            with client.enter():
                connection.connect()
        before = [_get(connection) for connection in connections]
        assert set(before) == {"web1", "web2"}
        sicken(lab, ["web1"])
        wait_for(balancer, web1="down")
        assert [_get(connection) for connection in connections] == before
        assert answers(lab) == {"web2"}


def test_if_too_few_are_up_all_are_used() -> None:
    """A check that fails everywhere does not shut a service that works."""
    with ServersLab(3, clients=1, files={FILE: 1}) as lab:
        balancer = start(lab, CHECK, panic="50%")
        sicken(lab, ["web1"])
        wait_for(balancer, web1="down")
        assert answers(lab) == {"web2", "web3"}
        sicken(lab, ["web2", "web3"])
        wait_for(balancer, web1="down", web2="down", web3="down")
        wait_until(lambda: answers(lab) == {"web1", "web2", "web3"}, WITHIN)
        cure(lab, ["web2", "web3"])
        wait_for(balancer, web2="up", web3="up")
        wait_until(lambda: answers(lab) == {"web2", "web3"}, WITHIN)


def test_without_panic_none_is_used_when_none_is_up() -> None:
    """With `panic: 0%`, clients are refused at once rather than sent to a server that is down."""
    # With two arms, the lab's veths do not pass on what poise sends back where it came from.
    with ServersLab(2, clients=1, arms=1, files={FILE: 1}) as lab:
        balancer = start(lab, CHECK, panic="0%")
        sicken(lab, ["web1", "web2"])
        wait_for(balancer, web1="down", web2="down")
        wait_until(lambda: _refused(lab) == REQUESTS, WITHIN)


def test_a_server_that_resets_its_clients_is_found_out_by_its_packets() -> None:
    """Without any check: after enough refused connections, nobody is sent there until the hold is over."""
    with ServersLab(3, clients=1) as lab:
        balancer = start(lab, passive={"window": "5s", "connections": 5, "hold": "4s"})
        lab.server("web3").kill()
        wait_until(lambda: _refused(lab) == 0, WITHIN)
        assert states(balancer)["web3"] == "down"
        assert answers(lab) == {"web1", "web2"}
        lab.server("web3").start()
        wait_for(balancer, web3="up")
        assert answers(lab) == {"web1", "web2", "web3"}


def test_a_server_that_was_down_is_so_after_a_restart_of_poise() -> None:
    """Not even the first connections after a restart go to a server that is known to be dead."""
    with ServersLab(2, clients=1, files={FILE: 1}) as lab:
        balancer = start(lab, CHECK | {"interval": "500ms", "rise": 10})
        sicken(lab, ["web1"])
        wait_for(balancer, web1="down")
        wait_until(lambda: answers(lab) == {"web2"}, WITHIN)
        balancer.kill()
        cure(lab, ["web1"])
        balancer.start()
        assert states(balancer)["web1"] == "down"
        assert answers(lab) == {"web2"}
        wait_for(balancer, web1="up")


def _get(connection: HTTPConnection) -> str:
    connection.request("GET", "/")
    return connection.getresponse().read().decode().strip()


def _refused(lab: ServersLab) -> int:
    """How many of some connections are refused."""
    refused = 0
    for _ in range(REQUESTS):
        try:
            ask(lab.clients[0], lab.vip, lab.port)
        except ConnectionRefusedError:
            refused += 1
    return refused
