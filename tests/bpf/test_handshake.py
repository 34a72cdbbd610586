# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from poise.servers.model import Server
from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, laws, redirects
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.network import CLIENT
from tests.bpf.packets import End, usual
from tests.bpf.services import CLOSING, DRAINED, FIRST, LAST, REMOVED, SECOND, WEB

pytestmark = pytest.mark.root

CONNECTION = Connection()
OTHER = Connection(client=End(CLIENT, 40001))
SYN = CONNECTION.syn()
NEXT_SYN = CONNECTION.syn(isn=CLIENT_ISN + 100_000)
BY_HASH = CONNECTION.pick((FIRST, SECOND))
NOT_BY_HASH = SECOND if BY_HASH == FIRST else FIRST
# With this many SYNs of others before it, the SYN meets the turn of the server that the hash does not pick.
OTHERS = (OTHER.syn(),) * (1 if NOT_BY_HASH == SECOND else 0)

# A server's clock while it repeats its SYN-ACK; with SYN cookies, the low six bits hold options.
FIRST_CLOCK = 0x7A00_0C15
MIDDLE_CLOCK = 0x7A00_1D15
LAST_CLOCK = 0x7A00_3E15


def _placed(law: str, packet: bytes, server: Server, *events: str, before: tuple[bytes, ...]) -> Case:
    return redirects(law, packet, CONNECTION.at_server(packet, server), *events, before=before)


@laws(
    _placed("the first connection goes to the first server", SYN, FIRST, before=()),
    _placed("the second to the second", SYN, SECOND, before=(OTHER.syn(),)),
    _placed(
        "the third to the first again: none that is drained, removed, cut or unreachable has a turn",
        SYN,
        FIRST,
        before=(OTHER.syn(), Connection(client=End(CLIENT, 40002)).syn()),
    ),
    _placed(
        "a SYN that is sent again goes where the first one went, whosever turn it is",
        SYN,
        FIRST,
        "syn_retransmitted",
        before=(SYN, OTHER.syn()),
    ),
    _placed(
        "so does one that is sent again with a later clock, and after its SYN-ACK",
        CONNECTION.syn(usual(2024, 0)),
        FIRST,
        "syn_retransmitted",
        before=(SYN, CONNECTION.syn_ack(FIRST, FIRST_CLOCK), OTHER.syn()),
    ),
    _placed(
        "so does one whose timestamps were dropped",
        CONNECTION.syn(b""),
        FIRST,
        "syn_retransmitted",
        before=(SYN,),
    ),
    _placed("another ISN is another connection, with a turn of its own", NEXT_SYN, SECOND, before=(SYN,)),
    _placed(
        "and it is remembered in place of the first",
        NEXT_SYN,
        SECOND,
        "syn_retransmitted",
        before=(SYN, NEXT_SYN, OTHER.syn()),
    ),
    _placed(
        "a SYN with a payload is placed as any other",
        CONNECTION.syn(payload=b"fast open"),
        FIRST,
        before=(),
    ),
    _placed(
        "a SYN with ECN's flags is placed as any other",
        CONNECTION.request("SEC", usual(1000, 0), seq=CLIENT_ISN),
        FIRST,
        before=(),
    ),
    _placed(
        "a SYN without timestamps is placed by hash, and takes no turn",
        CONNECTION.syn(b""),
        BY_HASH,
        "syn_without_timestamp",
        before=OTHERS,
    ),
    _placed("after which the first server still has the first turn", SYN, FIRST, before=(OTHER.syn(b""),)),
)
def test_places_connections_in_turn(balancer: Balancer, case: Case) -> None:
    """Servers take turns; a SYN that is only repeated takes none."""
    assert case.run(balancer) == case.outcome


def _unavailable() -> Iterator[Case]:
    for name, server in (("drained", DRAINED), ("removed", REMOVED), ("drained, the last id,", LAST)):
        # That this server had the SYN once is told by its SYN-ACK.
        before = (CONNECTION.syn_ack(server, FIRST_CLOCK),)
        law = f"the SYN of a connection on a server that was {name} since"
        yield _placed(law, SYN, FIRST, before=before)
        law = f"sent again, the SYN of a connection that was on a server that was {name} since"
        yield _placed(law, SYN, FIRST, "syn_retransmitted", before=(*before, SYN, OTHER.syn()))


@laws(_unavailable())
def test_places_a_repeated_syn_anew_if_its_server_takes_none(balancer: Balancer, case: Case) -> None:
    """A client whose server is drained before it answers gets another one, and stays there."""
    assert case.run(balancer) == case.outcome


