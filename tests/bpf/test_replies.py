# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from poise.servers.model import Server
from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, drops, hands_up, laws, passes, redirects, sends_back
from tests.bpf.connection import Connection
from tests.bpf.headers import ETHERNET, Macs, patched
from tests.bpf.network import (
    BLACKHOLED_CLIENT,
    CLIENT,
    DIRECT_CLIENT,
    FAR_CLIENT,
    LOOPED_CLIENT,
    NARROW_CLIENT,
    NARROW_MTU,
    OWN_ADDRESS,
    PROHIBITED_CLIENT,
    SILENT_CLIENT,
    TO_CLIENT,
    TO_GATEWAY,
    TO_LOOPED_CLIENT,
    UNREACHABLE_CLIENT,
    UNROUTED_CLIENT,
)
from tests.bpf.packets import End, summed, usual
from tests.bpf.services import (
    CLOSING,
    CLOSING_SERVER,
    CUT,
    DRAINED,
    FIRST,
    HASHED,
    HASHED_SERVERS,
    LAST,
    LOOPED,
    REMOVED,
    SECOND,
    WEB,
    WITHOUT_HOP,
)

pytestmark = pytest.mark.root

CONNECTION = Connection()
CLOCK = 0x3456789A
PAGE = b"HTTP/1.1 200 OK\r\n\r\n"


def _of(client: IPv4Address) -> Connection:
    return Connection(client=End(client, 40000))


def _data(connection: Connection, server: Server = FIRST, size: int = len(PAGE), flags: str = "PA") -> bytes:
    return connection.reply(server, flags, usual(CLOCK, 77), payload=(PAGE * 80)[:size])


def _out(connection: Connection, packet: bytes, server: Server = FIRST, macs: Macs = TO_CLIENT) -> bytes:
    return connection.at_client(packet, (CLOCK, connection.stamped(CLOCK, server, mark=1)), macs)


def _stamped(law: str, server: Server, connection: Connection = CONNECTION, flags: str = "PA") -> Case:
    packet = _data(connection, server, flags=flags)
    macs = TO_CLIENT if connection.client.address == CLIENT else TO_GATEWAY
    return redirects(law, packet, _out(connection, packet, server, macs))


def _flags() -> Iterator[Case]:
    for flags in ("A", "PA", "FA", "RA", "R", "AE", ""):
        yield _stamped(f"with the flags {flags or '(none)'}", FIRST, flags=flags)


def _sizes() -> Iterator[Case]:
    for size in (0, 1, 2, 3, 1447, 1448):
        packet = _data(CONNECTION, SECOND, size)
        yield redirects(f"with {size} bytes", packet, _out(CONNECTION, packet, SECOND))


@laws(
    _stamped("of the first server", FIRST),
    _stamped("of the second, which has another port", SECOND),
    _stamped("of a server with the highest id and port", LAST),
    _stamped("of a drained server", DRAINED),
    _stamped("of a removed one", REMOVED),
    _stamped("of one to which there is no hop", WITHOUT_HOP),
    _stamped("of the only server of another VIP, on the VIP's port", CLOSING_SERVER, Connection(CLOSING)),
    _stamped("to another port", FIRST, Connection(client=End(CLIENT, 1))),
    _stamped("to a client behind a gateway", FIRST, _of(FAR_CLIENT)),
    _flags(),
    _sizes(),
)
def test_sends_replies_in_the_vips_name_with_the_cookie(balancer: Balancer, case: Case) -> None:
    """A client sees the VIP, the upper 22 bits of the server's clock, mark 1 and the cookie."""
    assert case.run(balancer) == case.outcome


def _without_timestamps() -> Iterator[Case]:
    for flags in ("A", "PA", "R", "RA", "SA"):
        packet = CONNECTION.reply(FIRST, flags, seq=9, ack=8, payload=b"page")
        yield redirects(flags, packet, CONNECTION.at_client(packet))
    connection = Connection(HASHED)
    for flags in ("A", "SA"):
        packet = connection.reply(HASHED_SERVERS[1], flags, usual(CLOCK, 77))
        yield redirects(f"{flags} of a server of a hashed VIP", packet, connection.at_client(packet))


