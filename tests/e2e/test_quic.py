# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from poise.lab.balancer import Balancer
from poise.lab.namespaces import LabError
from poise.lab.network import ServersLab
from poise.lab.quic_client import QuicClient
from poise.lab.quic_server import PORT, QuicServer
from poise.quic.connection_id import server_of
from poise.servers.model import QuicIds
from tests.e2e.counters import drops

pytestmark = pytest.mark.root

PLAIN = QuicIds(0, 2, 6)
SINGLE_PASS = QuicIds(1, 2, 14, bytes(range(16)))
FOUR_PASS = QuicIds(2, 2, 9, bytes(range(16, 32)))
OTHER = IPv4Address("10.1.0.51")  # the client's, too
CLIENTS = 3


def start_balancer(lab: ServersLab, ids: QuicIds, directory: Path) -> Balancer:
    """Start `poise up` with a QUIC VIP whose connection ids are these, for all servers."""
    settings: dict[str, object] = {
        "config": ids.config,
        "server_id_length": ids.server_id_length,
        "nonce_length": ids.nonce_length,
    }
    if ids.key:
        key = directory / "key"
        key.touch(mode=0o600)
        key.write_text(ids.key.hex())
        settings["key_file"] = str(key)
    vip = lab.vip_settings(server_port=PORT)
    return lab.start_balancer(vips=[vip | {"protocol": "quic", "port": PORT, "quic_ids": [settings]}])


def server_ids(balancer: Balancer) -> dict[str, int]:
    """The id of each server, as its operator would look it up."""
    return {str(server["name"]): int(str(server["id"])) for server in balancer.client.servers()}


@pytest.fixture
def lab() -> Iterator[ServersLab]:
    """One client with two addresses, three servers."""
    with ServersLab(3, clients=1) as lab:
        lab.clients[0].ip(f"address add {OTHER}/24 dev eth0")
        yield lab


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(PLAIN, id="plaintext"),
        pytest.param(SINGLE_PASS, id="single pass", marks=pytest.mark.slow),
        pytest.param(FOUR_PASS, id="four passes"),
    ],
)
def test_connections_survive_moves_of_the_client_and_changes_of_the_servers(
    lab: ServersLab, ids: QuicIds, tmp_path: Path
) -> None:
    """From whatever port and address, whatever became of the others, a connection's own server answers."""
    balancer = start_balancer(lab, ids, tmp_path)
    numbers = server_ids(balancer)
    for server in lab.servers:
        place = (server.namespace, server.name, server.address)
        QuicServer(*place, ids=ids, server_id=numbers[server.name]).start()
    with ExitStack() as stack:
        clients = [stack.enter_context(QuicClient(lab.clients[0], lab.vip, PORT)) for _ in range(CLIENTS)]
        homes = [client.exchange().server for client in clients]

        def restart() -> None:
            balancer.kill()
            balancer.start()

        for change in (
            lambda: balancer.client.drain("web1"),
            lambda: balancer.client.remove("web2"),
            restart,
            lambda: balancer.client.remove("web1"),
            lambda: balancer.client.add(lab.server("web2").address, PORT, name="web2"),
        ):
            change()
            for client, home in zip(clients, homes, strict=True):
                client.rebind()
                assert client.exchange().server == home
                client.migrate(OTHER)
                exchange = client.exchange()
                assert (exchange.server, exchange.source) == (home, str(OTHER))
                assert server_of([ids], exchange.connection_id) == numbers[home]
    assert drops(balancer) == {}


def test_without_minted_ids_a_connection_is_its_flow(lab: ServersLab, tmp_path: Path) -> None:
    """Unroutable ids go by address and port: changes of the servers do no harm, a move of the client does."""
    for server in lab.servers:
        QuicServer(server.namespace, server.name, server.address).start()
    balancer = start_balancer(lab, PLAIN, tmp_path)
    with QuicClient(lab.clients[0], lab.vip, PORT, timeout=1) as client:
        home = client.exchange().server
        balancer.client.drain(home)
        assert client.exchange().server == home
        client.rebind()
        with pytest.raises(LabError, match="no answer within 1 s"):
            client.exchange()
