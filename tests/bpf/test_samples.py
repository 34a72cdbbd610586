# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from poise.servers.model import Server, State, Vip
from tests.bpf.balancer import SAMPLE_MASK, Balancer
from tests.bpf.connection import CLIENT_ISN, SERVER_ISN, Connection
from tests.bpf.network import CLIENT
from tests.bpf.packets import End, usual
from tests.bpf.services import (
    DRAINED,
    FIRST,
    FULL,
    HASHED,
    HASHED_SERVERS,
    NAMES,
    SECOND,
    STATEFUL,
    WEB,
    flow_hash,
)

pytestmark = pytest.mark.root

USED, BEGUN, CLIENT_FIN, SERVER_FIN, RESET = 1, 2, 4, 8, 16  # enum sample_flags
CLOCK = 0x3456789A
MINUTES = 3 * 60 * 10**9 >> 20  # in the units of the sample


@pytest.fixture(autouse=True)
def afresh(balancer: Balancer) -> Iterator[None]:
    """Begin with nothing sampled, and leave nothing."""
    balancer.start_afresh()
    yield
    balancer.start_afresh()


def _is_sampled(connection: Connection) -> bool:
    return not flow_hash(connection.vip, connection.client) >> 26 & SAMPLE_MASK


def _connections(vip: Vip = WEB, *, sampled: bool) -> Iterator[Connection]:
    for port in range(1024, 65536):
        connection = Connection(vip, End(CLIENT, port))
        if _is_sampled(connection) == sampled:
            yield connection


def _one(vip: Vip = WEB, *, sampled: bool = True) -> Connection:
    return next(_connections(vip, sampled=sampled))


def _flags(balancer: Balancer) -> int:
    (sample,) = balancer.samples()
    return sample["flags"]


def _ack(connection: Connection, server: Server, flags: str = "A") -> bytes:
    echo = connection.stamped(CLOCK, server, mark=1)
    return connection.request(flags, usual(77, echo), seq=CLIENT_ISN + 1, ack=SERVER_ISN + 1)


def test_every_64th_flow_is_sampled(balancer: Balancer) -> None:
    """A flow has a row if the bits of its hash say so, whichever server it goes to."""
    ports = range(2000, 4000)
    connections = [Connection(WEB, End(CLIENT, port)) for port in ports]
    for connection in connections:
        balancer.run(connection.syn())
    wanted = {flow_hash(WEB, each.client) >> 32 for each in connections if _is_sampled(each)}
    assert {sample["fingerprint"] for sample in balancer.samples()} == wanted
    assert 10 < len(wanted) < 60


def test_a_connection_is_followed_from_its_syn_to_its_end(balancer: Balancer) -> None:
    """The row tells the server, that the SYN was seen, and then the FIN of each side."""
    connection = _one()
    balancer.run(connection.syn())
    (sample,) = balancer.samples()
    assert (sample["vip"], sample["server"], sample["flags"]) == (WEB.index, FIRST.id, USED | BEGUN)
    assert sample["fingerprint"] == flow_hash(WEB, connection.client) >> 32
    assert sample["begun"] == sample["seen"]
    balancer.run(connection.syn())
    balancer.run(connection.syn_ack(FIRST, CLOCK))
    balancer.age_samples(1000)
    balancer.run(_ack(connection, FIRST))
    (sample,) = balancer.samples()
    assert sample["flags"] == USED | BEGUN
    assert 0 <= sample["seen"] - sample["begun"] < 1000
    balancer.run(_ack(connection, FIRST, "FA"))
    assert _flags(balancer) == USED | BEGUN | CLIENT_FIN
    balancer.run(connection.reply(FIRST, "FA", usual(CLOCK, 77), ack=CLIENT_ISN + 2))
    assert _flags(balancer) == USED | BEGUN | CLIENT_FIN | SERVER_FIN
    balancer.run(_ack(connection, FIRST))
    assert _flags(balancer) == USED | BEGUN | CLIENT_FIN | SERVER_FIN
    balancer.run(connection.syn(isn=CLIENT_ISN + 100_000))
    assert _flags(balancer) == USED | BEGUN


@pytest.mark.parametrize("by_server", [False, True])
def test_a_reset_ends_it(balancer: Balancer, *, by_server: bool) -> None:
    """Of either side."""
    connection = _one()
    balancer.run(connection.syn())
    reset = connection.reply(FIRST, "RA", ack=CLIENT_ISN + 1) if by_server else _ack(connection, FIRST, "RA")
    balancer.run(reset)
    assert _flags(balancer) == USED | BEGUN | RESET


def test_a_flow_under_way_is_sampled_without_its_beginning(balancer: Balancer) -> None:
    """A packet of a connection whose SYN was not seen has a row too; one that only ends it has none."""
    balancer.run(_ack(_one(), SECOND, "FA"))
    assert balancer.samples() == []
    balancer.run(_ack(_one(), SECOND))
    (sample,) = balancer.samples()
    assert (sample["server"], sample["flags"]) == (SECOND.id, USED)


def test_all_flows_of_a_drained_server_are_sampled(balancer: Balancer) -> None:
    """So that it is seen when the last one is gone, in both directions."""
    connection = _one(sampled=False)
    balancer.run(_ack(connection, FIRST))
    assert balancer.samples() == []
    balancer.run(_ack(connection, DRAINED))
    (sample,) = balancer.samples()
    assert (sample["server"], sample["flags"]) == (DRAINED.id, USED)
    balancer.run(connection.reply(DRAINED, "FA", usual(CLOCK, 77)))
    assert _flags(balancer) == USED | SERVER_FIN


