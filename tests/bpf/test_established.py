# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from poise.servers.model import Server
from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, drops, laws, redirects, sends_back
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import patched
from tests.bpf.network import CLIENT, FAR_CLIENT, TO_GATEWAY
from tests.bpf.packets import End, summed, usual
from tests.bpf.services import (
    CLOSING,
    CLOSING_SERVER,
    DRAINED,
    FIRST,
    LAST,
    LOOPED,
    NO_SERVER_ID,
    REMOVED,
    SECOND,
    WITH_STALE_HOP,
    WITHOUT_HOP,
)

pytestmark = pytest.mark.root

CONNECTION = Connection()
CLOCK = 0x3456789A
ECHO = CONNECTION.stamped(CLOCK, FIRST, mark=1)
STRIPPED = 0x34567BFF
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
BY_HASH = CONNECTION.pick((FIRST, SECOND))
NOT_BY_HASH = SECOND if BY_HASH == FIRST else FIRST


def _followed(
    law: str, server: Server, flags: str = "PA", payload: bytes = REQUEST, connection: Connection = CONNECTION
) -> Case:
    """The packet goes to the server that its echo names, and the server sees a time that is not past."""
    echo = connection.stamped(CLOCK, server, mark=1)
    packet = connection.request(flags, usual(77, echo), payload=payload)
    return redirects(law, packet, connection.at_server(packet, server, (echo, STRIPPED)))


def _sizes() -> Iterator[Case]:
    for size in (0, 1, 2, 3, 1447, 1448):
        yield _followed(f"with {size} bytes", SECOND, payload=b"\xa5" * size)


def _flags() -> Iterator[Case]:
    for flags in ("A", "FA", "FPA", "PAU", "RA", "AE", "AC", "SA", "SFA"):
        yield _followed(f"with the flags {flags}", SECOND, flags, payload=b"")


@laws(
    _followed("to the first server", FIRST),
    _followed("to the second", SECOND),
    _followed("to the server with the highest id and port", LAST),
    _followed("to a drained server", DRAINED),
    _followed("to a removed one", REMOVED),
    _followed("to one that the kernel could not reach just now", WITH_STALE_HOP),
    _followed(
        "to the only server of another VIP, on the VIP's port", CLOSING_SERVER, connection=Connection(CLOSING)
    ),
    _followed("from another port", SECOND, connection=Connection(client=End(CLIENT, 65535))),
    _followed("from far away", SECOND, connection=Connection(client=End(FAR_CLIENT, 1))),
    _sizes(),
    _flags(),
)
def test_follows_the_cookie(balancer: Balancer, case: Case) -> None:
    """What a client sends goes to the server that the echo names, with nothing but the cookie to tell."""
    assert case.run(balancer) == case.outcome


def _remembered_elsewhere() -> Case:
    packet = CONNECTION.request("A", usual(77, ECHO))
    return redirects(
        "although a SYN of the same ends is remembered with another server",
        packet,
        CONNECTION.at_server(packet, FIRST, (ECHO, STRIPPED)),
        before=(Connection(client=End(CLIENT, 1)).syn(), CONNECTION.syn(isn=1)),
    )


def _echo_of(clock: int) -> Case:
    echo = CONNECTION.stamped(clock, FIRST, mark=1)
    packet = CONNECTION.request("A", usual(77, echo))
    return redirects(f"at {clock:#x}", packet, CONNECTION.at_server(packet, FIRST, (echo, clock | 0x3FF)))


