# SPDX-License-Identifier: Apache-2.0
import socket
import time
from collections.abc import Iterator

import pytest

from poise.lab.faults import bare_ack, drop_all, drop_first, drop_random, syn, syn_ack
from poise.lab.network import ServersLab

pytestmark = pytest.mark.root


@pytest.fixture
def lab() -> Iterator[ServersLab]:
    """One client, one server."""
    with ServersLab(1, clients=1) as built:
        yield built


def seconds_to_connect(lab: ServersLab) -> float:
    """How long the client's connect to the server takes."""
    (server,) = lab.servers
    start = time.monotonic()
    with lab.clients[0].enter():
        socket.create_connection((str(server.address), server.port), timeout=10).close()
    return time.monotonic() - start


def test_the_first_syn_ack_is_lost_and_no_later_one(lab: ServersLab) -> None:
    """A fault drops as many packets as it says: the repeated SYN-ACK comes through, a second later."""
    with drop_first(lab.clients[0], 1, syn_ack(80)) as fault:
        assert 0.9 < seconds_to_connect(lab) < 2.5
        assert fault.dropped == 1
        assert seconds_to_connect(lab) < 0.5
        assert fault.dropped == 1


def test_a_lost_handshake_ack_leaves_the_server_waiting(lab: ServersLab) -> None:
    """The handshake's ACK can be told from the SYN and from data, and be lost on the client's own side."""
    with drop_first(lab.clients[0], 1, bare_ack(80), hook="output") as fault:
        assert seconds_to_connect(lab) < 0.5
        assert fault.dropped == 1
    assert lab.clients[0].counters()["TcpRetransSegs"] <= 1


def test_all_matching_packets_are_lost_while_the_fault_lasts(lab: ServersLab) -> None:
    """A fault begins and ends with its block."""
    address = str(lab.servers[0].address)
    with drop_all(lab.router, syn(80)) as fault:
        with pytest.raises(TimeoutError), lab.clients[0].enter():
            socket.create_connection((address, 80), timeout=0.5)
        assert fault.dropped == 1
    assert seconds_to_connect(lab) < 0.5
    assert "table" not in lab.router.run(["nft", "list", "ruleset"])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_random_loss_has_the_probability_that_was_asked_for(lab: ServersLab, probability: float) -> None:
    """Of 2,000 packets, about the expected number is lost: within five standard deviations."""
    packets = 2000
    (server,) = lab.servers
    with lab.clients[0].enter():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, drop_random(lab.clients[0], probability, "udp dport 9", hook="output") as fault:
        for _ in range(packets):
            try:
                sender.sendto(b"x", (str(server.address), 9))
            except (
                OSError
            ):  # nobody listens there: ICMP says so, and a packet lost on output is told as EPERM
                continue
        deviation = (packets * probability * (1 - probability)) ** 0.5
        assert abs(fault.dropped - packets * probability) <= 5 * deviation
