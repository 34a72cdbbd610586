# SPDX-License-Identifier: Apache-2.0
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bpf.balancer import Balancer, Result, Verdict
from tests.bpf.connection import Connection
from tests.bpf.headers import ETHERNET, ip_length, patched, tcp_offset
from tests.bpf.network import FAR_CLIENT, SILENT_CLIENT
from tests.bpf.packets import (
    MSS,
    NOP,
    SACK_OK,
    WINDOW_SCALE,
    End,
    Fields,
    source_of,
    summed,
    target_of,
    timestamp,
    usual,
    with_ip_options,
)
from tests.bpf.services import CUT, EMPTY, FIRST, HASHED, MODEL, TOKEN, end_of

pytestmark = pytest.mark.root

ROUNDS = 6000
WEB, HASHED_FLOW = Connection(), Connection(HASHED)
ECHO = WEB.stamped(0x12345678, FIRST, mark=1)
FRAMES = [
    WEB.syn(MSS + SACK_OK + timestamp(1, 0) + NOP + WINDOW_SCALE),
    WEB.request("PA", usual(1, ECHO), payload=b"GET / HTTP/1.1\r\n"),
    WEB.request("A", NOP + timestamp(1, ECHO), payload=b"odd"),
    WEB.request("A", usual(1, WEB.stamped(0x12345678, CUT, mark=1))),
    WEB.request("R"),
    with_ip_options(WEB.request("A", usual(1, ECHO)), b"\x94\x04\0\0"),
    WEB.request("A").ljust(60, b"\0"),
    WEB.syn_ack(FIRST, 0x12345678),
    WEB.reply(FIRST, "PA", usual(0x12345678, 1), payload=b"HTTP/1.1 200 OK\r\n"),
    Connection(client=End(SILENT_CLIENT, 1)).reply(FIRST, "A", usual(5, 6)),
    HASHED_FLOW.request("PA", usual(1, 2), payload=b"x"),
    Connection(EMPTY).syn(),
]
VIP_ENDS = {end_of(vip) for vip in MODEL.vips}
SERVER_ENDS = {end_of(server) for _, server in MODEL.servers()}


def _has_tcp(frame: bytes) -> bool:
    """Whether there are the headers of a TCP segment over IPv4, by the few rules that this takes."""
    if len(frame) < ETHERNET + 20 or frame[12:14] != b"\x08\0" or frame[ETHERNET + 9] != 6:
        return False
    is_first_fragment = int.from_bytes(frame[20:22], "big") & 0x1FFF == 0
    return is_first_fragment and frame[ETHERNET] & 15 >= 5 and len(frame) >= tcp_offset(frame) + 20


def _concerns_us(frame: bytes) -> bool:
    if not _has_tcp(frame):
        return False
    return target_of(frame) in VIP_ENDS or source_of(frame) in SERVER_ENDS


def _is_whole(frame: bytes) -> bool:
    length = ip_length(frame)
    return _has_tcp(frame) and tcp_offset(frame) - ETHERNET + 20 <= length <= len(frame) - ETHERNET


def _mutated(frame: bytes, chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.1:
        return frame[: chance.randrange(ETHERNET, len(frame))]
    if kind < 0.15:
        return frame + chance.randbytes(chance.randrange(1, 40))
    headers = min(len(frame), tcp_offset(frame) + 40)
    places = [
        chance.randrange(headers if chance.random() < 0.9 else len(frame))
        for _ in range(chance.randrange(1, 5))
    ]
    return patched(frame, {place: chance.randbytes(1) for place in places})


def _check(frame: bytes, result: Result) -> None:
    if not _concerns_us(frame):
        assert (result.verdict, result.packet) == (Verdict.PASS, frame), frame.hex(" ")
        return
    assert result.verdict != Verdict.ABORTED
    if result.verdict == Verdict.PASS:
        handed_up = result.packet[6:12] == TOKEN
        assert handed_up or result.packet == frame, frame.hex(" ")
    if result.verdict in {Verdict.TX, Verdict.REDIRECT} and summed(frame) == frame:
        assert summed(result.packet) == result.packet, frame.hex(" ")


def test_damaged_packets_do_no_damage(balancer: Balancer) -> None:
    """Whatever bytes change in a packet: if it is not ours it passes unchanged, and right sums stay right."""
    chance = random.Random(20)  # noqa: S311  the same packets each time
    fates = Counter[tuple[bool, Verdict]]()
    for _ in range(ROUNDS):
        frame = _mutated(chance.choice(FRAMES), chance)
        if _is_whole(frame) and chance.random() < 0.7:
            frame = summed(frame)
        result = balancer.run(frame)
        _check(frame, result)
        fates[_concerns_us(frame), result.verdict] += 1
    ours = {verdict: fates[True, verdict] for verdict in Verdict}
    assert ours.pop(Verdict.ABORTED) == 0
    # Otherwise these packets would prove little.
    assert min(fates[False, Verdict.PASS], *ours.values()) > ROUNDS / 100


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
    before: bytes,
    clock: int,
    payload: bytes,
    number: int,
    port: int,
    ip_words: int,
    ttl: int,
) -> None:
    """Whatever else is in a packet, and wherever its timestamps stand, its new checksums are right."""
    connection = Connection(client=End(FAR_CLIENT, port))
    echo = connection.stamped(clock, FIRST, mark=1)
    fields = Fields(payload=payload, seq=number, ack=number ^ clock, ttl=ttl, tos=ttl)
    packets = (
        connection.request("PA", before + timestamp(number, echo), **fields),
        connection.reply(FIRST, "PA", before + timestamp(clock, number), **fields),
    )
    for packet in packets:
        with_options = with_ip_options(packet, (b"\x94\x04\0\0" + NOP * 36)[: 4 * ip_words])
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
