# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from dataclasses import replace

import pytest

from poise.servers.model import Server, State
from tests.bpf.balancer import FLOW_RATE, Balancer, Verdict
from tests.bpf.case import Case, drops, hands_up, laws, passes, redirects
from tests.bpf.changes import Operator
from tests.bpf.connection import Connection
from tests.bpf.headers import Macs, ip_offset, patched, transport_of, with_ip_length
from tests.bpf.network import DIRECT_CLIENT, DIRECT_CLIENT6, TO_CLIENT, TO_GATEWAY
from tests.bpf.packets import End, from_port, summed, target_of, without_sum
from tests.bpf.services import FAMILIES, HASHED_NAMES, IPV4, Family, end_of, server_of

pytestmark = pytest.mark.root

SIZES = (0, 1, 2, 3, 512, 1232, 1400)
by_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


def _of(family: Family, port: int = 40000) -> Connection:
    return Connection(family.names, End(family.client, port))


def _picked(connection: Connection) -> Server:
    return connection.pick(connection.vip.servers[:2])


def _to_servers(family: Family) -> Iterator[Case]:
    for address, port in ((family.client, 40000), (family.client, 1), (family.far_client, 65535)):
        connection = Connection(family.names, End(address, port))
        packet = connection.datagram(payload=b"question")
        out = connection.at_server(packet, _picked(connection))
        law = f"{family} from {address} port {port}"
        yield redirects(law, packet, out, "flow_remembered")
        yield redirects(f"{law} again", packet, out, before=(packet,))
    connection = _of(family)
    for size in SIZES:
        packet = connection.datagram(payload=b"\xa5" * size)
        out = connection.at_server(packet, _picked(connection))
        yield redirects(f"{family} with {size} bytes", packet, out, "flow_remembered")
    for hops in (0, 1):
        packet = connection.datagram(ttl=hops)
        yield drops(f"{family} with {hops} hops left", packet, "drop_ttl_expired")
    empty = Connection(family.empty_names, connection.client)
    yield drops(f"{family} for a VIP without servers", empty.datagram(), "drop_no_server")


@laws(*map(_to_servers, FAMILIES))
def test_sends_datagrams_by_hash_and_remembers_the_flow(balancer: Balancer, case: Case) -> None:
    """The first datagram of a flow is placed by the Maglev hash, and those after it follow."""
    assert case.run(balancer) == case.outcome


def _to_clients(family: Family) -> Iterator[Case]:
    for server in (server_of(family.names, number) for number in (0, 1, 2, 5)):
        for address, macs in ((family.client, TO_CLIENT), (family.far_client, TO_GATEWAY)):
            connection = Connection(family.names, End(address, 40000))
            packet = connection.answer(server, payload=b"answer")
            out = connection.at_client(packet, macs=macs)
            yield redirects(f"of {server.name} to {address}", packet, out)
    connection = _of(family)
    server = server_of(family.names, 0)
    for size in SIZES:
        packet = connection.answer(server, payload=b"\x5a" * size)
        yield redirects(f"{family} with {size} bytes", packet, connection.at_client(packet))
    cut = connection.answer(server_of(family.names, 3))
    yield drops(f"{family} of a cut server", cut, "drop_reply_of_cut_server")
    packet = connection.answer(server, ttl=1)
    yield passes(f"{family} with one hop left", packet, "pass_reply_ttl_expired")
    for address, event in (
        (family.own_address, "pass_own_address"),
        (DIRECT_CLIENT if family == IPV4 else DIRECT_CLIENT6, "pass_direct"),
    ):
        packet = Connection(family.names, End(address, 40000)).answer(server)
        yield passes(f"of {server.name} to {address}", packet, event)
    connection = Connection(family.names, End(family.silent_client, 40000))
    packet = connection.answer(server)
    out = connection.at_client(packet, macs=Macs(packet[:6], bytes(6)))
    yield hands_up(f"{family} to a client whose MAC is unknown", packet, out, "neighbour_unresolved")


