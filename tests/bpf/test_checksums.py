# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.connection import Connection
from tests.bpf.headers import ETHERNET, patched, tcp_offset
from tests.bpf.packets import (
    HOP_BY_HOP,
    NOP,
    SACK_OK,
    WINDOW_SCALE,
    End,
    Fields,
    summed,
    timestamp,
    with_extensions,
    with_ip_options,
)
from tests.bpf.services import FAMILIES, FIRST, IPV4, Family

pytestmark = pytest.mark.root

WEB = Connection()
ECHO = WEB.stamped(0x12345678, FIRST, mark=1)


OPTIONS = st.lists(
    st.one_of(
        st.just(NOP),
        st.just(SACK_OK),
        st.just(WINDOW_SCALE),
        st.binary(max_size=9).map(lambda b: bytes([253, len(b) + 2]) + b),
    ),
    max_size=5,
).map(b"".join)


@settings(deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    before=OPTIONS.filter(lambda options: len(options) <= 30 and b"\x08\x0a" not in options),
    clock=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=64),
    number=st.integers(0, 0xFFFFFFFF),
    port=st.integers(1, 65535),
    ip_words=st.integers(0, 10),
    ttl=st.integers(2, 255),
)
def test_checksums_are_as_if_computed_from_scratch(
    balancer: Balancer,
    *,
    family: Family,
    before: bytes,
    clock: int,
    payload: bytes,
    number: int,
    port: int,
    ip_words: int,
    ttl: int,
) -> None:
    """Whatever else is in a packet, and wherever its timestamps stand, its new checksums are right."""
    first = family.web.servers[0]
    connection = Connection(family.web, End(family.far_client, port))
    names = Connection(family.names, connection.client)
    echo = connection.stamped(clock, first, mark=1)
    fields = Fields(payload=payload, seq=number, ack=number ^ clock, ttl=ttl, tos=ttl)
    packets = (
        connection.request("PA", before + timestamp(number, echo), **fields),
        connection.reply(first, "PA", before + timestamp(clock, number), **fields),
        names.datagram(**fields),
        names.answer(family.names.servers[0], **fields),
    )
    for packet in packets:
        with_options = (
            with_ip_options(packet, (b"\x94\x04\0\0" + NOP * 36)[: 4 * ip_words])
            if family == IPV4
            else with_extensions(packet, *(HOP_BY_HOP,) * (ip_words % 8))
        )
        result = balancer.run(with_options)
        assert result.verdict == Verdict.REDIRECT
        assert result.packet == summed(result.packet)
        assert len(result.packet) == len(with_options)


def _difference(after: bytes, before: bytes) -> int:
    """How two checksums differ in ones' complement arithmetic, where 0xffff is 0."""
    return (int.from_bytes(after, "big") - int.from_bytes(before, "big")) % 0xFFFF


def test_the_difference_is_right_for_every_checksum(balancer: Balancer) -> None:
    """What is added to a checksum does not depend on the checksum: no carry is ever lost (RFC 1624)."""
    frame = WEB.request("PA", NOP + timestamp(1, ECHO), payload=b"odd")
    right = WEB.at_server(frame, FIRST, (ECHO, ECHO | 0x3FF))
    places = (slice(ETHERNET + 10, ETHERNET + 12), slice(tcp_offset(frame) + 16, tcp_offset(frame) + 18))
    expected = [_difference(right[place], frame[place]) for place in places]
    for number in range(0x10000):
        before = number.to_bytes(2, "big")
        after = balancer.run(patched(frame, {place.start: before for place in places})).packet
        assert [_difference(after[place], before) for place in places] == expected, number
