# SPDX-License-Identifier: Apache-2.0
import socket
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Literal

import pytest

from poise.kernel import tc
from poise.kernel.libbpf import Object
from poise.lab.addresses import Family
from poise.lab.bulk import download, upload
from poise.lab.capture import Capture, tags_of
from poise.lab.conversation import Conversation, Listeners
from poise.lab.duplicates import Duplicates
from poise.lab.namespaces import LabError, Namespace
from poise.lab.network import FIRST_HOST, ServersLab
from poise.lab.udp import UdpClients, UdpServer

pytestmark = pytest.mark.root

MEGABYTE = 1_000_000
PORT = 5300
WITHIN = 10.0  # seconds
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SLOW_PATH = "slow_path"


def hears(host: Namespace, address: object) -> bool:
    """Whether a host gets an answer from an address."""
    try:
        host.run(["ping", "-c", "1", "-W", "0.3", str(address)])
    except LabError:
        return False
    return True


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tags", [(10,), (100, 10)])
def test_hosts_talk_within_their_vlan_only(tags: Sequence[int], family: Family) -> None:
    """Who carries the same tags is heard; who carries none, one of two or others is not."""
    with ServersLab(1, clients=2, client_tags=tags, family=family) as lab:
        gateway = lab.clients_gateway
        assert hears(lab.clients[0], lab.client_address(2))
        for number, others in enumerate([(), tags[:-1], (*tags[:-1], 11), (11, *tags[1:])], FIRST_HOST + 3):
            host = lab.add_host(f"other-{number}", gateway, number, tags=others)
            assert not hears(host, lab.client_address(1))
            assert not hears(lab.clients[0], gateway.network[number])
        assert hears(lab.add_host("same", gateway, 50, tags=tags), lab.client_address(1))


@pytest.mark.parametrize("family", [4, 6])
def test_the_tags_stand_on_the_wire_of_their_net_alone(family: Family) -> None:
    """The balancer's interfaces are reached by frames with their net's tags, neighbour discovery included."""
    with (
        ServersLab(1, clients=1, client_tags=(100, 10), server_tags=(20,), family=family) as lab,
        Capture(lab.switch, "b-clients") as clients,
        Capture(lab.switch, "b-servers") as servers,
        UdpServer(lab.servers[0], PORT),
        UdpClients(lab.clients[0], lab.servers[0].address, PORT, 1) as sockets,
    ):
        assert sockets.ask() == ["web1"]
        for capture, tags in ((clients, (100, 10)), (servers, (20,))):
            frames = capture.until(lambda frame: b"web1:" in frame)
            assert len(frames) >= 4
            assert {tags_of(frame) for frame in frames} == {tags}


def test_the_balancer_gets_the_tags_in_the_bytes_of_the_frames() -> None:
    """On the veth to the balancer nothing of a frame is left beside it, where XDP could not see it."""
    with ServersLab(0, clients=1, client_tags=(100, 10)) as lab:
        with lab.switch.enter():
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        with sniffer:
            sniffer.bind(("b-clients", ETH_P_ALL))
            sniffer.settimeout(5)
            assert hears(lab.clients[0], lab.clients_gateway.ip)
            sent = 0
            while sent < 2:  # ARP's question and the ping
                frame, (_, _, kind, *_) = sniffer.recvfrom(2048)
                if kind == PACKET_OUTGOING:
                    assert frame[12:18].hex() == "88a800648100"
                    sent += 1


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("arms", [1, 2])
@pytest.mark.parametrize("tags", [(10,), (100, 10)])
def test_full_packets_pass_with_tags(tags: Sequence[int], arms: Literal[1, 2], family: Family) -> None:
    """A VLAN has the MTU of any other net: tags take nothing from it."""
    with ServersLab(
        1, clients=1, arms=arms, client_tags=tags, server_tags=tags, family=family, files={"some": MEGABYTE}
    ) as lab:
        client, (server,) = lab.clients[0], lab.servers
        assert download(client, server.address, server.port, "some").octets == MEGABYTE
        upload(client, server.address, server.port, MEGABYTE)
        echo = 1500 - 8 - (40 if family == 6 else 20)
        client.run(["ping", "-c", "1", "-W", "5", "-M", "do", "-s", str(echo), str(server.address)])
        too_big = lab.router.counters()["Icmp6OutPktTooBigs" if family == 6 else "IcmpOutDestUnreachs"]
        assert too_big == 0


def test_tags_that_cannot_be_are_refused() -> None:
    """One arm has one net, and a frame has two tags at most."""
    with pytest.raises(LabError, match="with one arm"):
        ServersLab(arms=1, client_tags=(10,))
    with pytest.raises(LabError, match="one or two tags, not 3"), ServersLab(0, client_tags=(1, 2, 3)):
        pass


def test_a_frame_that_has_its_tags_gets_no_further_ones() -> None:
    """Copies of what an interface sent reach the server as the first did."""
    with ServersLab(1, clients=1, client_tags=(100, 10)) as lab, Listeners(PORT) as listeners:
        listeners.beside(lab.servers)
        server = lab.servers[0].namespace
        with Conversation(lab.clients[0], lab.servers[0].address, listeners) as conversation:
            deadline = time.monotonic() + WITHIN
            with Duplicates(lab.clients[0], conversation, conversation.name[1]):
                while server.counters()["TcpExtTCPDSACKOldSent"] < 10:
                    assert time.monotonic() < deadline
            conversation.exchange()


def test_the_filter_of_poise_comes_before_the_tags_are_popped() -> None:
    """Both filters share a clsact: what poise's leaves loses its tags, and undoing it spares them."""
    with ServersLab(1, clients=1, client_tags=(10,)) as lab, lab.router.enter():
        ifindex = socket.if_nametoindex("clients")
        with as_file(files("poise.objects") / "balancer.bpf.o") as path:
            balancer = Object(path)
        try:
            balancer.load()
            tc.attach_ingress(balancer.program(SLOW_PATH), ifindex)
        finally:
            balancer.close()
        listed = lab.router.run(["tc", "filter", "show", "dev", "clients", "ingress"])
        assert listed.index(SLOW_PATH) < listed.index("pop_tags")
        assert hears(lab.clients[0], lab.servers[0].address)
        tc.detach_ingress(ifindex)
        assert tc.has_other_filters(ifindex)
        assert hears(lab.clients[0], lab.servers[0].address)
