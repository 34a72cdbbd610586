# SPDX-License-Identifier: Apache-2.0
"""What a running poise does without a restart: reloads, plans, drains that end, health checks."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from poise.errors import PoiseError
from poise.lab.balancer import Balancer
from poise.lab.xdp_pass import pass_everything
from tests.site import Site

pytestmark = pytest.mark.root

VIP = "192.0.2.10"
WITHIN = 20.0  # seconds
VIP_END = (IPv4Address(VIP), 80)
CLIENT_END = (IPv4Address("10.1.0.11"), 40000)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Site, Balancer]]:
    """A machine between a client and servers at 10.2.0.11 and 10.2.0.12, where poise runs."""
    with Site() as site:
        site.server.ip("address add 10.2.0.12/24 dev eth0")
        pass_everything(site.client, "eth0")  # for resets, which poise answers itself
        site.configure(vip())
        yield site, site.running()


@pytest.fixture
def afresh(running: tuple[Site, Balancer]) -> tuple[Site, Balancer]:
    """The same, with one VIP of two servers, both ready."""
    site, balancer = running
    configure(site, balancer)
    for server in balancer.client.servers():
        if server["state"] != "ready":
            balancer.client.set_state(server["name"], "ready")
    eventually(lambda: {server["reachable"] for server in balancer.client.servers()} == {True})
    return site, balancer


def vip(*, port: int = 80, address: str = VIP, **settings: object) -> dict[str, object]:
    """A VIP of the two servers; each VIP has its own port on them."""
    servers = [
        {"name": f"web{number}", "address": f"10.2.0.1{number}", "port": 8000 + port} for number in (1, 2)
    ]
    return {"address": address, "port": port, "servers": servers, **settings}


def configure(site: Site, balancer: Balancer, *vips: dict[str, object], **settings: object) -> dict[str, Any]:
    """Have the running poise do as such a configuration says."""
    site.configure(*(vips or (vip(),)), **settings)
    return balancer.client.reload()


def eventually(holds: Callable[[], bool]) -> None:
    """Return once it holds; what it looks at tells of no event."""
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def events(balancer: Balancer, since: int) -> list[str]:
    """The kinds of the events after that one."""
    return [event["kind"] for event in balancer.client.events(since)]


def last_event(balancer: Balancer) -> int:
    """The id of the last event."""
    return max((event["id"] for event in balancer.client.events()), default=0)


def addresses(site: Site) -> set[str]:
    """The addresses that the balancer's machine has."""
    return {line.split()[3] for line in site.here.run(["ip", "-o", "-4", "address"]).splitlines()}


def open_connection(
    site: Site, port: int = 80, server: str = "10.2.0.11"
) -> tuple[socket.socket, socket.socket]:
    """A connection through the VIP to that server: the client's end and the server's."""
    with site.server.enter():
        listening = [socket.create_server((each, 8000 + port)) for each in ("10.2.0.11", "10.2.0.12")]
    try:
        while True:
            with site.client.enter():
                client = socket.create_connection((VIP, port), WITHIN)
            for each in listening:
                each.settimeout(1)
            chosen = listening[0] if server == "10.2.0.11" else listening[1]
            try:
                accepted, _ = chosen.accept()
            except TimeoutError:
                client.close()
                continue
            return client, accepted
    finally:
        for each in listening:
            each.close()


def test_a_reload_applies_what_differs(afresh: tuple[Site, Balancer]) -> None:
    """VIPs and servers come, change and go with the configuration, and so do addresses of the machine."""
    site, balancer = afresh
    more = vip(port=81, address="192.0.2.20")
    told = configure(site, balancer, vip(policy="maglev"), more)
    assert (told["added"], told["changed"], told["removed"]) == (["192.0.2.20:81"], [f"{VIP}:80"], [])
    assert {each["policy"] for each in balancer.client.vips()} == {"maglev", "round-robin"}
    assert {f"{VIP}/32", "192.0.2.20/32"} <= addresses(site)
    eventually(lambda: [each["usable"] for each in balancer.client.vips()] == [2, 2])
    told = configure(site, balancer, vip(policy="maglev"))
    assert (told["added"], told["changed"], told["removed"]) == ([], [], ["192.0.2.20:81"])
    assert "192.0.2.20/32" not in addresses(site)
    again = balancer.client.reload()
    assert (again["added"], again["changed"], again["removed"]) == ([], [], [])
    assert again["digest"] == balancer.client.status()["digest"]