@laws(_without_timestamps())
def test_sends_replies_without_timestamps_in_the_vips_name(balancer: Balancer, case: Case) -> None:
    """Where there is no timestamp, or the VIP has no cookie, only the source is replaced."""
    assert case.run(balancer) == case.outcome


def _one_arm() -> Iterator[Case]:
    connection = _of(LOOPED_CLIENT)
    packet = _data(connection, LOOPED)
    yield sends_back(
        "the client is on the link of the server", packet, _out(connection, packet, LOOPED, TO_LOOPED_CLIENT)
    )
    packet = _data(CONNECTION, LOOPED)
    yield redirects("the client is not", packet, _out(CONNECTION, packet, LOOPED))


@laws(_one_arm())
def test_sends_replies_back_where_client_and_server_are_on_one_link(balancer: Balancer, case: Case) -> None:
    """With one arm, a reply leaves by the interface on which it came."""
    assert case.run(balancer) == case.outcome


def _not_for_clients() -> Iterator[Case]:
    for name, flags in (("data", "PA"), ("a SYN-ACK", "SA"), ("a reset", "R")):
        yield passes(
            f"{name} for the balancer itself", _data(_of(OWN_ADDRESS), flags=flags), "pass_own_address"
        )
        yield passes(f"{name} for a direct prefix", _data(_of(DIRECT_CLIENT), flags=flags), "pass_direct")
    yield passes("a connection that the server opens", _data(CONNECTION, flags="S"), "pass_server_connects")
    yield passes(
        "a connection that the server opens to a direct prefix",
        _data(_of(DIRECT_CLIENT), flags="S"),
        "pass_server_connects",
    )
    yield passes("data of a cut server for a direct prefix", _data(_of(DIRECT_CLIENT), CUT), "pass_direct")
    yield passes("data of a cut server for the balancer", _data(_of(OWN_ADDRESS), CUT), "pass_own_address")


@laws(_not_for_clients())
def test_leaves_to_the_kernel_what_a_server_sends_others(balancer: Balancer, case: Case) -> None:
    """What a server says to the balancer, to a direct prefix or on its own account passes unchanged."""
    assert case.run(balancer) == case.outcome


@laws(
    drops("data", _data(CONNECTION, CUT), "drop_reply_of_cut_server"),
    drops("a SYN-ACK", CONNECTION.syn_ack(CUT, CLOCK), "drop_reply_of_cut_server"),
    drops("a reset", CONNECTION.reply(CUT, "R"), "drop_reply_of_cut_server"),
    drops(
        "data for a client without a route", _data(_of(UNREACHABLE_CLIENT), CUT), "drop_reply_of_cut_server"
    ),
)
def test_discards_what_a_cut_server_sends(balancer: Balancer, case: Case) -> None:
    """A server that is cut is not heard any more."""
    assert case.run(balancer) == case.outcome


@laws(
    passes("unreachable", _data(_of(UNREACHABLE_CLIENT)), "pass_no_route"),
    passes("blackhole", _data(_of(BLACKHOLED_CLIENT)), "pass_no_route"),
    passes("prohibit", _data(_of(PROHIBITED_CLIENT)), "pass_no_route"),
)
def test_leaves_replies_without_a_route_to_the_kernel(balancer: Balancer, case: Case) -> None:
    """Where a route refuses the client, the kernel may tell the server so."""
    assert case.run(balancer) == case.outcome


def test_leaves_replies_that_no_route_matches_to_the_kernel(balancer: Balancer) -> None:
    """Without any route to the client too; bpf_fib_lookup() cannot tell that from an address of our own."""
    packet = _data(_of(UNROUTED_CLIENT))
    case = passes("", packet, "")
    outcome = case.run(balancer)
    assert (outcome.verdict, outcome.packet) == (case.outcome.verdict, case.outcome.packet)


