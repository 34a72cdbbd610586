# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, drops, hands_up, laws, sends_back
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import Macs
from tests.bpf.network import CLIENT_MAC, CLIENTS_MAC
from tests.bpf.packets import segment, timestamp, usual, with_ip_options
from tests.bpf.services import CLOSING, CUT, EMPTY, EMPTY_HASHED, WEB, end_of

pytestmark = pytest.mark.root

CLOCK = 0x3456789A


def _reset(connection: Connection, *, seq: int | None = None, ack: int | None = None) -> bytes:
    """A reset from the VIP: with ACK if it acknowledges something, else with a sequence number of its own."""
    return segment(
        Macs(CLIENT_MAC, CLIENTS_MAC),
        end_of(connection.vip),
        connection.client,
        "R" if ack is None else "RA",
        seq=seq or 0,
        ack=ack or 0,
        window=0,
        ttl=64,
        identification=0,
        dont_fragment=True,
    )


def _of_syns(connection: Connection, name: str) -> Iterator[Case]:
    answer = _reset(connection, ack=CLIENT_ISN + 1)
    for more, options in (
        ("", usual(1, 0)),
        (" without timestamps", b""),
        (" with odd ones", timestamp(1, 0)),
    ):
        packet = connection.syn(options)
        events = ("reset_no_server",) if options else ("reset_no_server", "syn_without_timestamp")
        yield sends_back(f"a SYN{more} for {name}", packet, answer, *events)
    packet = with_ip_options(connection.syn(), b"\x94\x04\0\0")
    yield sends_back(f"a SYN with IP options for {name}", packet, answer, "reset_no_server")
    packet = connection.syn(payload=b"fast open")
    answer = _reset(connection, ack=CLIENT_ISN + 1 + 9)
    yield sends_back(f"a SYN with nine bytes for {name}", packet, answer, "reset_no_server")
    packet = connection.request("SF", usual(1, 0), seq=0xFFFFFFFF)
    answer = _reset(connection, ack=1)
    yield sends_back(
        f"a SYN with FIN, at the end of the sequence space, for {name}", packet, answer, "reset_no_server"
    )
    packet = connection.syn().ljust(200, b"\xee")
    answer = _reset(connection, ack=CLIENT_ISN + 1)
    yield sends_back(f"a SYN with Ethernet padding for {name}", packet, answer, "reset_no_server")


def _of_others_at_empty_vips() -> Iterator[Case]:
    connection = Connection(EMPTY)
    for flags in ("A", "PA", "FA", "PAU"):
        packet = connection.request(flags, seq=5, ack=0xDEADBEEF, payload=b"x" * 700)
        answer = _reset(connection, seq=0xDEADBEEF)
        yield sends_back(
            f"{flags} without timestamps for a VIP without servers",
            packet,
            answer,
            *("reset_no_server", "no_timestamp_hashed"),
        )
    for flags, length in (("P", 7), ("F", 8), ("FP", 8)):
        packet = connection.request(flags, seq=5, ack=0xDEADBEEF, payload=b"7 bytes")
        answer = _reset(connection, ack=5 + length)
        yield sends_back(
            f"{flags} without ACK for a VIP without servers",
            packet,
            answer,
            *("reset_no_server", "no_timestamp_hashed"),
        )
    connection = Connection(EMPTY_HASHED)
    packet = connection.request("PA", usual(1, 2), seq=5, ack=0xDEADBEEF, payload=b"x" * 700)
    answer = _reset(connection, seq=0xDEADBEEF)
    yield sends_back("data for a hashed VIP without servers", packet, answer, "reset_no_server")


@laws(
    _of_syns(Connection(EMPTY), "a VIP without servers"),
    _of_syns(Connection(EMPTY_HASHED), "a hashed VIP without servers"),
    _of_syns(Connection(CLOSING), "a VIP whose servers all drain"),
    _of_others_at_empty_vips(),
)
def test_refuses_as_a_closed_port_does(balancer: Balancer, case: Case) -> None:
    """Where no server takes connections, the client hears so at once: RFC 9293, section 3.10.7.1."""
    assert case.run(balancer) == case.outcome


def _of_cut_servers() -> Iterator[Case]:
    connection = Connection(WEB)
    for mark in (0, 1):
        unknown = () if mark else ("handshake_unknown",)
        for flags in ("A", "PA", "FA"):
            echo = connection.stamped(CLOCK, CUT, mark=mark)
            packet = connection.request(flags, usual(77, echo), seq=5, ack=0x01020304, payload=b"x" * 5)
            answer = _reset(connection, seq=0x01020304)
            yield sends_back(f"{flags} with mark {mark}", packet, answer, "reset_of_cut_server", *unknown)
    echo = connection.stamped(CLOCK, CUT, mark=1)
    packet = connection.request("PA", usual(77, echo), seq=5, ack=0, payload=b"x" * 1400)
    yield sends_back("with 1,400 bytes", packet, _reset(connection, seq=0), "reset_of_cut_server")
    packet = with_ip_options(packet, b"\1" * 40)
    yield sends_back("with IP options", packet, _reset(connection, seq=0), "reset_of_cut_server")
    packet = connection.request("A", timestamp(77, echo), seq=5, ack=6).ljust(100, b"\xee")
    yield sends_back("with Ethernet padding", packet, _reset(connection, seq=6), "reset_of_cut_server")


@laws(_of_cut_servers())
def test_resets_connections_of_a_cut_server(balancer: Balancer, case: Case) -> None:
    """The client of a server that is cut hears so at once, with the sequence number that it expects."""
    assert case.run(balancer) == case.outcome


def _of_resets() -> Iterator[Case]:
    empty, web = Connection(EMPTY), Connection(WEB)
    hashed = Connection(EMPTY_HASHED)
    yield drops(
        "a SYN with RST for a VIP without servers", empty.request("SR", usual(1, 0)), "reset_no_server"
    )
    yield drops("a reset for a hashed VIP without servers", hashed.request("R"), "reset_no_server")
    yield drops("a reset with ACK for it", hashed.request("RA", usual(1, 2)), "reset_no_server")
    echo = web.stamped(CLOCK, CUT, mark=1)
    yield drops("a reset for a cut server", web.request("RA", usual(77, echo)), "reset_of_cut_server")
    echo = web.stamped(CLOCK, CUT, mark=0)
    yield drops(
        "a reset for a cut server, in the handshake",
        web.request("RA", usual(77, echo)),
        *("reset_of_cut_server", "handshake_unknown"),
    )


@laws(_of_resets())
def test_never_answers_a_reset(balancer: Balancer, case: Case) -> None:
    """Two that answer each other's resets would never stop."""
    assert case.run(balancer) == case.outcome


def _forgotten() -> Iterator[Case]:
    for vip, name in (
        (WEB, "a VIP"),
        (EMPTY, "a VIP without servers"),
        (CLOSING, "a VIP whose servers drain"),
    ):
        connection = Connection(vip)
        for flags in ("R", "RA"):
            packet = connection.request(flags, seq=CLIENT_ISN + 1)
            yield hands_up(f"{flags} without timestamps for {name}", packet, packet, "reset_to_all")
        packet = connection.request("R", usual(1, 2), seq=CLIENT_ISN + 1)
        law = f"R for {name}, with an echo that does not count without ACK"
        yield hands_up(law, packet, packet, "reset_to_all")


@laws(_forgotten())
def test_hands_up_a_reset_whose_connection_is_forgotten(balancer: Balancer, case: Case) -> None:
    """Whose connection it ends is for the servers to know: the slow path will ask them all."""
    assert case.run(balancer) == case.outcome