def test_a_configuration_with_mistakes_changes_nothing(afresh: tuple[Site, Balancer]) -> None:
    """Each mistake is told with file and line, the running one stays, and the status says so."""
    site, balancer = afresh
    before = (balancer.client.vips(), balancer.client.status()["digest"])
    site.configuration.write_text(
        "interfaces: [eth0]\nvips:\n- address: 192.0.2.300\n  port: 80\n  servers: []\n"
    )
    with pytest.raises(PoiseError, match=rf"{site.configuration}:3: "):
        balancer.client.reload()
    status = balancer.client.status()
    assert (balancer.client.vips(), status["digest"]) == before
    assert status["reload"]["ok"] is False
    assert f"{site.configuration}:3" in status["reload"]["error"]
    configure(site, balancer)
    assert balancer.client.status()["reload"]["ok"] is True


def test_what_only_a_restart_changes_is_named(afresh: tuple[Site, Balancer]) -> None:
    """A reload that would need a restart is refused, with the names of the settings."""
    site, balancer = afresh
    with pytest.raises(PoiseError, match=r"interfaces, handshake_rows only change with a restart"):
        configure(site, balancer, vip(policy="hash"), interfaces=["eth0"], handshake_rows=2048)
    assert {each["policy"] for each in balancer.client.vips()} == {"round-robin"}


def test_sighup_reads_the_configuration_again(afresh: tuple[Site, Balancer]) -> None:
    """SIGHUP does as `poise reload`; one that comes upon mistakes is an event, and poise runs on."""
    site, balancer = afresh
    since = last_event(balancer)
    site.configure(vip(policy="hash"))
    assert balancer.pid
    os.kill(balancer.pid, signal.SIGHUP)
    eventually(lambda: "reloaded" in events(balancer, since))
    assert {each["policy"] for each in balancer.client.vips()} == {"hash"}
    site.configuration.write_text("vips: 1\n")
    os.kill(balancer.pid, signal.SIGHUP)
    eventually(lambda: "refused" in events(balancer, since))
    assert {each["policy"] for each in balancer.client.vips()} == {"hash"}


def test_a_plan_tells_what_a_reload_would_do_and_does_nothing(
    afresh: tuple[Site, Balancer], tmp_path: Path
) -> None:
    """The plan names each change, and the share of new flows that would get another server."""
    site, balancer = afresh
    written = json.loads(site.configuration.read_text())
    written["vips"] = [vip(policy="maglev")]
    written["vips"][0]["servers"].pop()
    new = tmp_path / "new.yaml"
    new.write_text(json.dumps(written | {"handshake_rows": 2048}))
    before = balancer.client.vips()
    told = balancer.client.plan(new)
    kinds = {change["kind"] for change in told["changes"]}
    assert "server-removed" in kinds, told
    assert told["moved"][f"{VIP}:80"] == pytest.approx(0.5, abs=0.1)
    assert told["restart"] == ["handshake_rows"]
    assert balancer.client.vips() == before
    site.configure(vip(policy="maglev"))
    told = balancer.client.plan(site.configuration)
    assert [change["vip"] for change in told["changes"]] == [f"{VIP}:80"]
    assert told["restart"] == []
    assert balancer.client.vips() == before
    assert balancer.client.reload()["changed"] == [f"{VIP}:80"]


def test_why_names_the_server_that_gets_the_next_connection(afresh: tuple[Site, Balancer]) -> None:
    """Of a hashing VIP the answer is what then happens; and the next packet of a flow is explained."""
    site, balancer = afresh
    configure(site, balancer, vip(policy="hash"))
    told = balancer.client.why(CLIENT_END, VIP_END)
    number = next(server for server in ("web1", "web2") if server == told["server"])
    with site.server.enter():
        listening = socket.create_server((f"10.2.0.1{number[-1]}", 8080))
    with closing(listening):
        listening.settimeout(WITHIN)
        with site.client.enter():
            client = socket.create_connection(
                (VIP, 80), WITHIN, source_address=(str(CLIENT_END[0]), CLIENT_END[1])
            )
        with closing(client):
            accepted, _ = listening.accept()
            with closing(accepted), ThreadPoolExecutor(1) as pool:
                assert {server["name"] for server in told["servers"]} == {"web1", "web2"}
                asked = pool.submit(balancer.client.why, CLIENT_END, VIP_END, wait=WITHIN)
                while not asked.done():
                    client.sendall(b"is this packet the one?")
                    time.sleep(0.05)
                assert asked.result()["server"] == number
                assert asked.result()["reason"] in {"handshake", "cookie"}
    nothing = balancer.client.why(CLIENT_END, VIP_END, wait=0.2)
    assert nothing["server"] is None
    assert nothing["reason"] == "none"