def _answers() -> Iterator[Case]:
    stamped = CONNECTION.stamped(FIRST_CLOCK, FIRST, mark=0)
    packet = CONNECTION.syn_ack(FIRST, FIRST_CLOCK)
    out = CONNECTION.at_client(packet, (FIRST_CLOCK, stamped))
    yield redirects("of a SYN that is remembered", packet, out, before=(SYN,))
    yield redirects("of a SYN that is forgotten", packet, out, "synack_unexpected")
    for more, unexpected in ((-1, True), (0, False), (65535, False), (65536, True)):
        answer = CONNECTION.syn_ack(FIRST, FIRST_CLOCK, isn=CLIENT_ISN + more)
        law = f"that acknowledges {more} bytes more than the SYN"
        events = ("synack_unexpected",) if unexpected else ()
        answered = CONNECTION.at_client(answer, (FIRST_CLOCK, stamped))
        yield redirects(law, answer, answered, *events, before=(SYN,))
    yield redirects("of an earlier SYN", packet, out, "synack_unexpected", before=(NEXT_SYN,))
    yield redirects("of another server", packet, out, "synack_unexpected", before=(OTHER.syn(), SYN))
    for clock in (FIRST_CLOCK, LAST_CLOCK, 0, 0x3FF, 0x400, 0xFFFFFFFF):
        packet = CONNECTION.syn_ack(FIRST, clock)
        out = CONNECTION.at_client(packet, (clock, CONNECTION.stamped(clock, FIRST, mark=0)))
        before = (SYN, CONNECTION.syn_ack(FIRST, FIRST_CLOCK))
        yield redirects(f"sent again at {clock:#x}", packet, out, before=before)
    packet = CONNECTION.reply(FIRST, "SA", seq=1, ack=CLIENT_ISN + 1)
    yield redirects("without timestamps", packet, CONNECTION.at_client(packet), before=(SYN,))
    connection = Connection(CLOSING)
    server = CLOSING.servers[0]
    packet = connection.syn_ack(server, FIRST_CLOCK)
    out = connection.at_client(packet, (FIRST_CLOCK, connection.stamped(FIRST_CLOCK, server, mark=0)))
    yield redirects("of a server that was drained meanwhile", packet, out, "synack_unexpected")


@laws(_answers())
def test_marks_syn_acks(balancer: Balancer, case: Case) -> None:
    """The client gets a SYN-ACK with the server's upper 22 bits, mark 0 and the cookie."""
    assert case.run(balancer) == case.outcome


def _ack(clock: int, server: Server = FIRST) -> tuple[bytes, int]:
    """The client's answer to the SYN-ACK that left the server at this time, and the echo in it."""
    echo = CONNECTION.stamped(clock, server, mark=0)
    return CONNECTION.request("A", usual(1001, echo), seq=CLIENT_ISN + 1, ack=1), echo


def _restored(law: str, clock: int, seen: int, *clocks: int, before: tuple[bytes, ...] = (SYN,)) -> Case:
    packet, echo = _ack(clock)
    answers = tuple(CONNECTION.syn_ack(FIRST, answer) for answer in clocks)
    return redirects(law, packet, CONNECTION.at_server(packet, FIRST, (echo, seen)), before=before + answers)


def _restored_of_the_second_connection() -> Case:
    packet, echo = _ack(LAST_CLOCK)
    return redirects(
        "that of the second connection with the same ends, at a time between the SYN-ACKs of the first",
        packet,
        CONNECTION.at_server(packet, FIRST, (echo, LAST_CLOCK)),
        before=(
            *(SYN, CONNECTION.syn_ack(FIRST, FIRST_CLOCK), CONNECTION.syn_ack(FIRST, 0x7B00_0000)),
            *(OTHER.syn(), NEXT_SYN, CONNECTION.syn_ack(FIRST, LAST_CLOCK, isn=CLIENT_ISN + 100_000)),
        ),
    )