def _same_row(connection: Connection) -> Connection:
    row = flow_hash(connection.vip, connection.client) >> 9 & 0xFFFF
    for host in range(1 << 12):
        for port in range(1024, 1200):
            other = Connection(connection.vip, End(type(CLIENT)(int(CLIENT) + host), port))
            if flow_hash(other.vip, other.client) >> 9 & 0xFFFF == row and other != connection:
                return other
    raise AssertionError


def test_a_flow_keeps_its_row_until_it_ends_or_falls_silent(balancer: Balancer) -> None:
    """Another flow of the same row waits; but all flows of a drained server are to be seen."""
    connection = _one(FULL, sampled=True)
    other = _same_row(connection)
    first, second = FULL.servers[5], FULL.servers[6]
    balancer.put_state(FULL, second.id, State.DRAIN)
    balancer.run(_ack(connection, second))
    balancer.put_state(FULL, first.id, State.DRAIN)
    balancer.run(_ack(other, first))
    assert balancer.samples()[0]["server"] == second.id, "who is there stays"
    balancer.age_samples(MINUTES)
    balancer.run(_ack(other, first))
    assert balancer.samples()[0]["server"] == first.id, "unless it is silent"
    balancer.put_state(FULL, first.id, State.READY)
    balancer.run(_ack(connection, second))
    assert balancer.samples()[0]["server"] == second.id, "or is of no server that is drained"
    balancer.put_state(FULL, second.id, State.READY)


def test_flows_without_cookie_are_sampled_too(balancer: Balancer) -> None:
    """UDP, mode cookieless, and TCP without timestamps; not what the table of connections holds."""
    names = _one(NAMES)
    balancer.run(names.datagram())
    (sample,) = balancer.samples()
    assert (sample["vip"], sample["flags"]) == (NAMES.index, USED | BEGUN)
    balancer.start_afresh()
    hashed = _one(HASHED)
    balancer.run(hashed.request("A"))
    (sample,) = balancer.samples()
    assert (sample["vip"], sample["server"]) == (HASHED.index, hashed.pick(HASHED_SERVERS).id)
    balancer.start_afresh()
    balancer.run(_one().request("S", seq=CLIENT_ISN))
    assert _flags(balancer) == USED | BEGUN
    balancer.start_afresh()
    balancer.run(_one(STATEFUL).syn())
    assert balancer.samples() == []


def _refusals(balancer: Balancer, connection: Connection, server: Server, *replies: bytes) -> tuple[int, int]:
    """Return the SYN-ACKs and refusals that are counted."""
    before = balancer.traffic(connection.vip.index, server.id)
    for frame in replies:
        balancer.run(frame)
    after = balancer.traffic(connection.vip.index, server.id)
    return after["answers"] - before["answers"], after["resets"] - before["resets"]


@pytest.mark.parametrize("vip", [WEB, STATEFUL, HASHED], ids=lambda vip: vip.name)
def test_answers_and_refusals_are_counted(balancer: Balancer, vip: Vip) -> None:
    """A SYN-ACK is an answer; a reset is a refusal if it answers the SYN, and not once that is answered."""
    connection = Connection(vip)
    server = connection.pick(HASHED_SERVERS) if vip == HASHED else vip.servers[0]
    reset = connection.reply(server, "RA", ack=CLIENT_ISN + 1)
    assert _refusals(balancer, connection, server, reset) == (0, 0), "of nobody's connection"
    balancer.run(connection.syn())
    stranger = connection.reply(server, "RA", ack=CLIENT_ISN + 10**6)
    assert _refusals(balancer, connection, server, stranger) == (0, 0), "of another SYN"
    if vip == STATEFUL:  # any reset of the server ends what the table holds
        balancer.start_afresh()
        balancer.run(connection.syn())
    assert _refusals(balancer, connection, server, reset) == (0, 1)
    balancer.start_afresh()
    balancer.run(connection.syn())
    answer = connection.syn_ack(server, CLOCK)
    assert _refusals(balancer, connection, server, answer, answer) == (2, 0)
    if vip != HASHED:  # nothing is noted of answers there
        assert _refusals(balancer, connection, server, reset) == (0, 0), "of a connection that was answered"


def test_a_reset_after_an_answer_without_timestamps_is_no_refusal(balancer: Balancer) -> None:
    """Of such a connection too it is known that the server took it."""
    connection = Connection(WEB)
    balancer.run(connection.syn())
    balancer.run(connection.reply(FIRST, "SA", seq=SERVER_ISN, ack=CLIENT_ISN + 1))
    reset = connection.reply(FIRST, "RA", ack=CLIENT_ISN + 1)
    assert _refusals(balancer, connection, FIRST, reset) == (0, 0)


@pytest.mark.parametrize("vip", [WEB, STATEFUL], ids=lambda vip: vip.name)
def test_repeated_syns_are_counted(balancer: Balancer, vip: Vip) -> None:
    """A SYN that is sent again is no connection but a repeat, of the same server."""
    connection = Connection(vip)
    before = balancer.traffic(vip.index, vip.servers[0].id)
    for _ in range(3):
        balancer.run(connection.syn())
    after = balancer.traffic(vip.index, vip.servers[0].id)
    assert (after["connections"] - before["connections"], after["repeats"] - before["repeats"]) == (1, 2)
