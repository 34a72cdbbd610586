# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, laws, passes, redirects, sends_back
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import ETHERNET, Macs, patched
from tests.bpf.network import CLIENT6, CLIENT_MAC, CLIENTS_MAC
from tests.bpf.packets import (
    ATOMIC_FRAGMENT,
    DESTINATION,
    HOP_BY_HOP,
    LONG_DESTINATION,
    NOP,
    ROUTING,
    End,
    Extension,
    segment,
    timestamp,
    usual,
    with_extensions,
)
from tests.bpf.services import EMPTY6, FIRST6, NAMES6, SECOND6, WEB6, end_of, server_of

pytestmark = pytest.mark.root

CLIENT_END = End(CLIENT6, 40000)
CONNECTION = Connection(WEB6, CLIENT_END)
NAMES = Connection(NAMES6, CLIENT_END)
CLOCK = 0x3456789A
STRIPPED = CLOCK | 0x3FF
ECHO = CONNECTION.stamped(CLOCK, SECOND6, mark=1)
STAMPED = CONNECTION.stamped(CLOCK, FIRST6, mark=1)
REQUEST = CONNECTION.request("PA", usual(77, ECHO), payload=b"GET / HTTP/1.1\r\n")

CHAINS: dict[str, tuple[Extension, ...]] = {
    "hop-by-hop options": (HOP_BY_HOP,),
    "a routing header": (ROUTING,),
    "destination options": (DESTINATION,),
    "an atomic fragment": (ATOMIC_FRAGMENT,),
    "all in the order of RFC 8200": (HOP_BY_HOP, DESTINATION, ROUTING, ATOMIC_FRAGMENT, DESTINATION),
    "options behind the fragment header": (ATOMIC_FRAGMENT, LONG_DESTINATION),
    "seven headers": (DESTINATION,) * 7,
    "256 bytes": (LONG_DESTINATION,) * 2,
}


def _forwarded() -> Iterator[Case]:
    for name, chain in CHAINS.items():
        packet = with_extensions(REQUEST, *chain)
        out = CONNECTION.at_server(packet, SECOND6, (ECHO, STRIPPED))
        yield redirects(f"a request behind {name}", packet, out)
        odd = CONNECTION.request("A", NOP + timestamp(77, ECHO), payload=b"odd")
        packet = with_extensions(odd, *chain)
        out = CONNECTION.at_server(packet, SECOND6, (ECHO, STRIPPED))
        yield redirects(f"timestamps at an odd place behind {name}", packet, out)
        packet = with_extensions(CONNECTION.syn(), *chain)
        yield redirects(f"a SYN behind {name}", packet, CONNECTION.at_server(packet, FIRST6))
        packet = with_extensions(CONNECTION.reply(FIRST6, "PA", usual(CLOCK, 77), payload=b"page"), *chain)
        yield redirects(f"a reply behind {name}", packet, CONNECTION.at_client(packet, (CLOCK, STAMPED)))
        packet = with_extensions(NAMES.datagram(payload=b"question"), *chain)
        server = NAMES.pick(NAMES6.servers[:2])
        out = NAMES.at_server(packet, server)
        yield redirects(f"a datagram behind {name}", packet, out, "flow_remembered")
        packet = with_extensions(NAMES.answer(server_of(NAMES6, 0), payload=b"answer"), *chain)
        yield redirects(f"an answer behind {name}", packet, NAMES.at_client(packet))


@laws(_forwarded())
def test_finds_ports_behind_extension_headers(balancer: Balancer, case: Case) -> None:
    """Extension headers are stepped over and carried along."""
    assert case.run(balancer) == case.outcome


def _answered() -> Iterator[Case]:
    empty = Connection(EMPTY6, CLIENT_END)
    macs = Macs(CLIENT_MAC, CLIENTS_MAC)
    answer = segment(
        macs,
        end_of(EMPTY6),
        CLIENT_END,
        "RA",
        ack=CLIENT_ISN + 1,
        window=0,
        identification=0,
    )
    for name, chain in CHAINS.items():
        packet = with_extensions(empty.syn(), *chain)
        yield sends_back(f"a SYN behind {name}", packet, answer, "reset_no_server")


@laws(_answered())
def test_a_reset_has_no_extension_headers(balancer: Balancer, case: Case) -> None:
    """What a client put before its SYN is not in the answer."""
    assert case.run(balancer) == case.outcome


def _not_looked_through() -> Iterator[Case]:
    for name, frame in (("for a VIP", REQUEST), ("from a server", CONNECTION.reply(FIRST6, "A"))):
        packet = with_extensions(frame, *(DESTINATION,) * 8)
        yield passes(f"eight headers {name}", packet, "pass_long_headers")
        packet = with_extensions(frame, *(LONG_DESTINATION,) * 2, DESTINATION)
        yield passes(f"264 bytes of headers {name}", packet, "pass_long_headers")
        for header, number in (("AH", 51), ("ESP", 50), ("no next header", 59), ("mobility", 135)):
            packet = with_extensions(frame, Extension(number, bytes(7)))
            yield passes(f"{header} {name}", packet, "pass_other_protocol")
            packet = with_extensions(frame, HOP_BY_HOP, Extension(number, bytes(7)))
            yield passes(f"{header} behind hop-by-hop options {name}", packet, "pass_other_protocol")


@laws(_not_looked_through())
def test_leaves_to_the_kernel_what_it_cannot_look_through(balancer: Balancer, case: Case) -> None:
    """Chains that are too long, and headers behind which nothing can be read, pass unchanged."""
    assert case.run(balancer) == case.outcome


def _truncated() -> Iterator[Case]:
    for name, chain in CHAINS.items():
        whole = with_extensions(REQUEST, *chain)
        ports = len(whole) - len(REQUEST) + ETHERNET + 40
        for length in range(ETHERNET, ports + 20):
            yield passes(f"{length} bytes of a frame with {name}", whole[:length], "pass_truncated")
    stretched = patched(with_extensions(REQUEST, DESTINATION), {ETHERNET + 41: b"\x1e"})
    yield passes("a header whose length leads past the end", stretched, "pass_truncated")


@laws(_truncated())
def test_never_reads_past_the_end_of_a_chain(balancer: Balancer, case: Case) -> None:
    """A frame that ends before its ports passes unchanged, wherever it ends."""
    assert case.run(balancer) == case.outcome
