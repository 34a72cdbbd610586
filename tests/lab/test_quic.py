# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from poise.lab.namespaces import Lab, LabError, Namespace
from poise.lab.quic_client import QuicClient
from poise.lab.quic_server import PORT, QuicServer
from poise.quic.connection_id import UNROUTABLE, server_of
from poise.servers.model import QuicIds

pytestmark = pytest.mark.root

SERVER = IPv4Address("10.5.0.1")
CLIENT = IPv4Address("10.5.0.2")
OTHER = IPv4Address("10.5.0.3")  # the client's, too
PLAIN = QuicIds(1, 2, 6)
ENCRYPTED = QuicIds(3, 2, 9, bytes(range(16)))


class Pair(Lab):
    """A client and a server on one wire."""

    def build(self) -> None:
        """Make both namespaces."""
        self.client = self.namespace("client")
        self.server = self.namespace("server")
        self.link(self.client, "eth0", self.server, "eth0")
        self.client.ip(f"address add {CLIENT}/24 dev eth0", f"address add {OTHER}/24 dev eth0")
        self.server.ip(f"address add {SERVER}/24 dev eth0")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The network, without a server yet."""
    with Pair() as pair:
        yield pair


def serving(namespace: Namespace, ids: QuicIds | None) -> QuicServer:
    """A started server, with id 300."""
    server = QuicServer(namespace, "web1", SERVER, ids=ids, server_id=300)
    server.start()
    return server


@pytest.mark.parametrize("ids", [PLAIN, ENCRYPTED], ids=["plaintext", "encrypted"])
def test_a_connection_survives_every_move_of_the_client(pair: Pair, ids: QuicIds) -> None:
    """From other ports and addresses the same server answers, and each id that it is called by names it."""
    server = serving(pair.server, ids)
    try:
        with QuicClient(pair.client, SERVER, PORT) as client:
            exchanges = [client.exchange()]
            client.rebind()
            exchanges.append(client.exchange())
            client.migrate()
            exchanges.append(client.exchange())
            client.migrate(OTHER)
            exchanges.append(client.exchange())
    finally:
        server.stop()
    assert {exchange.server for exchange in exchanges} == {"web1"}
    assert {server_of([ids], exchange.connection_id) for exchange in exchanges} == {300}
    assert len({exchange.source_port for exchange in exchanges}) == 4
    assert exchanges[-1].source == str(OTHER)
    first, rebound, *migrated = [exchange.connection_id for exchange in exchanges]
    assert first == rebound
    assert len({first, *migrated}) == 3


def test_a_server_without_configuration_is_called_by_unroutable_ids(pair: Pair) -> None:
    """What a server says before it was configured, and says in its later ids, names nobody."""
    server = serving(pair.server, None)
    try:
        with QuicClient(pair.client, SERVER, PORT) as client:
            ids = [client.exchange().connection_id]
            client.migrate()
            ids.append(client.exchange().connection_id)
    finally:
        server.stop()
    assert {connection_id[0] >> 5 for connection_id in ids} == {UNROUTABLE}


def test_a_server_that_is_gone_is_an_error(pair: Pair) -> None:
    """An exchange that is not answered, or a handshake, is told in one sentence."""
    server = serving(pair.server, PLAIN)
    with QuicClient(pair.client, SERVER, PORT, timeout=0.5) as client:
        server.stop()
        with pytest.raises(
            LabError, match=r"QUIC connection to 10\.5\.0\.1:443 failed: no answer within 0\.5"
        ):
            client.exchange()
    with pytest.raises(LabError, match=r"failed: no answer within 0\.5 s"):
        QuicClient(pair.client, SERVER, PORT, timeout=0.5)
