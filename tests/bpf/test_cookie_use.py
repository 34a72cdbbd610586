# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.packets import target_of, timestamps_of, usual
from tests.bpf.services import FULL, end_of

pytestmark = pytest.mark.root

WORDS = st.integers(0, 0xFFFFFFFF)


def _forwarded(balancer: Balancer, packet: bytes) -> bytes:
    result = balancer.run(packet)
    assert result.verdict == Verdict.REDIRECT
    return result.packet


@pytest.mark.parametrize("flags", ["SA", "A"])
def test_every_server_id_comes_back(balancer: Balancer, flags: str) -> None:
    """Whichever of its 512 servers a VIP's connection is on, the client's next packet goes there."""
    connection = Connection(FULL)
    for server in FULL.servers:
        packet = connection.reply(server, flags, usual(0x12345678, 1), ack=CLIENT_ISN + 1)
        seen, _ = timestamps_of(_forwarded(balancer, packet))
        answer = _forwarded(balancer, connection.request("A", usual(2, seen)))
        assert target_of(answer) == end_of(server)
        assert timestamps_of(answer)[1] == (0x12345678 if flags == "SA" else 0x123457FF)


@settings(deadline=None)
@given(
    start=st.one_of(WORDS, st.integers(-5000, 5000).map(lambda clock: clock % (1 << 32))),
    handshake=st.lists(st.integers(0, 5000), max_size=3),
    later=st.lists(st.one_of(st.integers(0, 3000), st.integers(0, 1 << 28)), min_size=1, max_size=6),
)
def test_the_clients_view_of_the_clock_never_goes_back(
    balancer: Balancer, start: int, handshake: Sequence[int], later: Sequence[int]
) -> None:
    """From the first SYN-ACK on, PAWS (RFC 7323, section 5) has no reason to drop a segment."""
    connection = Connection(FULL)
    server = FULL.servers[273]
    clock, views = start, []
    for flags, steps in (("SA", [0, *handshake]), ("A", later)):
        for step in steps:
            clock = (clock + step) % (1 << 32)
            packet = connection.reply(server, flags, usual(clock, 1), ack=CLIENT_ISN + 1)
            views.append(timestamps_of(_forwarded(balancer, packet))[0])
    steps = [(after - before) % (1 << 32) for before, after in pairwise(views)]
    assert all(step < 1 << 31 for step in steps)
