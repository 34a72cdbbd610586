# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from poise.servers.model import Server
from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, drops, hands_up, laws, passes, redirects, sends_back
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import Macs
from tests.bpf.network import (
    BLACKHOLED_CLIENT6,
    CLIENT6,
    CLIENT_MAC,
    CLIENTS_MAC,
    DIRECT_CLIENT6,
    FAR_CLIENT6,
    LOOPED_CLIENT6,
    NARROW_CLIENT6,
    NARROW_MTU6,
    OWN_ADDRESS6,
    SILENT_CLIENT6,
    TO_CLIENT,
    TO_GATEWAY,
    TO_LOOPED_CLIENT,
    UNREACHABLE_CLIENT6,
)
from tests.bpf.packets import NOP, WINDOW_SCALE, End, Fields, segment, timestamp, usual
from tests.bpf.services import (
    CUT6,
    DRAINED6,
    EMPTY6,
    FIRST6,
    HASHED6,
    LAST6,
    LOOPED6,
    NO_SERVER_ID,
    REMOVED6,
    SECOND6,
    WEB6,
    WITHOUT_HOP6,
    end_of,
)

pytestmark = pytest.mark.root

CLOCK = 0x3456789A
STRIPPED = CLOCK | 0x3FF
PAGE = b"HTTP/1.1 200 OK\r\n\r\n"


def _of(address: IPv6Address, port: int = 40000) -> Connection:
    return Connection(WEB6, End(address, port))


CONNECTION = _of(CLIENT6)
OTHER = _of(CLIENT6, 40001)
SYN = CONNECTION.syn()


def _followed(law: str, server: Server, connection: Connection = CONNECTION, payload: bytes = PAGE) -> Case:
    echo = connection.stamped(CLOCK, server, mark=1)
    packet = connection.request("PA", usual(77, echo), payload=payload)
    return redirects(law, packet, connection.at_server(packet, server, (echo, STRIPPED)))


def _options() -> Iterator[Case]:
    echo = CONNECTION.stamped(CLOCK, SECOND6, mark=1)
    for name, before in (("odd", WINDOW_SCALE), ("last", NOP * 30), ("first", b"")):
        packet = CONNECTION.request("A", before + timestamp(77, echo), payload=b"odd")
        out = CONNECTION.at_server(packet, SECOND6, (echo, STRIPPED))
        yield redirects(f"its timestamps at the {name} place", packet, out)


@laws(
    _followed("to the first server", FIRST6),
    _followed("to the second, which has another port", SECOND6),
    _followed("to a drained one", DRAINED6),
    _followed("to a removed one", REMOVED6),
    _followed("to the one with the highest id and port", LAST6),
    _followed("from far away", SECOND6, _of(FAR_CLIENT6, 1)),
    (_followed(f"with {size} bytes", FIRST6, payload=b"\xa5" * size) for size in (0, 1, 2, 3, 1428)),
    _options(),
)
def test_follows_the_cookie(balancer: Balancer, case: Case) -> None:
    """What a client of IPv6 sends goes to the server that the echo names."""
    assert case.run(balancer) == case.outcome


def _handshakes() -> Iterator[Case]:
    yield redirects("a SYN takes the first turn", SYN, CONNECTION.at_server(SYN, FIRST6))
    yield redirects("another the next", SYN, CONNECTION.at_server(SYN, SECOND6), before=(OTHER.syn(),))
    yield redirects(
        "a SYN that is sent again goes where the first one went",
        SYN,
        CONNECTION.at_server(SYN, FIRST6),
        "syn_retransmitted",
        before=(SYN, OTHER.syn()),
    )
    answer = CONNECTION.syn_ack(FIRST6, CLOCK)
    echo = CONNECTION.stamped(CLOCK, FIRST6, mark=0)
    yield redirects(
        "a SYN-ACK gets mark 0", answer, CONNECTION.at_client(answer, (CLOCK, echo)), before=(SYN,)
    )
    out = CONNECTION.at_client(answer, (CLOCK, echo))
    yield redirects("so does one whose SYN is forgotten", answer, out, "synack_unexpected")
    ack = CONNECTION.request("A", usual(78, echo), seq=CLIENT_ISN + 1, ack=1)
    yield redirects(
        "its echo is restored to the bit",
        ack,
        CONNECTION.at_server(ack, FIRST6, (echo, CLOCK)),
        before=(SYN, answer),
    )
    out = CONNECTION.at_server(ack, FIRST6, (echo, STRIPPED))
    yield redirects("one that is forgotten finds its server", ack, out, "handshake_unknown")
    plain = CONNECTION.syn(b"")
    by_hash = CONNECTION.pick((FIRST6, SECOND6))
    yield redirects(
        "a SYN without timestamps is placed by hash",
        plain,
        CONNECTION.at_server(plain, by_hash),
        "syn_without_timestamp",
    )


