# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from tests.bpf.balancer import HANDSHAKE_ROWS, Balancer, Verdict
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import patched
from tests.bpf.network import CLIENT
from tests.bpf.packets import End, target_of, timestamps_of, usual
from tests.bpf.services import FIRST, end_of

pytestmark = pytest.mark.root

CONNECTION = Connection()
SYN = CONNECTION.syn()
CLOCK = 0x3456789A
ECHO = CONNECTION.stamped(CLOCK, FIRST, mark=0)
ACK = CONNECTION.request("A", usual(1, ECHO), seq=CLIENT_ISN + 1, ack=1)


@pytest.fixture
def one_row(balancer: Balancer) -> Iterator[Balancer]:
    """The balancer with room for three handshakes."""
    balancer.start_afresh()
    balancer.remember_in(1)
    yield balancer
    balancer.remember_in(HANDSHAKE_ROWS)


def _restored(balancer: Balancer) -> bool:
    """Whether the handshake is remembered, so that its ACK, which arrives anyhow, has the server's time."""
    result = balancer.run(ACK)
    assert (result.verdict, target_of(result.packet)) == (Verdict.REDIRECT, end_of(FIRST))
    seen = timestamps_of(result.packet)[1]
    assert seen in {CLOCK, ECHO | 0x3FF}
    return seen == CLOCK


def _others(balancer: Balancer, number: int) -> None:
    for port in range(number):
        balancer.run(Connection(client=End(CLIENT, 1 + port)).syn())


@pytest.mark.parametrize(
    ("others", "remembered"), [(0, True), (1, True), (2, True), (3, False), (100, False)]
)
def test_forgets_the_oldest_handshake_of_a_row(one_row: Balancer, *, others: int, remembered: bool) -> None:
    """The three newest handshakes are remembered side by side."""
    one_row.run(SYN)
    one_row.run(CONNECTION.syn_ack(FIRST, CLOCK))
    _others(one_row, others)
    assert _restored(one_row) == remembered


def test_a_new_connection_with_old_ends_is_the_newest_handshake(one_row: Balancer) -> None:
    """A reused port is not forgotten when its first connection would have been."""
    one_row.run(CONNECTION.syn(isn=1))
    _others(one_row, 1)
    one_row.run(SYN)
    one_row.run(CONNECTION.syn_ack(FIRST, CLOCK))
    for port in (101, 102):
        one_row.run(Connection(client=End(CLIENT, port)).syn())
    assert _restored(one_row)


def test_repeated_syns_push_nothing_out(one_row: Balancer) -> None:
    """However often a client repeats its SYN, it takes the room of one."""
    one_row.run(SYN)
    one_row.run(CONNECTION.syn_ack(FIRST, CLOCK))
    for _ in range(10):
        _others(one_row, 2)
    assert _restored(one_row)


def test_a_flood_of_syns_breaks_no_handshake(balancer: Balancer) -> None:
    """What is pushed out of the table is found again by its cookie."""
    balancer.start_afresh()
    for packet in (SYN, CONNECTION.syn_ack(FIRST, CLOCK)):
        balancer.run(packet)
    assert _restored(balancer)
    for number in range(20_000):
        balancer.run(patched(SYN, {26: b"\x0b" + number.to_bytes(3, "big")}))
    assert not _restored(balancer)
