# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.servers import cookie
from poise.servers.model import SERVER_IDS, Mode, Model, Server
from tests.bpf.balancer import Balancer, Result, Verdict
from tests.bpf.case import Case, drops, laws, redirects
from tests.bpf.connection import CLIENT_ISN, SERVER_ISN, SYN_OPTIONS, Connection
from tests.bpf.network import CLIENT
from tests.bpf.packets import End, target_of, timestamps_of, usual
from tests.bpf.services import CUT, DRAINED, FIRST, KEY, SECOND, WEB, end_of, flow_hash, hops

pytestmark = pytest.mark.root

STATEFUL = replace(WEB, mode=Mode.STATEFUL)
CONNECTION = Connection(STATEFUL)
OTHER = Connection(STATEFUL, End(CLIENT, 40001))
SYN = CONNECTION.syn()
CLOCK = 0x3456789A
LATER = 0x3456AAAA
STRIPPED = CLOCK | 0x3FF
HOUR = 3600 * 10**9 >> 30  # in the units of the table


@pytest.fixture(scope="module", autouse=True)
def stateful(balancer: Balancer, servers_ifindex: int) -> Iterator[None]:
    """Have the balancer's VIP keep its connections in the table."""
    model = Model((STATEFUL,))
    balancer.fill(model, hops(model, servers_ifindex), KEY)
    balancer.start_afresh()
    yield
    balancer.start_afresh()


def _syn_ack(server: Server = FIRST, clock: int = CLOCK, connection: Connection = CONNECTION) -> bytes:
    return connection.syn_ack(server, clock)


def _ack(
    slot: int, mark: int, flags: str = "A", clock: int = CLOCK, connection: Connection = CONNECTION
) -> bytes:
    echo = connection.stamped(clock, slot, mark=mark)
    return connection.request(flags, usual(77, echo), seq=CLIENT_ISN + 1, ack=SERVER_ISN + 1)


OPENED = (SYN, _syn_ack(), _ack(0, 0))


def _handshakes() -> Iterator[Case]:
    yield redirects("a SYN goes to the server whose turn it is", SYN, CONNECTION.at_server(SYN, FIRST))
    out = CONNECTION.at_server(SYN, FIRST)
    before = (SYN, OTHER.syn())
    yield redirects("sent again, to the same", SYN, out, "syn_retransmitted", before=before)
    packet = _syn_ack()
    out = CONNECTION.at_client(packet, (CLOCK, CONNECTION.stamped(CLOCK, 0, mark=0)))
    yield redirects("its SYN-ACK names the first slot", packet, out, before=(SYN,))
    yield redirects("also if its SYN is unknown", packet, out, "synack_unexpected")
    packet = _syn_ack(SECOND, connection=OTHER)
    out = OTHER.at_client(packet, (CLOCK, OTHER.stamped(CLOCK, 1, mark=0)))
    yield redirects("the next one the second slot", packet, out, before=(SYN, SYN, OTHER.syn()))
    for clock in (CLOCK, LATER):
        packet = _ack(0, 0, clock=clock)
        out = CONNECTION.at_server(packet, FIRST, (CONNECTION.stamped(clock, 0, mark=0), clock))
        answered = (SYN, _syn_ack(), _syn_ack(clock=LATER))
        yield redirects(
            f"the echo of a SYN-ACK of {clock:#x} is restored exactly", packet, out, before=answered
        )


@laws(_handshakes())
def test_opens_connections(balancer: Balancer, case: Case) -> None:
    """A SYN takes a slot, once, and the SYN-ACK tells the client."""
    assert case.run(balancer) == case.outcome


def _established() -> Iterator[Case]:
    for flags in ("A", "PA", "FA", "RA"):
        packet = _ack(0, 1, flags)
        out = CONNECTION.at_server(packet, FIRST, (CONNECTION.stamped(CLOCK, 0, mark=1), STRIPPED))
        yield redirects(f"{flags} of the client goes to its server", packet, out, before=OPENED)
        packet = CONNECTION.reply(FIRST, flags, usual(CLOCK, 77), ack=CLIENT_ISN + 1)
        out = CONNECTION.at_client(packet, (CLOCK, CONNECTION.stamped(CLOCK, 0, mark=1)))
        yield redirects(f"{flags} of the server names the slot", packet, out, before=OPENED)
    packet = CONNECTION.request("R", seq=CLIENT_ISN + 1)
    out = CONNECTION.at_server(packet, FIRST)
    yield redirects("a reset without timestamps is found by the index", packet, out, before=OPENED)
    packet = _ack(17, 1)
    out = CONNECTION.at_server(packet, FIRST, (CONNECTION.stamped(CLOCK, 17, mark=1), STRIPPED))
    yield redirects("so is what echoes another slot", packet, out, before=OPENED)
    for ended in (("FA", "FA"), ("RA", ""), ("", "RA")):
        end = [_ack(0, 1, flags) for flags in ended[:1] if flags]
        end += [CONNECTION.reply(FIRST, flags, usual(CLOCK, 77)) for flags in ended[1:] if flags]
        packet = _ack(0, 1)
        out = CONNECTION.at_server(packet, FIRST, (CONNECTION.stamped(CLOCK, 0, mark=1), STRIPPED))
        yield redirects(f"the last words after {ended} still pass", packet, out, before=(*OPENED, *end))
    packet = CONNECTION.reply(DRAINED, "A", usual(CLOCK, 77), ack=CLIENT_ISN + 1)
    out = CONNECTION.at_client(packet, (CLOCK, CONNECTION.stamped(CLOCK, 0, mark=1)))
    yield redirects("a server's word enters its connection", packet, out, "connection_relearned")
    yield drops("an unknown reset is dropped", CONNECTION.request("R"), "reset_connection_unknown")


