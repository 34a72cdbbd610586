# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator

import pytest

from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, laws, redirects
from tests.bpf.connection import Connection
from tests.bpf.headers import ETHERNET
from tests.bpf.packets import END, MPTCP, MSS, NOP, SACK, SACK_OK, WINDOW_SCALE, timestamp, with_ip_options
from tests.bpf.services import DRAINED, FIRST, SECOND

pytestmark = pytest.mark.root

CONNECTION = Connection()
CLIENT_CLOCK = 0x0A0B0C0D
SERVER_CLOCK = 0x76543210
# The cookie names a server to which no hash leads: a packet gets there by its echo or not at all.
ECHO = CONNECTION.stamped(SERVER_CLOCK, DRAINED, mark=1)
STRIPPED = ECHO | 0x3FF
STAMPED = CONNECTION.stamped(SERVER_CLOCK, FIRST, mark=1)
HASHED_SERVER = CONNECTION.pick((FIRST, SECOND))

Layout = Callable[[bytes], bytes]

SYNS: dict[str, Layout] = {
    "of Linux": lambda ts: MSS + SACK_OK + ts + NOP + WINDOW_SCALE,
    "of Windows": lambda ts: MSS + NOP + WINDOW_SCALE + SACK_OK + ts,
    "of macOS": lambda ts: MSS + NOP + WINDOW_SCALE + NOP + NOP + ts + SACK_OK + END + END,
    "of FreeBSD": lambda ts: MSS + NOP + WINDOW_SCALE + SACK_OK + ts,
    "of OpenBSD": lambda ts: MSS + NOP + NOP + SACK_OK + NOP + WINDOW_SCALE + NOP + NOP + ts,
    "of Linux with MPTCP": lambda ts: MSS + SACK_OK + ts + NOP + WINDOW_SCALE + MPTCP,
}
DATA: dict[str, Layout] = {
    "of every stack's data": lambda ts: NOP + NOP + ts,
    "with the timestamps first": lambda ts: ts + NOP + NOP,
    "with the timestamps first and unpadded": lambda ts: ts,
    "with the timestamps before SACK blocks": lambda ts: NOP + NOP + ts + NOP + NOP + SACK,
    "with the timestamps after SACK blocks": lambda ts: NOP + NOP + SACK + NOP + NOP + ts,
    "with the timestamps after unpadded SACK blocks": lambda ts: SACK + ts,
    "with the timestamps after an option that nobody knows": lambda ts: b"\xfd\x06\x08\x0a\xff\xff" + ts,
    "with the timestamps after an empty option": lambda ts: b"\xfd\x02" + ts,
    "with the timestamps after a timestamp option of a wrong length": lambda ts: b"\x08\x04ab" + ts,
    "with the timestamps before an option that runs past the header": lambda ts: ts + b"\xfd\x09",
    "with the timestamps before END and garbage": lambda ts: ts + END + b"\x08",
    "with the timestamps at an odd offset": lambda ts: NOP + ts,
    "with the timestamps at an odd offset after three NOPs": lambda ts: NOP * 3 + ts,
    "with the timestamps at an odd offset after a window scale": lambda ts: WINDOW_SCALE + ts,
    "with the timestamps at the very end of the longest header": lambda ts: NOP * 30 + ts,
    "with the timestamps last but one byte in the longest header": lambda ts: b"\xfd\x1d" + b"\7" * 27 + ts,
}
WITHOUT: dict[str, Layout] = {
    "without options": lambda _: b"",
    "without timestamps": lambda _: NOP + NOP + SACK,
    "of 40 NOPs": lambda _: NOP * 40,
    "with END before the timestamps": lambda ts: END + NOP + ts,
    "with END before what would be an empty option": lambda ts: END + b"\2" + ts,
    "with END between NOP and the timestamps": lambda ts: NOP + END + ts,
    "with an option of length 0 before the timestamps": lambda ts: b"\xfd\0" + ts,
    "with an option of length 1 before the timestamps": lambda ts: b"\xfd\1" + ts,
    "with an option that runs past the header before the timestamps": lambda ts: b"\xfd\xff" + ts,
    "with an option that runs past the header by one byte": lambda ts: b"\xfd\x0f" + ts + END + END,
    "with an option that holds the timestamps": lambda ts: b"\xfd\x0c" + ts,
    "with a timestamp option of length 0": lambda ts: NOP + NOP + b"\x08\0" + ts[2:],
    "with a timestamp option of length 1": lambda ts: NOP + NOP + b"\x08\1" + ts[2:],
    "with a timestamp option of length 2": lambda ts: NOP + NOP + b"\x08\2" + ts[2:6] + END,
    "with a timestamp option of length 9": lambda ts: NOP + NOP + b"\x08\x09" + ts[2:] + END,
    "with a timestamp option of length 11": lambda ts: NOP + NOP + b"\x08\x0b" + ts[2:] + NOP,
    "with a timestamp option of length 255": lambda ts: NOP + NOP + b"\x08\xff" + ts[2:],
    "with a timestamp option that the header cuts off": lambda ts: NOP + NOP + ts[:6],
    "with a timestamp option that the header cuts off by one byte": lambda ts: NOP * 3 + ts[:9],
    "with a timestamp option of which only the kind is left": lambda ts: NOP * 3 + ts[:1],
}