@laws(_handshakes())
def test_carries_handshakes(balancer: Balancer, case: Case) -> None:
    """A handshake of IPv6 is placed, answered and restored as one of IPv4."""
    assert case.run(balancer) == case.outcome


def _data(connection: Connection, server: Server = FIRST6, size: int = len(PAGE), flags: str = "PA") -> bytes:
    return connection.reply(server, flags, usual(CLOCK, 77), payload=(PAGE * 80)[:size])


def _stamped(law: str, server: Server, connection: Connection = CONNECTION, macs: Macs = TO_CLIENT) -> Case:
    packet = _data(connection, server)
    stamped = connection.stamped(CLOCK, server, mark=1)
    return redirects(law, packet, connection.at_client(packet, (CLOCK, stamped), macs))


@laws(
    _stamped("of the first server", FIRST6),
    _stamped("of the second", SECOND6),
    _stamped("of a removed one", REMOVED6),
    _stamped("of one to which there is no hop", WITHOUT_HOP6),
    _stamped("of the one with the highest id and port", LAST6),
    _stamped("to a client behind a gateway", FIRST6, _of(FAR_CLIENT6), TO_GATEWAY),
    redirects(
        "without timestamps",
        CONNECTION.reply(FIRST6, "R"),
        CONNECTION.at_client(CONNECTION.reply(FIRST6, "R")),
    ),
)
def test_sends_replies_in_the_vips_name_with_the_cookie(balancer: Balancer, case: Case) -> None:
    """A client of IPv6 sees the VIP, the server's clock, mark 1 and the cookie."""
    assert case.run(balancer) == case.outcome


def _one_arm() -> Iterator[Case]:
    connection = _of(LOOPED_CLIENT6)
    packet = _data(connection, LOOPED6)
    stamped = connection.stamped(CLOCK, LOOPED6, mark=1)
    out = connection.at_client(packet, (CLOCK, stamped), TO_LOOPED_CLIENT)
    yield sends_back("a reply", packet, out)
    echo = CONNECTION.stamped(CLOCK, LOOPED6, mark=1)
    packet = CONNECTION.request("A", usual(77, echo))
    yield sends_back("a request", packet, CONNECTION.at_server(packet, LOOPED6, (echo, STRIPPED)))


@laws(_one_arm())
def test_sends_back_on_one_link(balancer: Balancer, case: Case) -> None:
    """With one arm, a packet of IPv6 leaves by the interface on which it came."""
    assert case.run(balancer) == case.outcome


def _ttls() -> Iterator[Case]:
    echo = CONNECTION.stamped(CLOCK, FIRST6, mark=1)
    for hops in (0, 1):
        packet = CONNECTION.request("A", usual(77, echo), ttl=hops)
        yield drops(f"a request with {hops} hops left", packet, "drop_ttl_expired")
        packet = CONNECTION.reply(FIRST6, "A", usual(CLOCK, 77), ttl=hops)
        yield passes(f"a reply with {hops} hops left", packet, "pass_reply_ttl_expired")
    packet = CONNECTION.request("A", usual(77, echo), ttl=2)
    out = CONNECTION.at_server(packet, FIRST6, (echo, STRIPPED))
    yield redirects("a request with two", packet, out)


@laws(_ttls())
def test_counts_as_a_hop(balancer: Balancer, case: Case) -> None:
    """A packet of IPv6 that goes round in circles ends."""
    assert case.run(balancer) == case.outcome


def _too_big() -> Iterator[Case]:
    connection = _of(NARROW_CLIENT6)
    for total in (NARROW_MTU6, NARROW_MTU6 + 1):
        packet = _data(connection, size=total - 72)
        if total == NARROW_MTU6:
            stamped = connection.stamped(CLOCK, FIRST6, mark=1)
            out = connection.at_client(packet, (CLOCK, stamped), TO_GATEWAY)
            yield redirects("that just fits", packet, out)
        else:
            yield passes("that does not", packet, "pass_reply_too_big")