def _too_big() -> Iterator[Case]:
    connection = _of(NARROW_CLIENT)
    for fragmentable in (False, True):
        for total in (NARROW_MTU, NARROW_MTU + 1, 1500):
            packet = connection.reply(
                FIRST, "A", usual(CLOCK, 77), payload=b"x" * (total - 52), dont_fragment=not fragmentable
            )
            law = f"{total} bytes that may {'' if fragmentable else 'not '}be fragmented"
            if total <= NARROW_MTU:
                yield redirects(law, packet, _out(connection, packet, macs=TO_GATEWAY))
            elif fragmentable:
                yield drops(law, packet, "drop_reply_too_big")
            else:
                yield passes(law, packet, "pass_reply_too_big")


@laws(_too_big())
def test_lets_the_kernel_say_that_a_reply_is_too_big(balancer: Balancer, case: Case) -> None:
    """The server learns of a narrower link from the kernel's ICMP; unasked, poise fragments nothing."""
    assert case.run(balancer) == case.outcome


def _unresolved() -> Iterator[Case]:
    connection = _of(SILENT_CLIENT)
    for name, packet, mark in (
        ("data", _data(connection), 1),
        ("a SYN-ACK", connection.syn_ack(FIRST, CLOCK), 0),
    ):
        events = ("neighbour_unresolved",) if mark else ("neighbour_unresolved", "synack_unexpected")
        stamped = connection.stamped(CLOCK, FIRST, mark=mark)
        same_target = Macs(packet[:6], bytes(6))
        out = connection.at_client(packet, (CLOCK, stamped), same_target)
        yield hands_up(name, packet, out, *events)


@laws(_unresolved())
def test_hands_up_the_first_reply_to_a_neighbour(balancer: Balancer, case: Case) -> None:
    """A packet that is complete but for the client's MAC address goes to the slow path."""
    assert case.run(balancer) == case.outcome


def _ttls() -> Iterator[Case]:
    whole = _data(CONNECTION)
    for ttl in (0, 1):
        packet = summed(patched(whole, {ETHERNET + 8: bytes([ttl])}))
        yield passes(f"a TTL of {ttl} is for the kernel to answer", packet, "pass_reply_ttl_expired")
    for ttl in (2, 3, 64, 255):
        packet = summed(patched(whole, {ETHERNET + 8: bytes([ttl])}))
        yield redirects(f"a TTL of {ttl} arrives with one less", packet, _out(CONNECTION, packet))


@laws(_ttls())
def test_counts_as_a_hop_towards_clients(balancer: Balancer, case: Case) -> None:
    """A reply that goes round in circles ends."""
    assert case.run(balancer) == case.outcome


def _of_marks() -> Iterator[Case]:
    for clock in (0, 1, 0x3FF, 0x400, 0x7FFFFFFF, 0x80000000, 0xFFFFFC00, 0xFFFFFFFF):
        packet = CONNECTION.reply(FIRST, "A", usual(clock, 77))
        out = CONNECTION.at_client(packet, (clock, CONNECTION.stamped(clock, FIRST, mark=1)))
        yield redirects(f"at {clock:#x}", packet, out)


@laws(_of_marks())
def test_keeps_the_upper_bits_of_every_clock(balancer: Balancer, case: Case) -> None:
    """The client's PAWS check sees the server's own clock, in steps of 1,024 ticks."""
    assert case.run(balancer) == case.outcome


def test_every_server_of_every_vip_answers_in_its_name(balancer: Balancer) -> None:
    """A server's packets come from its own VIP and no other."""
    for vip in (WEB, HASHED, CLOSING):
        connection = Connection(vip)
        for server in vip.servers:
            result = balancer.run(_data(connection, server))
            if server != CUT:
                assert result.packet[26:30] == vip.address.packed