PAYLOADS = {"": b"", ", with an odd number of bytes": b"odd"}


def _echoes(layouts: dict[str, Layout]) -> Iterator[Case]:
    for name, layout in layouts.items():
        for more, payload in PAYLOADS.items():
            packet = CONNECTION.request("A", layout(timestamp(CLIENT_CLOCK, ECHO)), payload=payload)
            yield redirects(
                f"options {name}{more}", packet, CONNECTION.at_server(packet, DRAINED, (ECHO, STRIPPED))
            )


def _stamps(layouts: dict[str, Layout]) -> Iterator[Case]:
    for name, layout in layouts.items():
        for more, payload in PAYLOADS.items():
            options = layout(timestamp(SERVER_CLOCK, CLIENT_CLOCK))
            packet = CONNECTION.reply(FIRST, "A", options, payload=payload)
            yield redirects(
                f"options {name}{more}", packet, CONNECTION.at_client(packet, (SERVER_CLOCK, STAMPED))
            )


@laws(_echoes(SYNS | DATA))
def test_finds_the_echo_wherever_it_stands(balancer: Balancer, case: Case) -> None:
    """In whatever order a client puts its options, its packets go to the server that the echo names."""
    assert case.run(balancer) == case.outcome


@laws(_stamps(SYNS | DATA))
def test_stamps_the_timestamp_wherever_it_stands(balancer: Balancer, case: Case) -> None:
    """In whatever order a server puts its options, the client gets the cookie."""
    assert case.run(balancer) == case.outcome


def _placed(layouts: dict[str, Layout]) -> Iterator[Case]:
    for name, layout in layouts.items():
        packet = CONNECTION.syn(layout(timestamp(CLIENT_CLOCK, 0)))
        yield redirects(f"options {name}", packet, CONNECTION.at_server(packet, FIRST))


@laws(_placed(SYNS | DATA))
def test_takes_a_syn_with_timestamps_by_turn(balancer: Balancer, case: Case) -> None:
    """A client that will echo gets the server whose turn it is, its SYN's options as they were."""
    assert case.run(balancer) == case.outcome


def _answered(layouts: dict[str, Layout]) -> Iterator[Case]:
    stamped = CONNECTION.stamped(SERVER_CLOCK, FIRST, mark=0)
    for name, layout in layouts.items():
        packet = CONNECTION.reply(
            FIRST, "SA", layout(timestamp(SERVER_CLOCK, CLIENT_CLOCK)), ack=CONNECTION.first_byte
        )
        out = CONNECTION.at_client(packet, (SERVER_CLOCK, stamped))
        yield redirects(f"options {name}", packet, out, before=(CONNECTION.syn(),))


@laws(_answered(SYNS | DATA))
def test_marks_a_syn_ack_wherever_its_timestamp_stands(balancer: Balancer, case: Case) -> None:
    """In whatever order a server puts a SYN-ACK's options, the client gets the cookie with mark 0."""
    assert case.run(balancer) == case.outcome


