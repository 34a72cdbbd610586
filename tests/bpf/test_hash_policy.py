# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, laws, redirects
from tests.bpf.connection import Connection
from tests.bpf.network import CLIENT, FAR_CLIENT, TO_CLIENT, TO_GATEWAY
from tests.bpf.packets import End, timestamp, usual
from tests.bpf.services import HASHED, HASHED_SERVERS

pytestmark = pytest.mark.root

CONNECTIONS = [
    Connection(HASHED, End(client, port))
    for client in (CLIENT, FAR_CLIENT)
    for port in (1, 4000, 40001, 65535)
]


def _requests() -> Iterator[Case]:
    for connection in CONNECTIONS:
        server = connection.pick(HASHED_SERVERS)
        name = f"of {connection.client.address}:{connection.client.port}"
        for flags, options in (
            ("S", usual(1, 0)),
            ("A", usual(1, connection.stamped(99, 7, mark=0))),
            ("PA", timestamp(1, connection.stamped(99, 7, mark=1))),
            ("PA", b""),
            ("R", b""),
            ("RA", usual(1, 2)),
        ):
            packet = connection.request(flags, options, payload=b"x" * 3)
            out = connection.at_server(packet, server)
            yield redirects(f"{flags} with {len(options)} bytes of options {name}", packet, out)
        packet = connection.syn(b"")
        out = connection.at_server(packet, server)
        yield redirects(f"S without options {name}", packet, out, "syn_without_timestamp")


@laws(_requests())
def test_sends_every_packet_of_a_flow_by_its_hash(balancer: Balancer, case: Case) -> None:
    """Without cookies, a flow's hash alone decides, and timestamps stay as they are."""
    assert case.run(balancer) == case.outcome


def _replies() -> Iterator[Case]:
    for connection in CONNECTIONS:
        macs = TO_CLIENT if connection.client.address == CLIENT else TO_GATEWAY
        for server in HASHED.servers:
            for flags in ("SA", "A", "FA"):
                packet = connection.reply(server, flags, timestamp(0x12345678, 77), payload=b"page")
                law = f"{flags} of {server.name} to {connection.client.address}:{connection.client.port}"
                yield redirects(law, packet, connection.at_client(packet, macs=macs))


@laws(_replies())
def test_leaves_the_timestamps_of_replies(balancer: Balancer, case: Case) -> None:
    """A server's clock is not touched where there is no cookie."""
    assert case.run(balancer) == case.outcome


def test_uses_all_its_servers() -> None:
    """The connections above reach every server, so that they tell servers apart."""
    assert {connection.pick(HASHED_SERVERS) for connection in CONNECTIONS} == set(HASHED_SERVERS)
