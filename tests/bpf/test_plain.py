# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from poise.servers.model import Server, State
from tests.bpf.balancer import FLOW_RATE, Balancer, Verdict
from tests.bpf.case import Case, drops, laws, redirects
from tests.bpf.changes import Operator
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.packets import End, from_port, target_of, usual
from tests.bpf.services import FAMILIES, IPV4, MTU, NARROW, NARROW_NAMES, NARROW_VIP, Family, end_of

pytestmark = pytest.mark.root

CLOCK = 0x3456789A
by_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


def _of(family: Family, port: int = 40000) -> Connection:
    return Connection(family.web, End(family.client, port))


def _picked(connection: Connection) -> Server:
    return connection.pick(connection.vip.servers[:2])


def _on(family: Family, server: Server, count: int) -> list[Connection]:
    """Connections that the hash places on a server."""
    connections = (_of(family, port) for port in range(1, 1000))
    return [connection for connection in connections if _picked(connection) == server][:count]


def _syn(connection: Connection, isn: int = CLIENT_ISN) -> bytes:
    return connection.syn(b"", isn)


def _data(connection: Connection) -> bytes:
    return connection.request("PA", seq=CLIENT_ISN + 1, ack=1, payload=b"GET /")


def _goes_to(balancer: Balancer, packet: bytes) -> End:
    result = balancer.run(packet)
    assert result.verdict == Verdict.REDIRECT
    return target_of(result.packet)


def _steps(family: Family) -> Iterator[Case]:
    connection = _of(family)
    server, syn, data = _picked(connection), _syn(connection), _data(connection)
    other = next(server for server in family.web.servers[:2] if server != _picked(connection))
    out = connection.at_server(syn, server)
    yield redirects(f"{family}: its SYN is placed by hash", syn, out, "syn_without_timestamp")
    yield redirects(f"{family}: its SYN again", syn, out, "syn_retransmitted", before=(syn,))
    out = connection.at_server(data, server)
    remembered = ("no_timestamp_remembered", "flow_remembered")
    yield redirects(f"{family}: its first ACK enters the flows", data, out, *remembered, before=(syn,))
    yield redirects(f"{family}: the next finds itself there", data, out, remembered[0], before=(syn, data))
    answer = connection.reply(server, "SA", ack=CLIENT_ISN + 1)
    yield redirects(
        f"{family}: its SYN-ACK has no cookie", answer, connection.at_client(answer), before=(syn,)
    )
    yield redirects(f"{family}: with its SYN-ACK too", data, out, *remembered, before=(syn, answer))
    reset = connection.request("R", seq=CLIENT_ISN + 1)
    out = connection.at_server(reset, server)
    yield redirects(f"{family}: a reset enters nothing", reset, out, remembered[0], before=(syn,))
    # The client offers timestamps and the server, whose turn it is whatever the hash says, has none.
    others = () if other == family.web.servers[0] else (_of(family, 2).syn(),)
    answer = connection.reply(other, "SA", ack=CLIENT_ISN + 1)
    unanswered = (*others, connection.syn())
    out = connection.at_server(data, other)
    law = f"{family}: a connection to a server without timestamps enters the flows"
    yield redirects(law, data, out, *remembered, before=(*unanswered, answer))
    law = f"{family}: one whose server has timestamps does not"
    yield redirects(law, data, out, remembered[0], before=unanswered)


@laws(*map(_steps, FAMILIES))
def test_a_connection_without_timestamps_becomes_a_flow(balancer: Balancer, case: Case) -> None:
    """Its SYN is placed by hash, and what follows it is remembered."""
    assert case.run(balancer) == case.outcome


def _connect(balancer: Balancer, connection: Connection) -> End:
    balancer.run(_syn(connection))
    return _goes_to(balancer, _data(connection))


@by_family
def test_a_connection_stays_when_the_servers_change(operator: Operator, family: Family) -> None:
    """Where it was placed it stays, even when its handshake is forgotten; new ones see the change."""
    balancer, (first, second) = operator.balancer, family.web.servers[:2]
    connections = _on(family, first, 8) + _on(family, second, 8)
    before = [_connect(balancer, connection) for connection in connections]
    assert set(before) == {end_of(first), end_of(second)}
    balancer.forget_handshakes()
    third = replace(second, id=9, name="third", port=8082)
    for servers in (
        (first, second, third),
        (replace(first, state=State.DRAIN), second),
        (replace(first, state=State.REMOVED), second, third),
    ):
        operator.serve(family.web, *servers)
        assert [_goes_to(balancer, _data(connection)) for connection in connections] == before
    new = {_connect(balancer, _of(family, port)) for port in range(2000, 2100)}
    assert new == {end_of(second), end_of(third)}


