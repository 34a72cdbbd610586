# SPDX-License-Identifier: Apache-2.0
"""From one `poise up` to the next: what goes on, and what is let go of."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from poise.kernel.libbpf import Link
from tests.site import Site

pytestmark = pytest.mark.root

VIP = "192.0.2.10"
WITHIN = 15  # seconds: the longest wait for a retransmission


@pytest.fixture
def site() -> Iterator[Site]:
    """A machine between a client and a server."""
    with Site() as found:
        yield found


class Connection:
    """A connection through the VIP, both ends in our hands."""

    def __init__(self, site: Site) -> None:
        with site.server.enter():
            listening = socket.create_server(("10.2.0.11", 8080))
        with listening, site.client.enter():
            self.client = socket.create_connection((VIP, 80), WITHIN)
            self.server, _ = listening.accept()
        self.server.settimeout(WITHIN)

    def close(self) -> None:
        """Close both ends."""
        self.client.close()
        self.server.close()

    def works(self) -> bool:
        """Whether what either end says reaches the other."""
        self.client.sendall(b"question")
        question = self.server.recv(100)
        self.server.sendall(b"answer")
        return (question, self.client.recv(100)) == (b"question", b"answer")


def resets(site: Site) -> int:
    """How many resets the client and the server sent and got."""
    counters = [end.counters() for end in (site.client, site.server)]
    return sum(count["TcpOutRsts"] + count["TcpEstabResets"] for count in counters)


def program_of(site: Site, name: str) -> str:
    """How iproute2 shows the XDP program of an interface; empty if there is none."""
    shown = site.here.run(["ip", "link", "show", name])
    return shown.partition("prog/xdp")[2].strip()


def test_a_killed_daemon_is_succeeded_without_a_gap(site: Site) -> None:
    """Packets flow without the daemon; a new one has the same ids, and takes the links over as they are."""
    balancer = site.running()
    servers, program = balancer.client.servers(), program_of(site, "eth0")
    with closing(Connection(site)) as old, closing(Link.open_pinned(site.pins / "link_eth0")) as link:
        balancer.kill()
        assert old.works()
        with closing(Connection(site)) as new:
            attached_to = link.ifindex
            balancer.start()
            assert link.ifindex == attached_to != 0
            assert program_of(site, "eth0") != program
            assert old.works()
            assert new.works()
    taken_over = balancer.client.servers()
    assert [(server["id"], server["name"], server["state"]) for server in taken_over] == [
        (0, "web1", "ready")
    ]
    assert [server["connections"] for server in servers + taken_over] == [0, 2]


@pytest.mark.parametrize("router", [False, True])
def test_connections_survive_down_and_up(site: Site, router: bool) -> None:  # noqa: FBT001  two kinds of machine
    """No end is reset between `poise down` and `poise up`, whatever it says meanwhile.

    On a machine that is a router anyhow, that holds for the client: what servers say reaches clients then.
    """
    site.here.sysctl({"net.ipv4.ip_forward": int(router)})
    balancer = site.running()
    with closing(Connection(site)) as connection:
        assert connection.works()
        balancer.stop()
        balancer.down()
        connection.client.sendall(b"too early")
        if not router:
            connection.server.sendall(b"too early as well")
        balancer.start()
        assert connection.server.recv(100) == b"too early"
        if not router:
            assert connection.client.recv(100) == b"too early as well"
        assert connection.works()
        assert resets(site) == 0


def test_an_interface_that_was_made_anew_is_used(site: Site) -> None:
    """An interface that was removed and made anew works after the next start, and so do connections."""
    balancer = site.running()
    before = site.footprint()
    with closing(Connection(site)) as connection:
        balancer.kill()
        site.here.ip("link delete eth1")
        site.link(site.here, "eth1", site.server, "eth0")
        site.here.ip("address add 10.2.0.1/24 dev eth1")
        site.server.ip("address add 10.2.0.11/24 dev eth0", "route add default via 10.2.0.1")
        balancer.start()
        assert connection.works()
        assert resets(site) == 0
    assert len(site.footprint()) == len(before)


def test_a_dropped_interface_is_let_go(site: Site) -> None:
    """What poise.yaml no longer names is detached from and set back at the next start; the rest goes on."""

    def of_eth1() -> list[str]:
        return [line for line in site.footprint() if "eth1" in line]

    before = of_eth1()
    balancer = site.running()
    assert of_eth1() != before
    balancer.kill()
    site.configure(interfaces=["eth0"])
    balancer.start()
    assert of_eth1() == before
    assert program_of(site, "eth0")
    assert 'event="no longer wanted" change="detached from eth1"' in balancer.log.read_text()


def test_a_dropped_vip_is_let_go(site: Site) -> None:
    """The address of a VIP that poise.yaml no longer names is taken from the machine; others work on."""

    def addresses() -> set[str]:
        return {line.split()[3] for line in site.here.run(["ip", "-o", "-4", "address"]).splitlines()}

    server = {"name": "web1", "address": "10.2.0.11", "port": 8080}
    stays: dict[str, object] = {"address": VIP, "port": 80, "servers": [server]}
    site.configure({"address": "192.0.2.20", "port": 80, "servers": []}, stays)
    balancer = site.running()
    with closing(Connection(site)) as connection:
        assert {f"{VIP}/32", "192.0.2.20/32"} <= addresses()
        balancer.kill()
        site.configure(stays)
        balancer.start()
        assert connection.works()
    assert addresses() & {f"{VIP}/32", "192.0.2.20/32"} == {f"{VIP}/32"}


def test_the_mode_is_changed_at_a_start(site: Site) -> None:
    """A start with another XDP mode attaches anew, and sets up the machine for that mode."""

    def mode() -> tuple[bool, str]:
        features = site.here.run(["ethtool", "-k", "eth0"]).splitlines()
        gro = next(line for line in features if line.startswith("generic-receive-offload"))
        return "xdpgeneric" in site.here.run(["ip", "link", "show", "eth0"]), gro.split()[1]

    balancer = site.running()
    assert mode() == (False, "on")
    balancer.stop()
    site.configure(xdp_mode="generic")
    balancer.start()
    assert mode() == (True, "off")
    with closing(Connection(site)) as connection:
        assert connection.works()
        balancer.stop()
        site.configure(xdp_mode="native")
        balancer.start()
        assert mode() == (False, "on")
        assert connection.works()


def test_a_failed_start_leaves_what_runs(site: Site) -> None:
    """When a start fails while an earlier one's packets flow, they flow on."""
    balancer = site.running()
    with closing(Connection(site)) as connection:
        balancer.kill()
        key = site.state / "cookie.key"
        key.chmod(0o644)
        assert site.refusal().startswith(f"the cookie key {key} can be read by others")
        assert connection.works()


def test_a_killed_down_can_be_repeated(site: Site) -> None:
    """A `poise down` that was broken off is finished by the next one."""
    before = site.footprint()
    balancer = site.running()
    balancer.kill()
    (site.pins / "link_eth0").unlink()
    balancer.down()
    assert [line for line in site.footprint() if "clsact" in line or str(site.pins) in line] == []
    assert [line for line in site.footprint() if "eth1" in line] == [
        line for line in before if "eth1" in line
    ]
