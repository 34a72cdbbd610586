# SPDX-License-Identifier: Apache-2.0
"""Packets of handshakes and of what is forgotten of them, by the sentences of docs/reference/packets.md."""

from collections.abc import Iterator

from tests.bpf.connection import CLIENT_ISN
from tests.bpf.services import FAMILIES, server_of
from tests.bpf.unexpected import CLOCK, Sample, packet, request, web


@packet("a client's reset without timestamp, of a forgotten connection")
def _forgotten_reset() -> Iterator[bytes]:
    for family in FAMILIES:
        yield web(family).request("R", seq=CLIENT_ISN)


@packet("an echo of a SYN-ACK that is forgotten")
def _forgotten_handshake() -> Iterator[bytes]:
    for family in FAMILIES:
        yield request(family, 0, "A", mark=0)


@packet("a SYN-ACK whose SYN is forgotten")
def _forgotten_syn() -> Iterator[bytes]:
    for family in FAMILIES:
        yield web(family).syn_ack(server_of(family.web, 0), CLOCK)


@packet("a SYN that is sent again")
def _syn_again() -> Iterator[Sample]:
    for family in FAMILIES:
        yield Sample(web(family).syn(), (web(family).syn(),))


@packet("a SYN without timestamps")
def _plain_syn() -> Iterator[bytes]:
    for family in FAMILIES:
        yield web(family).syn(b"")


@packet("without timestamps, of a forgotten connection")
def _plain_forgotten() -> Iterator[bytes]:
    for family in FAMILIES:
        yield web(family).request("A", seq=CLIENT_ISN + 1, ack=1)
        yield web(family).request("", seq=CLIENT_ISN + 1)  # no flag at all


@packet("without timestamps, after its SYN was answered")
def _plain_remembered() -> Iterator[Sample]:
    for family in FAMILIES:
        connection = web(family)
        data = connection.request("A", seq=CLIENT_ISN + 1, ack=1)
        yield Sample(data, (connection.syn(b""), data))


@packet("SYN and FIN, or every flag of TCP at once, with an echo")
def _every_flag() -> Iterator[bytes]:
    for family in FAMILIES:
        yield request(family, 0, "SFA")
        yield request(family, 0, "FSRPAUEC")
