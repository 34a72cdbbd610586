# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator

import pytest

from tests.bpf.balancer import Balancer
from tests.bpf.connection import CLIENT_ISN, SERVER_ISN, Connection
from tests.bpf.network import CLIENT6
from tests.bpf.packets import End, usual
from tests.bpf.services import EMPTY, FIRST, FIRST6, HASHED, HASHED_SERVERS, NAMES, QUIC, STATEFUL, WEB, WEB6

pytestmark = pytest.mark.root

CLOCK = 0x3456789A
CONNECTION = Connection(WEB)
CONNECTION6 = Connection(WEB6, End(CLIENT6, 40000))
PLAIN_SYN = CONNECTION.request("S", seq=CLIENT_ISN)
PLAIN_ACK = CONNECTION.request("A", seq=CLIENT_ISN + 1, ack=SERVER_ISN + 1)
QUIC_TO_SECOND = b"\x40" + b"\x00\x00\x01" + bytes(24)


@pytest.fixture(autouse=True)
def afresh(balancer: Balancer) -> Iterator[None]:
    """Begin with nothing remembered, and leave nothing."""
    balancer.start_afresh()
    yield
    balancer.start_afresh()


def _ack(connection: Connection, server: int) -> bytes:
    return connection.request("A", usual(77, connection.stamped(CLOCK, server, mark=1)))


def _picked(connection: Connection) -> int:
    reachable = [server for server in connection.vip.servers if server.id in (0, 1)]
    return connection.pick(reachable).id


Case = tuple[Connection, tuple[bytes, ...], bytes, str, int | None]
CASES: dict[str, Callable[[], Case]] = {
    "a new connection goes by the policy": lambda: (CONNECTION, (), CONNECTION.syn(), "policy", FIRST.id),
    "over IPv6 too": lambda: (CONNECTION6, (), CONNECTION6.syn(), "policy", FIRST6.id),
    "its SYN sent again goes where the first one went": lambda: (
        *(CONNECTION, (CONNECTION.syn(),), CONNECTION.syn(), "repeated_syn", FIRST.id),
    ),
    "an open connection goes by its cookie": lambda: (CONNECTION, (), _ack(CONNECTION, 511), "cookie", 511),
    "without timestamps it goes as its handshake did": lambda: (
        *(CONNECTION, (PLAIN_SYN,), PLAIN_ACK, "handshake", _picked(CONNECTION)),
    ),
    "what nobody remembers goes by hash": lambda: (CONNECTION, (), PLAIN_ACK, "hash", _picked(CONNECTION)),
    "in mode cookieless everything does": lambda: (
        *(Connection(HASHED), (), Connection(HASHED).request("A"), "hash"),
        Connection(HASHED).pick(HASHED_SERVERS).id,
    ),
    "of a stateful VIP the table knows": lambda: (
        *(Connection(STATEFUL), (Connection(STATEFUL).syn(),)),
        *(Connection(STATEFUL).request("A", seq=CLIENT_ISN + 1), "connection", 0),
    ),
    "or does not": lambda: (
        *(Connection(STATEFUL), (), Connection(STATEFUL).request("A", seq=CLIENT_ISN + 1), "unknown", None),
    ),
    "without a server it goes nowhere": lambda: (
        *(Connection(EMPTY), (), Connection(EMPTY).syn(), "unknown", None),
    ),
    "a flow of UDP begins by the policy": lambda: (
        *(Connection(NAMES), (), Connection(NAMES).datagram(), "policy", _picked(Connection(NAMES))),
    ),
    "and goes on as remembered": lambda: (
        *(Connection(NAMES), (Connection(NAMES).datagram(),), Connection(NAMES).datagram(), "flow"),
        _picked(Connection(NAMES)),
    ),
    "QUIC goes by the id of the connection": lambda: (
        *(Connection(QUIC), (), Connection(QUIC).datagram(payload=QUIC_TO_SECOND), "quic_id", 1),
    ),
}


@pytest.mark.parametrize("law", CASES)
def test_a_watch_tells_why_the_next_packet_goes_where_it_goes(balancer: Balancer, law: str) -> None:
    """The first packet since then is what it tells of; the others are only counted."""
    connection, before, packet, reason, server = CASES[law]()
    for frame in before:
        balancer.run(frame)
    balancer.watch(connection.vip, connection.client)
    verdict = balancer.run(packet)
    other = Connection(connection.vip, End(connection.client.address, 999))
    balancer.run(other.datagram() if connection.vip in (NAMES, QUIC) else other.syn())
    assert balancer.watched(connection.vip, connection.client) == (reason, server, 1)
    for frame in before:
        balancer.start_afresh()
        balancer.run(frame)
    assert balancer.run(packet).verdict == verdict.verdict, "watching changes nothing"


def test_only_the_first_packet_is_told_of(balancer: Balancer) -> None:
    """What comes later is counted, and says nothing new."""
    balancer.watch(WEB, CONNECTION.client)
    assert balancer.watched(WEB, CONNECTION.client) == ("none", 0, 0)
    balancer.watch(WEB, CONNECTION.client)
    for frame in (CONNECTION.syn(), _ack(CONNECTION, 511), _ack(CONNECTION, 511)):
        balancer.run(frame)
    assert balancer.watched(WEB, CONNECTION.client) == ("policy", FIRST.id, 3)


def test_nobody_watches_a_vip_without_the_flag(balancer: Balancer) -> None:
    """The table of watches is asked only where the VIP says so."""
    balancer.watch(WEB, CONNECTION.client)
    balancer.unwatch(WEB)
    balancer.run(CONNECTION.syn())
    assert balancer.watched(WEB, CONNECTION.client) == ("none", 0, 0)
