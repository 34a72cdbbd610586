# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from poise.lab.addresses import IPAddress
from poise.lab.conversation import Agreed, Conversation, Listeners
from poise.lab.faults import Hook, answer, bare_ack, drop_first, question, syn, syn_ack
from poise.lab.namespaces import Namespace
from poise.lab.network import ServersLab
from tests.e2e.counters import drops

pytestmark = pytest.mark.root

LISTENING = 7000
TOLERANCE = 0.3  # seconds; a handshake that goes wrong costs a second or more
GREETING = b"220 good morning\n"
NO_TIMESTAMPS = {"net.ipv4.tcp_timestamps": 0}
SYN_COOKIES = {"net.ipv4.tcp_syncookies": 2}  # always


@dataclass(frozen=True)
class Trouble:
    """What makes a handshake difficult.

    `lost`: of which packets, given the port of the service, the client's side loses the first `times`.
    """

    lost: Callable[[int], str] | None = None
    hook: Hook = "prerouting"
    times: int = 1
    greeting: bytes = b""
    client: Mapping[str, object] = field(default_factory=dict)
    server: Mapping[str, object] = field(default_factory=dict)
    delay: float = 0.0


@dataclass(frozen=True)
class Talk:
    """Seconds from the connect to the first answer, and what both ends then believe to be agreed on."""

    seconds: float
    agreed: tuple[Agreed, Agreed]


TROUBLES = {
    "SYN lost": Trouble(syn, "output"),
    "SYN-ACK lost": Trouble(syn_ack),
    "handshake ACK lost, server speaks first": Trouble(bare_ack, "output", greeting=GREETING),
    "greeting lost": Trouble(answer, greeting=GREETING),
    "SYN cookies, SYN-ACK lost": Trouble(syn_ack, server=SYN_COOKIES),
    "client without timestamps": Trouble(client=NO_TIMESTAMPS),
    "server without timestamps": Trouble(server=NO_TIMESTAMPS),
    "round trip over 1 s, server speaks first": Trouble(delay=0.6, greeting=GREETING),
}
SLOW_TROUBLES = {
    "first question lost": Trouble(question, "output"),
    "SYN cookies": Trouble(server=SYN_COOKIES),
    "round trip over 1 s, SYN cookies": Trouble(delay=0.6, server=SYN_COOKIES),
    "handshake ACK lost": Trouble(bare_ack, "output"),
    "two SYN-ACKs lost": Trouble(syn_ack, times=2),
    "two handshake ACKs lost, server speaks first": Trouble(bare_ack, "output", times=2, greeting=GREETING),
    "first answer lost": Trouble(answer),
    "SYN cookies, server speaks first": Trouble(server=SYN_COOKIES, greeting=GREETING),
    "SYN cookies, two SYN-ACKs lost": Trouble(syn_ack, times=2, server=SYN_COOKIES),
    "SYN cookies, first question lost": Trouble(question, "output", server=SYN_COOKIES),
    "client without timestamps, SYN-ACK lost": Trouble(syn_ack, client=NO_TIMESTAMPS),
    "server without timestamps, SYN-ACK lost": Trouble(syn_ack, server=NO_TIMESTAMPS),
    "round trip over 1 s": Trouble(delay=0.6),
    "round trip over 3 s": Trouble(delay=1.6),
    "round trip over 3 s, server speaks first": Trouble(delay=1.6, greeting=GREETING),
    "round trip over 1 s, SYN-ACK lost": Trouble(syn_ack, delay=0.6),
    "round trip over 1 s, SYN cookies, SYN-ACK lost": Trouble(syn_ack, delay=0.6, server=SYN_COOKIES),
    "round trip over 1 s, handshake ACK lost, server speaks first": Trouble(
        bare_ack, "output", delay=0.6, greeting=GREETING
    ),
}


@pytest.mark.parametrize(
    "trouble",
    [pytest.param(trouble, id=name) for name, trouble in TROUBLES.items()]
    + [pytest.param(trouble, id=name, marks=pytest.mark.slow) for name, trouble in SLOW_TROUBLES.items()],
)
def test_a_difficult_handshake_is_as_good_as_without_poise(trouble: Trouble) -> None:
    """Whatever goes wrong, a client connects as fast as on the direct path, and with the same options."""
    with ServersLab(2, clients=1) as lab, Listeners(LISTENING, greeting=trouble.greeting) as listeners:
        client = lab.add_far_client(trouble.delay) if trouble.delay else lab.clients[0]
        client.sysctl(trouble.client)
        for server in lab.servers:
            server.namespace.sysctl(trouble.server)
        listeners.beside(lab.servers)
        direct = talk(client, lab.servers[0].address, LISTENING, listeners, trouble)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        balanced = talk(client, lab.vip, lab.port, listeners, trouble)
        assert balanced.seconds < direct.seconds + TOLERANCE
        assert balanced.agreed == direct.agreed
        assert drops(balancer) == {}
        for server in lab.servers:
            assert server.namespace.counters()["TcpExtTSEcrRejected"] == 0


def talk(client: Namespace, address: IPAddress, port: int, listeners: Listeners, trouble: Trouble) -> Talk:
    """Connect, ask and be answered, with the trouble."""
    with ExitStack() as stack:
        fault = None
        if trouble.lost:
            fault = stack.enter_context(
                drop_first(client, trouble.times, trouble.lost(port), hook=trouble.hook)
            )
        start = time.monotonic()
        conversation = stack.enter_context(Conversation(client, address, listeners, port=port))
        conversation.exchange()
        seconds = time.monotonic() - start
        assert fault is None or fault.dropped == trouble.times
        return Talk(seconds, conversation.agreed())