@laws(_established())
def test_follows_connections(balancer: Balancer, case: Case) -> None:
    """The table decides, by the slot in the echo, and without one by the flow."""
    assert case.run(balancer) == case.outcome


def test_answers_what_it_does_not_know_with_a_reset(balancer: Balancer) -> None:
    """A client whose connection is not in the table learns that it is over."""
    balancer.start_afresh()
    before = balancer.events().get("reset_connection_unknown", 0)
    assert balancer.run(_ack(0, 1)).verdict == Verdict.TX
    assert balancer.events()["reset_connection_unknown"] == before + 1


def _open(balancer: Balancer, connection: Connection) -> Server:
    """Have a connection made, whichever server has its turn; returns that."""
    result = balancer.run(connection.syn())
    assert result.verdict == Verdict.REDIRECT
    server = next(server for server in (FIRST, SECOND) if end_of(server) == target_of(result.packet))
    seen, _ = timestamps_of(balancer.run(_syn_ack(server, connection=connection)).packet)
    assert balancer.run(_answer(connection, seen)).verdict == Verdict.REDIRECT
    return server


def _answer(connection: Connection, echo: int) -> bytes:
    return connection.request("A", usual(77, echo), seq=CLIENT_ISN + 1, ack=SERVER_ISN + 1)


def _numbered(number: int) -> Connection:
    return Connection(STATEFUL, End(CLIENT, 1000 + number))


def _ack_of(balancer: Balancer, connection: Connection) -> Result:
    """Send a segment without a usable echo, which the index finds."""
    return balancer.run(connection.request("A", seq=CLIENT_ISN + 1, ack=SERVER_ISN + 1))


def test_a_full_row_takes_none_and_loses_none(balancer: Balancer) -> None:
    """Established connections keep their slots; when one ends, another finds room."""
    balancer.start_afresh()
    servers = [_open(balancer, _numbered(number)) for number in range(SERVER_IDS)]
    late = Connection(STATEFUL)
    refused = [balancer.run(late.syn()).verdict for _ in range(10)]
    assert refused == [Verdict.DROP] * 10
    for number, server in enumerate(servers):
        result = _ack_of(balancer, _numbered(number))
        assert (result.verdict, target_of(result.packet)) == (Verdict.REDIRECT, end_of(server))
    balancer.run(_numbered(3).reply(servers[3], "R", ack=CLIENT_ISN + 1))
    _open(balancer, late)
    assert balancer.run(_numbered(600).syn()).verdict == Verdict.DROP


def test_syns_take_no_slot_for_good(balancer: Balancer) -> None:
    """However many SYNs come, repeated or new, what is established stays, and there is room for more."""
    balancer.start_afresh()
    servers = [_open(balancer, _numbered(number)) for number in range(100)]
    for number in range(3000):
        assert (
            balancer.run(Connection(STATEFUL, End(CLIENT, 2000 + number)).syn()).verdict == Verdict.REDIRECT
        )
    for _ in range(1000):
        assert balancer.run(SYN).verdict == Verdict.REDIRECT
    for number, server in enumerate(servers):
        assert target_of(_ack_of(balancer, _numbered(number)).packet) == end_of(server)
    queue, taken = balancer.slots()
    assert len(taken) == 100
    assert sorted(queue + taken) == list(range(SERVER_IDS))


def test_a_forged_reset_ends_nothing(balancer: Balancer) -> None:
    """Who does not see the connection cannot give its slot away."""
    balancer.start_afresh()
    _open(balancer, CONNECTION)
    for distance in (1 << 20, 1 << 30, 1 << 31):
        balancer.run(CONNECTION.request("R", seq=CLIENT_ISN + 1 + distance))
    assert [each.state for each in balancer.connections.list()] == ["established"]
    balancer.run(CONNECTION.request("R", seq=CLIENT_ISN + 1))
    assert list(balancer.connections.list()) == []


