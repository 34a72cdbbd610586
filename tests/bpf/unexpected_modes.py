# SPDX-License-Identifier: Apache-2.0
"""Unexpected packets of stateful VIPs and of QUIC, under the sentences of docs/reference/packets.md."""

from collections.abc import Iterator

from tests.bpf.connection import CLIENT_ISN, SYN_OPTIONS, Connection
from tests.bpf.packets import End, usual
from tests.bpf.services import IPV4, QUIC, STATEFUL, server_of
from tests.bpf.unexpected import CLOCK, PORT, packet

CONNECTION = Connection(STATEFUL, End(IPV4.client, PORT))
FLOW = Connection(QUIC, End(IPV4.client, PORT))
SHORT_HEADER = b"\x40"  # RFC 9000, section 17.3.1


@packet("of a connection that the table of its stateful VIP does not hold")
def _unknown() -> Iterator[bytes]:
    echo = CONNECTION.stamped(CLOCK, 0, mark=1)
    for flags, options in (("A", usual(77, echo)), ("PA", usual(77, echo)), ("A", b"")):
        yield CONNECTION.request(flags, options, seq=CLIENT_ISN + 1, ack=1)


@packet("from a server, of a connection that the table of its stateful VIP does not hold")
def _relearned() -> Iterator[bytes]:
    yield CONNECTION.reply(server_of(STATEFUL, 0), "PA", usual(CLOCK, 77), payload=b"page", ack=CLIENT_ISN)


@packet("for a stateful VIP, a SYN")
def _syn() -> Iterator[bytes]:
    yield CONNECTION.syn(SYN_OPTIONS)


@packet("QUIC whose connection id names no server, or is unroutable")
def _unroutable() -> Iterator[bytes]:
    for connection_id in (
        b"\x08" + (400).to_bytes(2, "big") + bytes(6),
        b"\xe8" + bytes(8),
        b"\x28" + bytes(8),
    ):
        yield FLOW.datagram(payload=SHORT_HEADER + connection_id + bytes(20))


@packet("QUIC whose connection id names a server")
def _routable() -> Iterator[bytes]:
    for server in (0, 1):
        yield FLOW.datagram(payload=SHORT_HEADER + b"\x08" + server.to_bytes(2, "big") + bytes(26))