@laws(*map(_to_clients, FAMILIES))
def test_sends_answers_in_the_vips_name(balancer: Balancer, case: Case) -> None:
    """A client of UDP sees the VIP, whichever server answers."""
    assert case.run(balancer) == case.outcome


def _sums(family: Family) -> Iterator[Case]:
    connection, server = _of(family), server_of(family.names, 0)
    packet = without_sum(connection.datagram())
    out = connection.at_server(packet, _picked(connection))
    yield redirects(f"{family}: no checksum stays none, to a server", packet, out, "flow_remembered")
    packet = without_sum(connection.answer(server))
    yield redirects(f"{family}: no checksum stays none, to a client", packet, connection.at_client(packet))
    for name, whole, forward, events in (
        (
            "to a server",
            connection.datagram(payload=b"\0\0 question"),
            lambda frame: connection.at_server(frame, _picked(connection)),
            ("flow_remembered",),
        ),
        ("to a client", connection.answer(server, payload=b"\0\0 answer"), connection.at_client, ()),
    ):
        # What makes the sum of the forwarded packet 0: the payload begins with the sum that it would have.
        right = forward(whole)
        at = transport_of(whole)[1]
        packet = summed(patched(whole, {at + 8: right[at + 6 : at + 8]}))
        out = forward(packet)
        assert out[at + 6 : at + 8] == b"\xff\xff"
        yield redirects(
            f"{family}: a checksum that becomes 0 is written 0xffff, {name}", packet, out, *events
        )
        wrong = patched(packet, {at + 9: b"\x99"})
        wrong_out = patched(out, {at + 9: b"\x99"})
        yield redirects(f"{family}: a wrong checksum stays wrong, {name}", wrong, wrong_out, *events)


@laws(*map(_sums, FAMILIES))
def test_checksums_of_udp_follow_rfc_768(balancer: Balancer, case: Case) -> None:
    """Zero means that there is none, so that a sum of zero is sent as all ones, and none is invented."""
    assert case.run(balancer) == case.outcome


def _lengths(family: Family) -> Iterator[Case]:
    connection, server = _of(family), server_of(family.names, 0)
    for name, whole in (("for a VIP", connection.datagram()), ("from a server", connection.answer(server))):
        at, transport = ip_offset(whole), transport_of(whole)[1]
        size = len(whole) - at
        for length in (transport - at, transport - at + 7, size + 1, 65000):
            packet = with_ip_length(whole, length)
            yield drops(f"{family} {name}, of {length} bytes by its IP header", packet, "drop_malformed")
    # What UDP's own length says is for the receiver to judge: of fragments it is larger than the packet.
    for length in (0, 7, 9, 65535):
        packet = summed(
            patched(connection.datagram(), {transport_of(whole)[1] + 4: length.to_bytes(2, "big")})
        )
        out = connection.at_server(packet, _picked(connection))
        yield redirects(f"{family}, of {length} bytes by its UDP header", packet, out, "flow_remembered")
    padded = connection.datagram(payload=b"?").ljust(90, b"\xee")
    out = connection.at_server(padded, _picked(connection))
    yield redirects(f"{family} with Ethernet padding", padded, out, "flow_remembered")


@laws(*map(_lengths, FAMILIES))
def test_lengths_of_udp(balancer: Balancer, case: Case) -> None:
    """A header of UDP that does not fit its packet goes nowhere; its own length is the receiver's matter."""
    assert case.run(balancer) == case.outcome


def _hashed() -> Iterator[Case]:
    for port in (1, 4000, 40000, 65535):
        connection = Connection(HASHED_NAMES, End(IPV4.client, port))
        packet = connection.datagram()
        yield redirects(
            f"from port {port}", packet, connection.at_server(packet, connection.pick(HASHED_NAMES.servers))
        )


@laws(_hashed())
def test_remembers_nothing_where_the_hash_decides(balancer: Balancer, case: Case) -> None:
    """With the policy `hash` no flow has a row."""
    assert case.run(balancer) == case.outcome


def _goes_to(balancer: Balancer, packet: bytes) -> End:
    result = balancer.run(packet)
    assert result.verdict == Verdict.REDIRECT
    return target_of(result.packet)


