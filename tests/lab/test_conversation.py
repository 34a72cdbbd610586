# SPDX-License-Identifier: Apache-2.0
import socket
import time
from collections.abc import Iterator

import pytest

from poise.lab.conversation import Conversation, Listeners, is_closed
from poise.lab.duplicates import Duplicates
from poise.lab.namespaces import LabError
from poise.lab.network import ServersLab
from poise.lab.syn_flood import syn_flood

pytestmark = pytest.mark.root

PORT = 7000
GREETING = b"220 good morning\n"
WITHIN = 10.0  # seconds


@pytest.fixture
def lab() -> Iterator[ServersLab]:
    """One client, one server, no poise."""
    with ServersLab(1, clients=1) as built:
        yield built


def test_the_kernels_of_both_ends_tell_the_same(lab: ServersLab) -> None:
    """What one end may scale its window by is what the other announced, and both know of the same options."""
    lab.clients[0].sysctl({"net.ipv4.tcp_rmem": "4096 131072 1048576"})
    with Listeners(PORT, greeting=GREETING) as listeners:
        listeners.beside(lab.servers)
        with Conversation(lab.clients[0], lab.servers[0].address, listeners) as conversation:
            conversation.exchange()
            client, server = conversation.agreed()
            assert client.options == server.options == {"timestamps", "SACK", "window scale"}
            assert client.send_scale == server.receive_scale
            assert client.receive_scale == server.send_scale
            assert client.send_scale != client.receive_scale
            assert conversation.server_name == "web1"


def test_the_ways_a_conversation_ends(lab: ServersLab) -> None:
    """A vanished client leaves the server's end open; one that was ended leaves its port free at once."""
    with Listeners(PORT) as listeners:
        listeners.beside(lab.servers)
        address = lab.servers[0].address
        with Conversation(lab.clients[0], address, listeners) as conversation:
            conversation.vanish()
            assert not is_closed(conversation.server)
            conversation.server.sendall(b"is anybody there?")
            with pytest.raises(ConnectionResetError):
                conversation.server.recv(1)
        for _ in range(3):
            with Conversation(lab.clients[0], address, listeners, source_port=33333) as conversation:
                conversation.end()


def test_a_conversation_needs_a_listener(lab: ServersLab) -> None:
    """A connection that no listener accepted is not taken for a conversation."""
    with Listeners(PORT) as listeners:
        listeners.beside(lab.servers)
        with pytest.raises(LabError, match=r"no server accepted the connection from \('10.1.0.11', \d+\)"):
            Conversation(lab.clients[0], lab.servers[0].address, listeners, port=80, timeout=0.2)
        with pytest.raises(ConnectionRefusedError):
            Conversation(lab.clients[0], lab.servers[0].address, listeners, port=PORT + 1)


def test_duplicates_reach_the_server(lab: ServersLab) -> None:
    """Each copy is answered by the server's kernel, and the conversation goes on afterwards."""
    server = lab.servers[0].namespace
    with Listeners(PORT) as listeners:
        listeners.beside(lab.servers)
        with Conversation(lab.clients[0], lab.servers[0].address, listeners) as conversation:
            deadline = time.monotonic() + WITHIN
            with Duplicates(lab.clients[0], conversation, conversation.name[1]):
                while server.counters()["TcpExtTCPDSACKOldSent"] < 100:
                    assert time.monotonic() < deadline
            conversation.exchange()


def test_every_syn_of_a_flood_is_sound(lab: ServersLab) -> None:
    """A port where nobody listens refuses all SYNs: none is damaged, none gets lost."""
    server = lab.servers[0].namespace
    before = server.counters()["TcpOutRsts"]
    syn_flood(lab.clients[0], lab.client_address(), lab.servers[0].address, PORT, 1000)
    with lab.clients[0].enter(), pytest.raises(ConnectionRefusedError):  # behind the flood
        socket.create_connection((str(lab.servers[0].address), PORT), timeout=WITHIN)
    assert server.counters()["TcpOutRsts"] - before == 1001
    assert server.counters()["TcpInCsumErrors"] == 0