def test_why_tells_vips_of_two_protocols_apart(afresh: tuple[Site, Balancer]) -> None:
    """Where TCP and UDP share an address and port, that of TCP is meant unless the other is asked for."""
    site, balancer = afresh
    configure(site, balancer, vip(protocol="udp", name="datagrams"), vip(name="streams"))
    client = balancer.client
    assert client.why(CLIENT_END, VIP_END)["vip"] == "streams"
    assert client.why(CLIENT_END, VIP_END, protocol="udp")["vip"] == "datagrams"
    configure(site, balancer, vip(protocol="udp", name="datagrams"))
    assert client.why(CLIENT_END, VIP_END)["vip"] == "datagrams"


@pytest.mark.parametrize("mode", ["stateful", "stateless"])
def test_a_drain_is_done_when_the_last_connection_has_ended(afresh: tuple[Site, Balancer], mode: str) -> None:
    """A drain counts what remains, and is done when nothing does; an event tells so."""
    site, balancer = afresh
    configure(site, balancer, vip(port=82, mode=mode, drain={"quiet": "1s"}))
    eventually(lambda: balancer.client.vips()[0]["usable"] == 2)
    client, server = open_connection(site, 82)
    since = last_event(balancer)
    with closing(client), closing(server):
        balancer.client.set_state("web1", "drain")
        if mode == "stateful":
            eventually(lambda: balancer.client.drains()[0]["remaining"] == 1)
        client.sendall(b"question")
        assert server.recv(100) == b"question"
        (drain,) = balancer.client.drains()
        assert (drain["name"], drain["estimated"], drain["done"]) == ("web1", mode != "stateful", False)
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"
    eventually(lambda: "drained" in events(balancer, since))
    assert balancer.client.drains()[0]["done"]


def test_a_drain_ends_at_its_deadline(afresh: tuple[Site, Balancer]) -> None:
    """At the deadline connections that remain are cut, if poise.yaml says so; their ends are told."""
    site, balancer = afresh
    drain = {"quiet": "1h", "deadline": "1h", "at_deadline": "cut"}
    configure(site, balancer, vip(port=83, drain=drain))
    eventually(lambda: balancer.client.vips()[0]["usable"] == 2)
    client, server = open_connection(site, 83)
    since = last_event(balancer)
    with closing(client), closing(server):
        shown = balancer.client.set_state("web1", "drain", deadline="1s")
        assert shown["state"] == "drain"
        eventually(lambda: {"cut", "deadline"} <= set(events(balancer, since)))
        states = {each["name"]: each["state"] for each in balancer.client.servers()}
        assert states == {"web1": "cut", "web2": "ready"}
        client.sendall(b"is anybody there?")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    balancer.client.set_state("web1", "ready")


def test_checks_take_servers_out_and_let_them_in_again(afresh: tuple[Site, Balancer]) -> None:
    """A server whose checks fail gets no connections until they succeed, also after a restart."""
    site, balancer = afresh
    check = {"type": "tcp", "interval": "100ms", "timeout": "100ms", "rise": 1, "fall": 1}

    def states() -> dict[str, str]:
        return {each["name"]: each["state"] for each in balancer.client.servers()}

    with site.server.enter():
        one = socket.create_server(("10.2.0.11", 8084))
        two = socket.create_server(("10.2.0.12", 8084))
    with closing(one):
        with closing(two):
            configure(site, balancer, vip(port=84, checks=[check], panic="0%"))
            eventually(lambda: states() == {"web1": "ready", "web2": "ready"})
            eventually(lambda: balancer.client.vips()[0]["usable"] == 2)
        since = last_event(balancer)
        eventually(lambda: states() == {"web1": "ready", "web2": "down"})
        eventually(lambda: balancer.client.vips()[0]["usable"] == 1)
        assert "down" in events(balancer, since)
        balancer.client.set_state("web2", "maint")
        assert states() == {"web1": "ready", "web2": "maint"}
        balancer.client.set_state("web2", "ready")
        eventually(lambda: states() == {"web1": "ready", "web2": "down"})
        balancer.kill()
        balancer.start()
        assert states() == {"web1": "ready", "web2": "down"}
        with site.server.enter():
            two = socket.create_server(("10.2.0.12", 8084))
        with closing(two):
            eventually(lambda: states() == {"web1": "ready", "web2": "ready"})
