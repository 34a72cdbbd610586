# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from poise.kernel import netlink, tc
from poise.lab.namespaces import LabError
from poise.lab.network import ServersLab
from poise.lab.quic_client import QuicClient
from poise.lab.quic_server import PORT, QuicServer
from poise.quic.connection_id import server_of
from poise.servers.apply import DataPlane, Limits
from poise.servers.model import Address, Hop, Model, Policy, Protocol, QuicIds, Server, State, Vip
from poise.servers.tables import Tables, desired, plan

pytestmark = pytest.mark.root

PLAIN = QuicIds(0, 2, 6)
SINGLE_PASS = QuicIds(1, 2, 14, bytes(range(16)))
FOUR_PASS = QuicIds(2, 2, 9, bytes(range(16, 32)))
OTHER = IPv4Address("10.1.0.51")  # the client's, too
FIRST_ID = 300
CLIENTS = 3


class Balancer:
    """The packet side at work in the lab's router, with one QUIC VIP."""

    def __init__(self, lab: ServersLab, ids: QuicIds) -> None:
        """Attach it, and have all servers ready."""
        self._lab = lab
        self._ids = ids
        self._hops: dict[Address, Hop] = {}
        self._present = Tables()
        with lab.router.enter():
            self._plane = DataPlane(lab.pins, Limits(), bytes(6))
            interfaces = [netlink.interface(name) for name in lab.interfaces]
            for interface in interfaces:
                tc.create_clsact(interface.index)
                self._plane.attach(interface, "native")
        for server in lab.servers:
            with server.namespace.enter():
                mac = netlink.interface("eth0").mac
            self._hops[server.address] = Hop(None, interfaces[-1].index, mac, interfaces[-1].mac, valid=True)
        self.have([State.READY] * len(lab.servers))

    def have(self, states: Sequence[State]) -> None:
        """Put the servers, in their order, into these states."""
        servers = tuple(
            Server(FIRST_ID + number, server.name, server.address, PORT, state, 0, declared=True)
            for number, (server, state) in enumerate(zip(self._lab.servers, states, strict=True))
        )
        policy = Policy.ROUND_ROBIN
        vip = Vip(
            *(0, "quic", self._lab.vip, PORT, policy, servers),
            protocol=Protocol.QUIC,
            quic_ids=(self._ids,),
        )
        model = Model((vip,))
        wanted = desired(
            *(model, self._hops, frozenset(), {}),
            key=bytes(range(16)),
            present=self._present,
            shape=self._plane.shape,
        )
        self._plane.hold_keys(model)
        self._plane.write(plan(self._present, wanted))
        self._present = wanted


@pytest.fixture
def lab() -> Iterator[ServersLab]:
    """One client with two addresses, three servers."""
    with ServersLab(3, clients=1) as lab:
        lab.clients[0].ip(f"address add {OTHER}/24 dev eth0")
        yield lab


@pytest.mark.parametrize(
    "ids", [PLAIN, SINGLE_PASS, FOUR_PASS], ids=["plaintext", "single pass", "four passes"]
)
def test_connections_survive_moves_of_the_client_and_changes_of_the_servers(
    lab: ServersLab, ids: QuicIds
) -> None:
    """From whatever port and address, whatever became of the others, a connection's own server answers."""
    numbers = {server.name: FIRST_ID + number for number, server in enumerate(lab.servers)}
    for server in lab.servers:
        QuicServer(
            *(server.namespace, server.name, server.address), ids=ids, server_id=numbers[server.name]
        ).start()
    balancer = Balancer(lab, ids)
    with ExitStack() as stack:
        clients = [stack.enter_context(QuicClient(lab.clients[0], lab.vip, PORT)) for _ in range(CLIENTS)]
        homes = [client.exchange().server for client in clients]
        for states in (
            [State.DRAIN, State.READY, State.READY],
            [State.READY, State.REMOVED, State.DRAIN],
            [State.REMOVED, State.DRAIN, State.READY],
        ):
            balancer.have(states)
            for client, home in zip(clients, homes, strict=True):
                client.rebind()
                assert client.exchange().server == home
                client.migrate(OTHER)
                exchange = client.exchange()
                assert (exchange.server, exchange.source) == (home, str(OTHER))
                assert server_of([ids], exchange.connection_id) == numbers[home]


def test_without_minted_ids_a_connection_is_its_flow(lab: ServersLab) -> None:
    """Unroutable ids go by address and port: changes of the servers do no harm, a move of the client does."""
    for server in lab.servers:
        QuicServer(server.namespace, server.name, server.address).start()
    balancer = Balancer(lab, PLAIN)
    with QuicClient(lab.clients[0], lab.vip, PORT, timeout=1) as client:
        home = client.exchange().server
        balancer.have([State.DRAIN if server.name == home else State.READY for server in lab.servers])
        assert client.exchange().server == home
        client.rebind()
        with pytest.raises(LabError, match="no answer within 1 s"):
            client.exchange()