@laws(
    _remembered_elsewhere(),
    (_echo_of(clock) for clock in (0, 0x3FF, 0x400, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
)
def test_the_cookie_needs_no_memory(balancer: Balancer, case: Case) -> None:
    """Neither the handshake table nor the time decides where an established connection goes."""
    assert case.run(balancer) == case.outcome


def _one_arm() -> Iterator[Case]:
    echo = CONNECTION.stamped(CLOCK, LOOPED, mark=1)
    packet = CONNECTION.request("A", usual(77, echo))
    yield sends_back("with its echo", packet, CONNECTION.at_server(packet, LOOPED, (echo, STRIPPED)))
    packet = CONNECTION.request("A", seq=CLIENT_ISN + 1)
    yield sends_back(
        "without timestamps",
        packet,
        CONNECTION.at_server(packet, LOOPED),
        "no_timestamp_remembered",
        before=(CONNECTION.syn_ack(LOOPED, CLOCK),),
    )


@laws(_one_arm())
def test_sends_back_where_the_server_is_on_the_same_link(balancer: Balancer, case: Case) -> None:
    """With one arm, a packet leaves by the interface on which it came."""
    assert case.run(balancer) == case.outcome


def _lost() -> Iterator[Case]:
    for mark in (0, 1):
        events = () if mark else ("handshake_unknown",)
        for name, server, event in (
            ("an id that no server has", NO_SERVER_ID, "drop_unknown_server"),
            ("a server to which there is no hop", WITHOUT_HOP, "drop_server_unreachable"),
        ):
            for flags in ("A", "PA", "RA"):
                echo = CONNECTION.stamped(CLOCK, server, mark=mark)
                packet = CONNECTION.request(flags, usual(77, echo))
                yield drops(f"{flags} for {name}, mark {mark}", packet, event, *events)
    for number in (1, 2, 511):
        echo = Connection(CLOSING).stamped(CLOCK, (CLOSING_SERVER.id + number) % 512, mark=1)
        packet = Connection(CLOSING).request("A", usual(77, echo))
        yield drops(f"for the id {number} beside the only server's", packet, "drop_unknown_server")


@laws(_lost())
def test_discards_what_no_server_can_get(balancer: Balancer, case: Case) -> None:
    """A cookie that leads nowhere is not answered: the client repeats, and the server may come back."""
    assert case.run(balancer) == case.outcome


def _without_timestamps() -> Iterator[Case]:
    for flags in ("A", "PA", "FA", "RA", "R", ""):
        packet = CONNECTION.request(flags, seq=CLIENT_ISN + 1)
        for name, server, others in (
            ("first", FIRST, ()),
            ("second", SECOND, (Connection(client=End(CLIENT, 1)).syn(),)),
        ):
            yield redirects(
                f"{flags or 'no flags'}, its SYN remembered on the {name} server",
                packet,
                CONNECTION.at_server(packet, server),
                "no_timestamp_remembered",
                before=(*others, CONNECTION.syn()),
            )
        yield redirects(
            f"{flags or 'no flags'}, its SYN-ACK remembered of a drained server",
            packet,
            CONNECTION.at_server(packet, DRAINED),
            "no_timestamp_remembered",
            before=(CONNECTION.syn_ack(DRAINED, CLOCK),),
        )
        if "R" not in flags:
            out = CONNECTION.at_server(packet, BY_HASH)
            yield redirects(f"{flags or 'no flags'}, forgotten", packet, out, "no_timestamp_hashed")
    packet = CONNECTION.request("P", usual(77, CONNECTION.stamped(CLOCK, DRAINED, mark=1)))
    out = CONNECTION.at_server(packet, BY_HASH)
    yield redirects("no ACK, so that its echo does not count", packet, out, "no_timestamp_hashed")
    packet = CONNECTION.request("R", usual(77, CONNECTION.stamped(CLOCK, DRAINED, mark=1)))
    out = CONNECTION.at_server(packet, NOT_BY_HASH)
    others = (Connection(client=End(CLIENT, 1)).syn(),) if NOT_BY_HASH == SECOND else ()
    yield redirects(
        "a reset without ACK, so that its echo does not count",
        packet,
        out,
        "no_timestamp_remembered",
        before=(*others, CONNECTION.syn()),
    )


@laws(_without_timestamps())
def test_follows_without_timestamps(balancer: Balancer, case: Case) -> None:
    """A packet without a usable echo goes where its SYN went, and if that is forgotten, by hash."""
    assert case.run(balancer) == case.outcome


def _with_ttl(packet: bytes, ttl: int) -> bytes:
    return summed(patched(packet, {22: bytes([ttl])}))


def _ttls() -> Iterator[Case]:
    packets = {
        "a SYN": (CONNECTION.syn(), None),
        "data": (CONNECTION.request("PA", usual(77, ECHO), payload=REQUEST), (ECHO, STRIPPED)),
    }
    for name, (whole, echo) in packets.items():
        for ttl in (0, 1):
            yield drops(f"{name} with a TTL of {ttl} goes nowhere", _with_ttl(whole, ttl), "drop_ttl_expired")
        for ttl in (2, 3, 64, 255):
            packet = _with_ttl(whole, ttl)
            out = CONNECTION.at_server(packet, FIRST, echo)
            yield redirects(f"{name} with a TTL of {ttl} arrives with one less", packet, out)


@laws(_ttls())
def test_counts_as_a_hop_towards_servers(balancer: Balancer, case: Case) -> None:
    """A packet that goes round in circles ends."""
    assert case.run(balancer) == case.outcome


def _with_wrong_sums() -> Iterator[Case]:
    echo = CONNECTION.stamped(CLOCK, FIRST, mark=1)
    good = CONNECTION.request("PA", usual(77, echo), payload=REQUEST)
    right = CONNECTION.at_server(good, FIRST, (echo, STRIPPED))
    yield redirects(
        "of a payload that was damaged on the way to a server",
        patched(good, {len(good) - 1: b"\0"}),
        patched(right, {len(right) - 1: b"\0"}),
    )
    good = CONNECTION.reply(FIRST, "PA", usual(CLOCK, 77), payload=REQUEST)
    right = CONNECTION.at_client(good, (CLOCK, echo))
    yield redirects(
        "of a payload that was damaged on the way to a client",
        patched(good, {len(good) - 1: b"\0"}),
        patched(right, {len(right) - 1: b"\0"}),
    )
    far = Connection(client=End(FAR_CLIENT, 1))
    good = far.reply(FIRST, "A")
    out = far.at_client(good, macs=TO_GATEWAY)
    yield redirects("of an IP header that is right while TCP's payload is not", good + b"\0", out + b"\0")


@laws(_with_wrong_sums())
def test_never_makes_a_wrong_checksum_right(balancer: Balancer, case: Case) -> None:
    """Checksums are changed by what poise changes, so that damage done before is still found out."""
    assert case.run(balancer) == case.outcome