@laws(
    passes("for the balancer itself", _data(_of(OWN_ADDRESS6)), "pass_own_address"),
    passes("for a direct prefix", _data(_of(DIRECT_CLIENT6)), "pass_direct"),
    passes("a connection that the server opens", _data(CONNECTION, flags="S"), "pass_server_connects"),
    passes("for nowhere", _data(_of(UNREACHABLE_CLIENT6)), "pass_no_route"),
    passes("into a black hole", _data(_of(BLACKHOLED_CLIENT6)), "pass_no_route"),
    drops("of a cut server", _data(CONNECTION, CUT6), "drop_reply_of_cut_server"),
    _too_big(),
)
def test_replies_that_are_not_forwarded(balancer: Balancer, case: Case) -> None:
    """What a server of IPv6 sends others is left to the kernel, and so is telling it about its packets."""
    assert case.run(balancer) == case.outcome


def _unresolved() -> Iterator[Case]:
    connection = _of(SILENT_CLIENT6)
    packet = _data(connection)
    stamped = connection.stamped(CLOCK, FIRST6, mark=1)
    out = connection.at_client(packet, (CLOCK, stamped), Macs(packet[:6], bytes(6)))
    yield hands_up("a reply to a client whose MAC is unknown", packet, out, "neighbour_unresolved")
    packet = CONNECTION.request("R", seq=CLIENT_ISN)
    yield hands_up("a reset of a forgotten connection", packet, packet, "reset_to_all")


@laws(_unresolved())
def test_hands_up_what_it_cannot_finish(balancer: Balancer, case: Case) -> None:
    """The slow path gets what takes several packets or a neighbour that is not known."""
    assert case.run(balancer) == case.outcome


def _reset(connection: Connection, *, seq: int | None = None, ack: int | None = None) -> bytes:
    macs, source = Macs(CLIENT_MAC, CLIENTS_MAC), end_of(connection.vip)
    flags = "R" if ack is None else "RA"
    fields = Fields(seq=seq or 0, ack=ack or 0, window=0, ttl=64, identification=0)
    return segment(macs, source, connection.client, flags, **fields)


def _resets() -> Iterator[Case]:
    empty = Connection(EMPTY6, CONNECTION.client)
    answer = _reset(empty, ack=CLIENT_ISN + 1)
    yield sends_back("a SYN for a VIP without servers", empty.syn(), answer, "reset_no_server")
    padded = empty.syn().ljust(200, b"\xee")
    yield sends_back("one with Ethernet padding", padded, answer, "reset_no_server")
    packet = empty.request("PA", seq=5, ack=0xDEADBEEF, payload=PAGE * 40)
    answer = _reset(empty, seq=0xDEADBEEF)
    yield sends_back(
        "data for a VIP without servers", packet, answer, "reset_no_server", "no_timestamp_hashed"
    )
    echo = CONNECTION.stamped(CLOCK, CUT6, mark=1)
    packet = CONNECTION.request("PA", usual(77, echo), seq=5, ack=9, payload=PAGE)
    yield sends_back("data for a cut server", packet, _reset(CONNECTION, seq=9), "reset_of_cut_server")
    packet = CONNECTION.request("RA", usual(77, echo), seq=5, ack=9)
    yield drops("a reset for a cut server is not answered", packet, "reset_of_cut_server")
    for name, server, event in (
        ("an id that no server has", NO_SERVER_ID, "drop_unknown_server"),
        ("a server to which there is no hop", WITHOUT_HOP6, "drop_server_unreachable"),
    ):
        packet = CONNECTION.request("A", usual(77, CONNECTION.stamped(CLOCK, server, mark=1)))
        yield drops(f"data for {name}", packet, event)


@laws(_resets())
def test_refuses_and_resets(balancer: Balancer, case: Case) -> None:
    """A client of IPv6 hears at once that nobody is there."""
    assert case.run(balancer) == case.outcome


def _hashed() -> Iterator[Case]:
    for address, macs in ((CLIENT6, TO_CLIENT), (FAR_CLIENT6, TO_GATEWAY)):
        for port in (1, 4000, 40001, 65535):
            connection = Connection(HASHED6, End(address, port))
            server = connection.pick(HASHED6.servers)
            packet = connection.request("PA", usual(1, 2), payload=PAGE)
            name = f"of [{address}]:{port}"
            yield redirects(f"a request {name}", packet, connection.at_server(packet, server))
            packet = connection.reply(server, "PA", usual(CLOCK, 1), payload=PAGE)
            yield redirects(f"a reply {name}", packet, connection.at_client(packet, macs=macs))


@laws(_hashed())
def test_places_by_hash(balancer: Balancer, case: Case) -> None:
    """Where there are no cookies, the hash of a flow of IPv6 decides, as cookie.py works it out."""
    assert case.run(balancer) == case.outcome