@laws(
    _restored("the only SYN-ACK", FIRST_CLOCK, FIRST_CLOCK, FIRST_CLOCK),
    _restored("the first of two", FIRST_CLOCK, FIRST_CLOCK, FIRST_CLOCK, LAST_CLOCK),
    _restored("the last of two", LAST_CLOCK, LAST_CLOCK, FIRST_CLOCK, LAST_CLOCK),
    _restored("the first of three", FIRST_CLOCK, FIRST_CLOCK, FIRST_CLOCK, MIDDLE_CLOCK, LAST_CLOCK),
    _restored("the last of three", LAST_CLOCK, LAST_CLOCK, FIRST_CLOCK, MIDDLE_CLOCK, LAST_CLOCK),
    _restored(
        "one in between: later than the first, earlier than the last, with the first's low six bits",
        MIDDLE_CLOCK,
        0x7A00_1FD5,
        *(FIRST_CLOCK, MIDDLE_CLOCK, LAST_CLOCK),
    ),
    _restored(
        "two within one period of 1,024 ticks: the first", 0x7A00_0F00, FIRST_CLOCK, FIRST_CLOCK, 0x7A00_0F00
    ),
    _restored("one with all bits set", 0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF),
    _restored(
        "the first of two between which the clock wrapped", 0xFFFF_FF00, 0xFFFF_FF00, 0xFFFF_FF00, 0x123
    ),
    _restored("the last of two between which the clock wrapped", 0x123, 0x123, 0xFFFF_FF00, 0x123),
    _restored("that of a SYN which was repeated", FIRST_CLOCK, FIRST_CLOCK, FIRST_CLOCK, before=(SYN, SYN)),
    _restored(
        "that of a SYN among others",
        FIRST_CLOCK,
        FIRST_CLOCK,
        FIRST_CLOCK,
        before=(SYN, OTHER.syn(), OTHER.syn()),
    ),
    _restored_of_the_second_connection(),
)
def test_gives_the_server_its_own_timestamp_back(balancer: Balancer, case: Case) -> None:
    """The echo of the first and of the last SYN-ACK is what the server sent, to the bit."""
    assert case.run(balancer) == case.outcome


def _forgotten() -> Iterator[Case]:
    packet, echo = _ack(FIRST_CLOCK)
    out = CONNECTION.at_server(packet, FIRST, (echo, echo | 0x3FF))
    yield redirects("its SYN and SYN-ACK are forgotten", packet, out, "handshake_unknown")
    yield redirects("its SYN-ACK was not seen", packet, out, "handshake_unknown", before=(SYN,))
    packet, echo = _ack(FIRST_CLOCK, DRAINED)
    out = CONNECTION.at_server(packet, DRAINED, (echo, echo | 0x3FF))
    yield redirects("its server takes no new connections", packet, out, "handshake_unknown")
    packet, echo = _ack(FIRST_CLOCK, REMOVED)
    out = CONNECTION.at_server(packet, REMOVED, (echo, FIRST_CLOCK))
    before = (CONNECTION.syn_ack(REMOVED, FIRST_CLOCK),)
    yield redirects("its server is removed, and only the SYN-ACK was seen", packet, out, before=before)


@laws(_forgotten())
def test_finds_the_server_of_a_forgotten_handshake(balancer: Balancer, case: Case) -> None:
    """The cookie alone says where a handshake goes on; what is forgotten is only the exact echo."""
    assert case.run(balancer) == case.outcome


def test_keeps_the_server_of_a_syn_whose_payload_was_taken(balancer: Balancer) -> None:
    """With TCP Fast Open (RFC 7413) a SYN-ACK acknowledges a payload, which a repeated SYN may lack."""
    payload = b"fast open"
    answer = CONNECTION.reply(FIRST, "SA", usual(FIRST_CLOCK, 1000), ack=CLIENT_ISN + 1 + len(payload))
    before = (CONNECTION.syn(payload=payload), answer)
    case = _placed("", CONNECTION.syn(), FIRST, "syn_retransmitted", before=before)
    assert case.run(balancer) == case.outcome


def test_counts_connections_packets_and_bytes_of_a_server(balancer: Balancer) -> None:
    """A connection counts once however often its SYN comes, packets and bytes each time."""
    balancer.start_afresh()
    before = balancer.traffic(WEB.index, FIRST.id)
    ack, _ = _ack(FIRST_CLOCK)
    frames = (
        SYN,
        SYN,
        ack,
        CONNECTION.request("PA", usual(1, CONNECTION.stamped(9, FIRST, mark=1)), payload=b"x" * 9),
    )
    for frame in frames:
        balancer.run(frame)
    after = balancer.traffic(WEB.index, FIRST.id)
    assert {name: after[name] - before[name] for name in after} == {
        "connections": 1,
        "packets": 4,
        "bytes": sum(len(frame) - 14 for frame in frames),
        "repeats": 1,
        "answers": 0,
        "resets": 0,
    }