def test_counts_and_lists_connections(balancer: Balancer) -> None:
    """What is listed of a connection are its packets and bytes, with IP headers, each way."""
    balancer.start_afresh()
    for packet in (*OPENED, CONNECTION.reply(FIRST, "PA", usual(LATER, 77), payload=b"x" * 100)):
        balancer.run(packet)
    (listed,) = balancer.connections.list()
    assert (listed.client, listed.port) == (CLIENT, CONNECTION.client.port)
    assert (listed.vip, listed.server, listed.state) == (STATEFUL.index, FIRST.id, "established")
    header, options = 40, len(usual(0, 0))
    assert (listed.packets_to_server, listed.bytes_to_server) == (
        2,
        2 * header + len(SYN_OPTIONS) + options,
    )
    assert (listed.packets_to_client, listed.bytes_to_client) == (2, 2 * (header + options) + 100)
    assert listed.age <= 3
    assert listed.idle <= 3


@pytest.mark.parametrize(
    ("hours", "fin", "freed"), [(2.2, False, 0), (3.1, False, 1), (0.02, True, 0), (0.05, True, 1)]
)
def test_frees_the_slots_of_idle_connections(
    balancer: Balancer, *, hours: float, fin: bool, freed: int
) -> None:
    """Keepalives every two hours keep a connection; one that a side has ended is waited for for minutes."""
    balancer.start_afresh()
    server = _open(balancer, CONNECTION)
    if fin:
        balancer.run(CONNECTION.reply(server, "FA", usual(LATER, 77), ack=CLIENT_ISN + 1))
    now = (time.monotonic_ns() >> 30) + int(hours * HOUR)
    assert balancer.connections.sweep(0, 1, now) == freed
    assert len(list(balancer.connections.list())) == 1 - freed
    balancer.run(_ack(0, 1))
    assert len(list(balancer.connections.list())) == 1, "heard of again before its slot was needed"


STEPS = st.lists(
    st.tuples(
        st.integers(0, 7), st.sampled_from(["open", "data", "fin", "finished", "reset", "syn", "sweep"])
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_history_loses_a_slot_or_a_connection(balancer: Balancer, steps: list[tuple[int, str]]) -> None:
    """Each connection goes on to its server until it ends, and each slot is free or taken, never both."""
    balancer.start_afresh()
    alive: dict[int, tuple[Server, int]] = {}
    isn = CLIENT_ISN
    for number, step in steps:
        connection = _numbered(number)
        if step == "open" and number not in alive:
            isn += 100_000
            result = balancer.run(connection.syn(isn=isn))
            server = next(server for server in (FIRST, SECOND) if end_of(server) == target_of(result.packet))
            packet = connection.syn_ack(server, CLOCK, isn=isn)
            seen, _ = timestamps_of(balancer.run(packet).packet)
            alive[number] = (server, (seen ^ flow_hash(STATEFUL, connection.client)) % SERVER_IDS)
            balancer.run(connection.request("A", usual(77, seen), seq=isn + 1, ack=SERVER_ISN + 1))
        elif step == "syn":
            isn += 100_000
            balancer.run(connection.syn(isn=isn))
        elif step == "sweep":
            balancer.connections.sweep(0, 1)
        elif number in alive and step != "open":
            _go_on(balancer, connection, *alive[number], step)
            if step in ("finished", "reset"):
                del alive[number]
        queue, taken = balancer.slots()
        assert sorted(queue + taken) == list(range(SERVER_IDS))
    for number, (server, slot) in alive.items():
        _go_on(balancer, _numbered(number), server, slot, "data")


def _go_on(balancer: Balancer, connection: Connection, server: Server, slot: int, step: str) -> None:
    flags = {"data": "PA", "fin": "FA", "finished": "FA", "reset": "RA"}[step]
    hashed = flow_hash(STATEFUL, connection.client)
    echo = cookie.stamp(CLOCK, hashed, slot, is_synack=False)
    result = balancer.run(connection.request(flags, usual(77, echo)))
    assert target_of(result.packet) == end_of(server)
    assert timestamps_of(result.packet)[1] == cookie.strip(CLOCK)
    if step == "finished":
        result = balancer.run(connection.reply(server, "FA", usual(LATER, 77)))
        assert timestamps_of(result.packet)[0] == cookie.stamp(LATER, hashed, slot, is_synack=False)


def test_a_server_that_takes_none_keeps_its_connections(balancer: Balancer) -> None:
    """A drained server's connections go on, and a cut one cannot answer any more."""
    balancer.start_afresh()
    balancer.run(CONNECTION.reply(DRAINED, "A", usual(CLOCK, 77), ack=CLIENT_ISN + 1))
    assert target_of(balancer.run(_ack(0, 1)).packet) == end_of(DRAINED)
    assert balancer.run(CONNECTION.reply(CUT, "A", usual(CLOCK, 77))).verdict == Verdict.DROP