def _unfound(make: Callable[[bytes], bytes], out: Callable[[bytes], bytes], *events: str) -> Iterator[Case]:
    for name, layout in WITHOUT.items():
        packet = make(layout(timestamp(CLIENT_CLOCK, ECHO)))
        yield redirects(f"options {name}", packet, out(packet), *events)


@laws(
    _unfound(
        lambda options: CONNECTION.request("A", options, payload=b"\x08\x0a-----------"),
        lambda packet: CONNECTION.at_server(packet, HASHED_SERVER),
        "no_timestamp_hashed",
    )
)
def test_goes_by_hash_where_no_echo_is_to_be_found(balancer: Balancer, case: Case) -> None:
    """Options are read as Linux reads them: up to the first impossible one, and never past the header."""
    assert case.run(balancer) == case.outcome


@laws(
    _unfound(
        lambda options: CONNECTION.reply(FIRST, "A", options, payload=b"\x08\x0a-----------"),
        CONNECTION.at_client,
    )
)
def test_stamps_nothing_where_no_timestamp_is_to_be_found(balancer: Balancer, case: Case) -> None:
    """What only looks like a timestamp of a server is left as it is."""
    assert case.run(balancer) == case.outcome


@laws(
    _unfound(
        CONNECTION.syn,
        lambda packet: CONNECTION.at_server(packet, HASHED_SERVER),
        "syn_without_timestamp",
    )
)
def test_places_a_syn_without_timestamps_by_hash(balancer: Balancer, case: Case) -> None:
    """A client that will not echo is placed where its later packets find the way too."""
    assert case.run(balancer) == case.outcome


def _with_ip_options() -> Iterator[Case]:
    for words in range(1, 11):
        options = (b"\x94\x04\0\0" + NOP * 36)[: 4 * words]  # router alert, RFC 2113
        name = f"an IP header of {5 + words} words"
        for place, layout in (("usual", DATA["of every stack's data"]), ("odd", WINDOW_SCALE.__add__)):
            packet = CONNECTION.request("PA", layout(timestamp(CLIENT_CLOCK, ECHO)), payload=b"GET /")
            packet = with_ip_options(packet, options)
            out = CONNECTION.at_server(packet, DRAINED, (ECHO, STRIPPED))
            yield redirects(f"{name} to a server, timestamps at the {place} place", packet, out)
            packet = CONNECTION.reply(
                FIRST, "PA", layout(timestamp(SERVER_CLOCK, CLIENT_CLOCK)), payload=b"OK"
            )
            packet = with_ip_options(packet, options)
            out = CONNECTION.at_client(packet, (SERVER_CLOCK, STAMPED))
            yield redirects(f"{name} to a client, timestamps at the {place} place", packet, out)


@laws(_with_ip_options())
def test_finds_tcp_behind_ip_options(balancer: Balancer, case: Case) -> None:
    """An IP header of any length is forwarded with its options."""
    assert case.run(balancer) == case.outcome


def _padded() -> Iterator[Case]:
    for total in (60, 61, 64, 100):
        for name, payload in (("nothing", b""), ("five bytes", b"GET /")):
            law = f"{name} padded to a frame of {total} bytes"
            packet = CONNECTION.request("A", payload=payload).ljust(total, b"\xee")
            out = CONNECTION.at_server(packet, HASHED_SERVER)
            yield redirects(f"{law}, to a server", packet, out, "no_timestamp_hashed")
            packet = CONNECTION.reply(FIRST, "A", payload=payload).ljust(total, b"\xee")
            yield redirects(f"{law}, to a client", packet, CONNECTION.at_client(packet))
    packet = CONNECTION.request("A", timestamp(CLIENT_CLOCK, ECHO) + NOP + NOP).ljust(100, b"\xee")
    out = CONNECTION.at_server(packet, DRAINED, (ECHO, STRIPPED))
    yield redirects(f"timestamps in front of padding from byte {ETHERNET + 52} on", packet, out)


@laws(_padded())
def test_carries_ethernet_padding_along(balancer: Balancer, case: Case) -> None:
    """What stands behind the IP packet is neither read, nor summed, nor changed."""
    assert case.run(balancer) == case.outcome