def _ports_of(family: Family, server: Server, count: int) -> list[Connection]:
    """Connections that the hash places on a server."""
    connections = (_of(family, port) for port in range(1, 1000))
    return [connection for connection in connections if _picked(connection) == server][:count]


@by_family
def test_a_flow_stays_when_the_servers_change(operator: Operator, family: Family) -> None:
    """Where a flow was placed it stays: when its server drains, is removed, or gets a colleague."""
    balancer, first, second = operator.balancer, *family.names.servers[:2]
    connections = _ports_of(family, first, 8) + _ports_of(family, second, 8)
    packets = [connection.datagram() for connection in connections]
    before = [_goes_to(balancer, packet) for packet in packets]
    assert set(before) == {end_of(first), end_of(second)}
    third = replace(second, id=9, name="third", port=5454)
    for servers in (
        (first, second, third),
        (replace(first, state=State.DRAIN), second),
        (replace(first, state=State.REMOVED), second, third),
    ):
        operator.serve(family.names, *servers)
        assert [_goes_to(balancer, packet) for packet in packets] == before
    new = {_goes_to(balancer, _of(family, port).datagram()) for port in range(2000, 2100)}
    assert new == {end_of(second), end_of(third)}


@by_family
def test_a_flow_leaves_a_server_that_is_cut_or_gone(operator: Operator, family: Family) -> None:
    """A flow of UDP is not reset: it is placed anew, and stays there when its first server comes back."""
    balancer, first, second = operator.balancer, *family.names.servers[:2]
    cut, gone = (connection.datagram() for connection in _ports_of(family, first, 2))
    assert (_goes_to(balancer, cut), _goes_to(balancer, gone)) == (end_of(first), end_of(first))
    operator.serve(family.names, replace(first, state=State.CUT), second)
    assert _goes_to(balancer, cut) == end_of(second)
    operator.serve(family.names, second)
    assert _goes_to(balancer, gone) == end_of(second)
    operator.serve(family.names, first, second)
    assert (_goes_to(balancer, cut), _goes_to(balancer, gone)) == (end_of(second), end_of(second))


@by_family
def test_a_flow_whose_server_cannot_be_reached_is_discarded(operator: Operator, family: Family) -> None:
    """Somebody who is expected back does not lose flows to others."""
    balancer, first = operator.balancer, family.names.servers[0]
    (connection,) = _ports_of(family, first, 1)
    assert _goes_to(balancer, connection.datagram()) == end_of(first)
    operator.lose(first)
    before = balancer.events().get("drop_server_unreachable", 0)
    assert balancer.run(connection.datagram()).verdict == Verdict.DROP
    assert balancer.events()["drop_server_unreachable"] == before + 1
    operator.lose()
    assert _goes_to(balancer, connection.datagram()) == end_of(first)


@by_family
def test_a_drained_server_keeps_its_flows_when_no_other_is_left(operator: Operator, family: Family) -> None:
    """New flows find no server then, old ones do."""
    first = family.names.servers[0]
    (old, new) = (connection.datagram() for connection in _ports_of(family, first, 2))
    assert _goes_to(operator.balancer, old) == end_of(first)
    operator.serve(family.names, replace(first, state=State.DRAIN))
    assert _goes_to(operator.balancer, old) == end_of(first)
    assert operator.balancer.run(new).verdict == Verdict.DROP


def test_a_flood_is_still_balanced_by_hash(operator: Operator) -> None:
    """Beyond its budget no flow is remembered; where the hash leads they all still go."""
    balancer = operator.balancer
    before = balancer.events()
    packet, ports = _of(IPV4).datagram(), range(1, 8 * FLOW_RATE)
    for port in ports:
        assert _goes_to(balancer, from_port(packet, port)) == end_of(_picked(_of(IPV4, port)))
    counts = {name: count - before.get(name, 0) for name, count in balancer.events().items()}
    assert counts["flow_limit"] + counts["flow_remembered"] == len(ports)
    assert counts["flow_limit"] > 0
    assert len(balancer.flows()) == counts["flow_remembered"]
