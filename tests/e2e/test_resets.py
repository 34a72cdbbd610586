# SPDX-License-Identifier: Apache-2.0
import select
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from poise.lab.addresses import IPAddress
from poise.lab.conversation import Conversation, Listeners
from poise.lab.namespaces import Namespace
from poise.lab.network import ServersLab
from tests.e2e.counters import drops
from tests.e2e.forgetting import forget_handshakes, start_forgetful_balancer

pytestmark = pytest.mark.root

LISTENING = 7000
SOURCE_PORT = 33333
TOLERANCE = 0.3  # seconds; a lost packet costs a second
WITHIN = 1.0  # seconds


@pytest.mark.parametrize(
    ("leave", "remembered"),
    [
        pytest.param(Conversation.vanish, True, id="vanished, remembered"),
        pytest.param(Conversation.vanish, False, id="vanished, forgotten"),
        pytest.param(Conversation.hang_up, True, id="hung up, remembered"),
        pytest.param(Conversation.hang_up, False, id="hung up, forgotten", marks=pytest.mark.slow),
    ],
)
def test_a_reset_without_timestamp_reaches_the_server(
    leave: Callable[[Conversation], None], *, remembered: bool
) -> None:
    """For a client that is gone its kernel answers without a timestamp, and still the server learns of it.

    From the table of handshakes poise knows which server is meant; when that has forgotten, all get a copy.
    """
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        balancer = start_forgetful_balancer(lab, LISTENING)
        leaving, staying = (
            [
                stack.enter_context(Conversation(lab.clients[0], lab.vip, listeners, port=lab.port))
                for _ in lab.servers
            ]
            for _ in range(2)
        )
        for conversation in [*leaving, *staying]:
            conversation.exchange()
        if not remembered:
            forget_handshakes(lab)
        for conversation in leaving:
            leave(conversation)
            conversation.server.sendall(b"is anybody there?")
            ended = select.poll()
            ended.register(conversation.server, 0)  # POLLHUP and POLLERR always count
            assert ended.poll(WITHIN * 1000), "the server has not noticed"
            address, port = conversation.name
            kernel = lab.server(conversation.server_name).namespace
            assert kernel.run(["ss", "-Htan", f"dst {address}:{port}"]) == ""
        for conversation in staying:
            conversation.exchange()
        assert balancer.client.counters()["reset_to_all"] == (0 if remembered else len(leaving))
        assert drops(balancer) == {}


def test_a_port_can_be_used_again_at_once() -> None:
    """A client that connects from the port of a connection just closed meets no rest of the old one."""
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners:
        listeners.beside(lab.servers)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        for _ in range(100):
            with Conversation(
                lab.clients[0], lab.vip, listeners, port=lab.port, source_port=SOURCE_PORT
            ) as conversation:
                conversation.exchange()
                conversation.end()
        assert lab.clients[0].counters()["TcpExtTCPSynRetrans"] == 0
        for server in lab.servers:
            counters = server.namespace.counters()
            assert counters["TcpExtTCPSynRetrans"] == counters["TcpExtTCPSYNChallenge"] == 0
        assert drops(balancer) == {}


def test_a_client_that_forgot_everything_gets_through_to_a_server_that_did_not() -> None:
    """A SYN into a connection that only the server has is challenged, and the answer clears the way.

    As when a client was restarted without a word. This takes as long as on the direct path: one SYN more.
    """
    with ServersLab(1, clients=1) as lab, Listeners(LISTENING) as listeners:
        (server,) = lab.servers
        (client,) = lab.clients
        listeners.beside(lab.servers)
        direct = seconds_to_come_back(client, server.address, LISTENING, listeners, SOURCE_PORT)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        balanced = seconds_to_come_back(client, lab.vip, lab.port, listeners, SOURCE_PORT + 1)
        assert balanced < direct + TOLERANCE
        assert server.namespace.counters()["TcpExtTCPSYNChallenge"] == 2
        assert drops(balancer) == {}


def seconds_to_come_back(
    client: Namespace, address: IPAddress, port: int, listeners: Listeners, source_port: int
) -> float:
    """How long it takes to be answered in place of a connection that only the server still has."""
    with Conversation(client, address, listeners, port=port, source_port=source_port) as old:
        old.exchange()
        old.vanish()
        start = time.monotonic()
        with Conversation(client, address, listeners, port=port, source_port=source_port) as new:
            new.exchange()
            return time.monotonic() - start
