# SPDX-License-Identifier: Apache-2.0
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.servers.model import Mode, Model, Server
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.changes import Operator
from tests.bpf.connection import CLIENT_ISN, SERVER_ISN, Connection
from tests.bpf.network import CLIENT
from tests.bpf.packets import End, target_of, timestamps_of, usual
from tests.bpf.services import FIRST, KEY, SECOND, WEB, end_of, hops

pytestmark = pytest.mark.root

STATEFUL = replace(WEB, mode=Mode.STATEFUL)
CLOCK = 0x3456789A
LATER = 0x3456AAAA
HOUR = 3600 * 10**9 >> 30  # in the units of the table


@pytest.fixture(scope="module", autouse=True)
def stateful(balancer: Balancer, servers_ifindex: int) -> Iterator[None]:
    """Have the balancer's VIP keep its connections in the table."""
    model = Model((STATEFUL,))
    balancer.fill(model, hops(model, servers_ifindex), KEY)
    balancer.start_afresh()
    yield
    balancer.start_afresh()


def _agree(balancer: Balancer) -> Counter[int]:
    """Return what is counted, once it is what is listed."""
    listed = Counter(connection.server for connection in balancer.connections.list())
    assert balancer.open_connections(STATEFUL) == listed
    return listed


class _Client:
    """A client of the VIP, whose connection goes where it is sent."""

    def __init__(self, balancer: Balancer, number: int) -> None:
        self.connection = Connection(STATEFUL, End(CLIENT, 1000 + number))
        self.isn = CLIENT_ISN
        self.server = FIRST
        self.echo = 0
        self._balancer = balancer

    def syn(self) -> None:
        """Send the SYN, for the first time or again."""
        result = self._balancer.run(self.connection.syn(isn=self.isn))
        if result.verdict == Verdict.REDIRECT:
            ends = {end_of(server): server for server in (FIRST, SECOND)}
            self.server = ends[target_of(result.packet)]

    def again(self) -> None:
        """Send the SYN of another connection from the same port."""
        self.isn += 100_000
        self.syn()

    def answered(self) -> None:
        """Have the server answer."""
        self._reply("SA", CLOCK)

    def acknowledge(self) -> None:
        """Prove that the answer came."""
        self._request("A")

    def fin(self) -> None:
        """End one's own side."""
        self._request("FA")

    def server_fin(self) -> None:
        """Have the server end its side."""
        self._reply("FA", LATER)

    def reset(self) -> None:
        """Reset the connection."""
        self._request("RA")

    def server_reset(self) -> None:
        """Have the server reset it."""
        self._reply("RA", LATER)

    def relearn(self) -> None:
        """Have another server send something."""
        frame = self.connection.reply(SECOND, "A", usual(LATER, 77), ack=self.isn + 1)
        self._balancer.run(frame)

    def _reply(self, flags: str, clock: int) -> None:
        frame = self.connection.reply(self.server, flags, usual(clock, 77), seq=SERVER_ISN, ack=self.isn + 1)
        result = self._balancer.run(frame)
        if result.verdict == Verdict.REDIRECT:
            self.echo, _ = timestamps_of(result.packet)

    def _request(self, flags: str) -> None:
        options = usual(77, self.echo)
        self._balancer.run(self.connection.request(flags, options, seq=self.isn + 1, ack=SERVER_ISN + 1))

    def open(self) -> None:
        """Do what a client does to open a connection."""
        self.again()
        self.answered()
        self.acknowledge()


STEPS = (
    *("syn", "again", "answered", "acknowledge", "fin", "server_fin", "reset", "server_reset", "relearn"),
    *("open", "open", "sweep", "flood"),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(STEPS)), max_size=25))
def test_what_is_counted_as_open_is_what_the_table_holds(
    balancer: Balancer, steps: list[tuple[int, str]]
) -> None:
    """Through any history each server's count is the number of its connections that are not over."""
    balancer.start_afresh()
    clients = [_Client(balancer, number) for number in range(6)]
    for number, step in steps:
        if step == "sweep":
            balancer.connections.sweep(0, 1, (time.monotonic_ns() >> 30) + 4 * HOUR)
        elif step == "flood":
            for port in range(100):
                balancer.run(Connection(STATEFUL, End(CLIENT, 3000 + 100 * number + port)).syn())
        else:
            getattr(clients[number], step)()
        _agree(balancer)


def test_a_connection_counts_from_its_syn_to_its_end(balancer: Balancer) -> None:
    """One from the SYN on, none once both sides have sent their FIN, or one of them a reset."""
    balancer.start_afresh()
    client = _Client(balancer, 0)
    for end in (("fin", "server_fin"), ("server_fin", "fin"), ("reset",), ("server_reset",)):
        client.again()
        assert _agree(balancer).total() == 1
        client.syn()
        client.answered()
        client.acknowledge()
        assert _agree(balancer).total() == 1
        for step in end:
            assert _agree(balancer).total() == 1
            getattr(client, step)()
        assert _agree(balancer).total() == 0


def test_syns_that_push_others_out_are_counted_once(balancer: Balancer) -> None:
    """However many SYNs come, the counts are of those that are in the table, and of established ones."""
    balancer.start_afresh()
    clients = [_Client(balancer, number) for number in range(100)]
    for client in clients:
        client.open()
    for number in range(3000):
        balancer.run(Connection(STATEFUL, End(CLIENT, 2000 + number)).syn())
        if number % 100 == 0:
            _agree(balancer)
    assert 100 < _agree(balancer).total() <= 512
    for client in clients:
        client.reset()
    _agree(balancer)


def test_a_row_that_is_full_counts_its_own(balancer: Balancer) -> None:
    """A connection that is refused for want of a slot counts nowhere."""
    balancer.start_afresh()
    for number in range(512):
        _Client(balancer, number).open()
    for number in range(600, 620):
        _Client(balancer, number).syn()
    assert _agree(balancer).total() == 512


def test_a_connection_that_is_idle_for_too_long_counts_no_more(balancer: Balancer) -> None:
    """The sweep takes it off, and it counts again when it is heard of before its slot is needed."""
    balancer.start_afresh()
    client = _Client(balancer, 0)
    client.open()
    balancer.connections.sweep(0, 1, (time.monotonic_ns() >> 30) + 4 * HOUR)
    assert _agree(balancer).total() == 0
    client.acknowledge()
    assert _agree(balancer).total() == 1


def test_connections_of_a_server_that_is_cut_end_with_the_reset(
    balancer: Balancer, operator: Operator
) -> None:
    """Once the client got the balancer's reset, its connection is over."""
    operator.change(Model((STATEFUL,)))
    balancer.start_afresh()
    client = _Client(balancer, 0)
    client.open()
    server: Server = client.server
    operator.cut(server)
    assert balancer.run(client.connection.request("A", usual(77, client.echo), ack=1)).verdict == Verdict.TX
    assert _agree(balancer).total() == 0
