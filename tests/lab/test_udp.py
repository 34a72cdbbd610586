# SPDX-License-Identifier: Apache-2.0
import pytest

from poise.lab.addresses import Family
from poise.lab.capture import Capture
from poise.lab.faults import drop_all
from poise.lab.namespaces import LabError
from poise.lab.network import ServersLab
from poise.lab.udp import UdpClients, UdpServer

pytestmark = pytest.mark.root

PORT = 5300
UDP_AT = 14 + 20  # octets: Ethernet header, IPv4 header without options


@pytest.mark.parametrize("family", [4, 6])
def test_each_socket_learns_who_answered_it(family: Family) -> None:
    """Every socket is a flow of its own, which stays the same from question to question."""
    with ServersLab(2, clients=1, family=family) as lab:
        for server in lab.servers:
            with (
                UdpServer(server, PORT),
                UdpClients(lab.clients[0], server.address, PORT, 300) as clients,
            ):
                names = clients.names()
                assert len(set(names)) == 300
                assert names[0][0] == str(lab.client_address())
                assert clients.ask() == clients.ask() == [server.name] * 300
                assert clients.names() == names


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_larger_than_the_mtu_come_and_go_in_fragments(family: Family) -> None:
    """Questions and answers have the size that was asked for, and arrive whole."""
    with ServersLab(1, clients=1, family=family) as lab:
        (server,) = lab.servers
        fragments, made, joined = (
            ("Ip6FragCreates", "Ip6FragOKs", "Ip6ReasmOKs")
            if family == 6
            else ("IpFragCreates", "IpFragOKs", "IpReasmOKs")
        )
        with UdpServer(server, PORT), UdpClients(lab.clients[0], server.address, PORT, 10) as clients:
            assert clients.ask(size=1000, answer_size=1200) == ["web1"] * 10
            assert server.namespace.counters()[fragments] == 0
            assert clients.ask(size=4000, answer_size=60000) == ["web1"] * 10
        asked, answered = lab.clients[0].counters(), server.namespace.counters()
        assert (asked[made], asked[fragments]) == (10, 30)
        assert (answered[joined], answered[made], asked[joined]) == (10, 10, 10)
        assert answered[fragments] > 400


def test_a_socket_without_an_answer_is_told_apart() -> None:
    """Silence and refusal are no answer, and break nothing for later questions."""
    with ServersLab(1, clients=1) as lab:
        (server,) = lab.servers
        with UdpClients(lab.clients[0], server.address, PORT, 3) as clients:
            assert clients.ask() == [None] * 3
            with UdpServer(server, PORT) as served:
                assert clients.ask() == ["web1"] * 3
                with drop_all(server.namespace, f"udp dport {PORT}"):
                    assert clients.ask(timeout=0.1) == [None] * 3
                with drop_all(lab.clients[0], f"udp sport {PORT}", hook="prerouting"):
                    assert clients.ask(timeout=0.1) == [None] * 3
                assert clients.ask() == ["web1"] * 3
                served.stop()
                assert clients.ask() == [None] * 3


def test_datagrams_can_go_without_checksums() -> None:
    """Over IPv4, 0 stands for a checksum that nobody computed, in questions and in answers."""
    with ServersLab(1, clients=1) as lab, Capture(lab.switch, "web1") as capture:
        (server,) = lab.servers
        for checksums in (True, False):
            with (
                UdpServer(server, PORT, checksums=checksums),
                UdpClients(lab.clients[0], server.address, PORT, 1, checksums=checksums) as clients,
            ):
                assert clients.ask() == ["web1"]
            frames = capture.until(lambda frame: b"web1:" in frame)
            sums = [frame[UDP_AT + 6 : UDP_AT + 8] for frame in frames if b"question" in frame]
            assert [octets != bytes(2) for octets in sums] == [checksums] * 2


def test_a_server_that_cannot_listen_says_why() -> None:
    """A port that is taken is reported with the program's own words."""
    with (
        ServersLab(1, clients=0) as lab,
        UdpServer(lab.servers[0], PORT),
        pytest.raises(LabError, match=r"UDP server of web1 did not start: .*Address already in use"),
    ):
        UdpServer(lab.servers[0], PORT).start()