@by_family
def test_a_flow_that_fell_out_of_the_table_goes_by_hash(operator: Operator, family: Family) -> None:
    """While the servers are the same, that is where it was before; else it may break, and only such do."""
    balancer, (first, second) = operator.balancer, family.web.servers[:2]
    (kept, lost) = _on(family, first, 2)
    for connection in (kept, lost):
        assert _connect(balancer, connection) == end_of(first)
    balancer.forget_handshakes()
    balancer.forget_flow(lost.client)
    assert _goes_to(balancer, _data(lost)) == end_of(first)
    operator.serve(family.web, second, replace(first, state=State.DRAIN))
    assert _goes_to(balancer, _data(lost)) == end_of(second)
    assert _goes_to(balancer, _data(kept)) == end_of(first)


@by_family
def test_a_reused_port_does_not_follow_the_old_flow(operator: Operator, family: Family) -> None:
    """A new connection with old ends is placed anew, as its SYN finds the servers."""
    balancer, (first, second) = operator.balancer, family.web.servers[:2]
    (connection,) = _on(family, first, 1)
    assert _connect(balancer, connection) == end_of(first)
    operator.serve(family.web, second, replace(first, state=State.DRAIN))
    assert _goes_to(balancer, _syn(connection, CLIENT_ISN + 100_000)) == end_of(second)
    assert _goes_to(balancer, _data(connection)) == end_of(second)
    balancer.forget_handshakes()
    assert _goes_to(balancer, _data(connection)) == end_of(second)


@by_family
def test_nor_does_it_beyond_the_budget(operator: Operator, family: Family) -> None:
    """A SYN that may not be remembered also forgets the connection that had its ends before."""
    balancer, (first, second) = operator.balancer, family.web.servers[:2]
    (connection,) = _on(family, first, 1)
    while True:
        operator.serve(family.web, first, second)
        balancer.start_afresh()
        assert _connect(balancer, connection) == end_of(first)
        operator.serve(family.web, second, replace(first, state=State.DRAIN))
        counted = balancer.events().get("flow_limit", 0)
        second_now = int(time.monotonic())
        balancer.spend_flow_budget(second_now, left=0)
        placed = _goes_to(balancer, _syn(connection, CLIENT_ISN + 100_000))
        if int(time.monotonic()) == second_now:
            break
    assert balancer.events()["flow_limit"] == counted + 1
    assert placed == end_of(second)
    assert _goes_to(balancer, _data(connection)) == end_of(second)


def test_a_flood_of_syns_pushes_no_flow_out(operator: Operator) -> None:
    """SYNs alone enter no flow, and of those that are acknowledged only so many a second do."""
    balancer = operator.balancer
    established = [_of(IPV4, port) for port in range(1, 65)]
    before = {connection: _connect(balancer, connection) for connection in established}
    flows = balancer.flows()
    assert len(flows) == len(established)
    counted = balancer.events()
    syn = _syn(_of(IPV4))
    for port in range(1000, 1000 + 8 * FLOW_RATE):
        balancer.run(from_port(syn, port))
    assert balancer.flows() == flows
    limited = balancer.events()["flow_limit"] - counted.get("flow_limit", 0)
    assert limited > 0
    balancer.forget_handshakes()
    assert {connection: _goes_to(balancer, _data(connection)) for connection in established} == before


def test_what_is_not_remembered_still_arrives(operator: Operator) -> None:
    """Beyond the budget a connection goes by its hash alone, which is where its SYN went."""
    balancer = operator.balancer
    syn, data = _syn(_of(IPV4)), _data(_of(IPV4))
    counted = balancer.events().get("flow_limit", 0)
    for port in range(1, 5 * FLOW_RATE):
        server = end_of(_picked(_of(IPV4, port)))
        assert _goes_to(balancer, from_port(syn, port)) == server
        assert _goes_to(balancer, from_port(data, port)) == server
    assert balancer.events()["flow_limit"] > counted


def _sizes() -> Iterator[Case]:
    web = Connection(NARROW_VIP, End(IPV4.client, 40000))
    names = Connection(NARROW_NAMES, web.client)
    echo = web.stamped(CLOCK, NARROW, mark=1)
    for more in (0, 1, 400):
        packet = web.request("A", usual(77, echo), payload=bytes(MTU - 52 + more))
        datagram = names.datagram(payload=bytes(MTU - 28 + more))
        if more:
            yield drops(f"a segment of {more} bytes too many", packet, "drop_too_big")
            yield drops(f"a datagram of {more} bytes too many", datagram, "flow_remembered", "drop_too_big")
        else:
            out = web.at_server(packet, NARROW, (echo, CLOCK | 0x3FF))
            yield redirects("a segment that just fits", packet, out)
            out = names.at_server(datagram, NARROW_NAMES.servers[0])
            yield redirects("a datagram that just fits", datagram, out, "flow_remembered")
    packet = web.request("A", usual(77, echo)).ljust(14 + MTU + 100, b"\xee")
    out = web.at_server(packet, NARROW, (echo, CLOCK | 0x3FF))
    yield redirects("Ethernet padding does not count", packet, out)


@laws(_sizes())
def test_drops_what_is_too_big_for_the_way_to_the_server(balancer: Balancer, case: Case) -> None:
    """A packet that may be fragmented, and would have to be, ends here: poise fragments nothing."""
    assert case.run(balancer) == case.outcome
