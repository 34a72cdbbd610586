# SPDX-License-Identifier: Apache-2.0
import select
import socket
import struct
from pathlib import Path
from typing import Literal

import pytest

from poise.lab.namespaces import LabError, Namespace
from poise.lab.network import ServersLab
from poise.lab.nginx import Nginx

pytestmark = pytest.mark.root

ETH_P_IP = 0x0800


def fetch(client: Namespace, url: str) -> str:
    """What a client gets from a URL."""
    return client.run(["curl", "--silent", "--fail", "--max-time", "5", url])


@pytest.mark.parametrize("arms", [1, 2])
def test_every_client_reaches_every_server_through_the_router(arms: Literal[1, 2]) -> None:
    """Without poise, the balancer's namespace is a plain router, the yardstick for comparisons."""
    with ServersLab(3, clients=2, arms=arms) as lab:
        before = lab.router.counters()["IpForwDatagrams"]
        for client in lab.clients:
            for number, server in enumerate(lab.servers, 1):
                assert fetch(client, f"http://{server.address}/") == f"web{number}\n"
        assert lab.router.counters()["IpForwDatagrams"] - before >= 2 * 3 * 10


def test_packets_to_a_routed_vip_come_to_the_balancer() -> None:
    """Clients send packets for a VIP in nobody's subnet to the balancer's client side."""
    with ServersLab(0, clients=1) as lab:
        with lab.router.enter():
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        with sniffer, lab.clients[0].enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sniffer.bind(("clients", ETH_P_IP))
            sniffer.settimeout(5)
            sender.sendto(b"hello", (str(lab.vip), lab.port))
            packet = sniffer.recv(2048)
        assert packet[16:20] == lab.vip.packed
        assert packet.endswith(b"hello")


def test_checksums_on_the_wire_are_real() -> None:
    """No packet reaches the balancer with a checksum still to be computed: XDP would make garbage of it."""
    with ServersLab(1, clients=1) as lab:
        with lab.router.enter():
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        with sniffer:
            fetch(lab.clients[0], f"http://{lab.servers[0].address}/")
            packets = 0
            while select.select([sniffer], (), (), 0)[0]:
                packet = sniffer.recv(65536)
                if packet[9] == socket.IPPROTO_TCP:
                    header = (packet[0] & 15) * 4
                    length = struct.unpack_from("!H", packet, 2)[0] - header
                    pseudo = packet[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, length)
                    assert ones_complement_sum(pseudo + packet[header : header + length]) == 0xFFFF
                    packets += 1
        assert packets >= 10


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_a_server_that_does_not_start_says_why() -> None:
    """An nginx that cannot start is reported with its own words."""
    with ServersLab(1) as lab:
        (server,) = lab.servers
        broken = Nginx(server.namespace, 'odd"name', server.address, lab.directory / "odd", port=81)
        with pytest.raises(LabError, match=r'nginx of odd"name did not start: .* in .*/odd/nginx.conf'):
            broken.start()


def test_a_killed_server_refuses_and_answers_again_after_its_restart() -> None:
    """Tests can crash a server and bring it back."""
    with ServersLab(1) as lab:
        server = lab.servers[0]
        server.kill()
        assert server.pid is None
        with pytest.raises(LabError, match="exit code 7"):
            fetch(lab.clients[0], f"http://{server.address}/")
        server.start()
        assert fetch(lab.clients[0], f"http://{server.address}/") == "web1\n"


def test_files_have_the_size_that_was_asked_for() -> None:
    """Every server serves the lab's files."""
    with ServersLab(2, files={"some": 12345}) as lab:
        for server in lab.servers:
            file = lab.directory / server.name
            lab.clients[0].run(
                ["curl", "-s", "-o", str(file) + ".out", f"http://{server.address}/files/some"]
            )
            assert Path(str(file) + ".out").stat().st_size == 12345
