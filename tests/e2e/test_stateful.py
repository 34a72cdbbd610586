# SPDX-License-Identifier: Apache-2.0
import select
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from poise.lab.addresses import Family
from poise.lab.balancer import Balancer
from poise.lab.conversation import Conversation, Listeners
from poise.lab.network import ServersLab
from poise.lab.syn_flood import syn_flood
from poise.lab.xdp_pass import pass_everything
from tests.e2e.counters import drops
from tests.e2e.test_handshakes import (
    NO_TIMESTAMPS,
    SLOW_TROUBLES,
    SYN_COOKIES,
    TOLERANCE,
    TROUBLES,
    Trouble,
    talk,
)
from tests.e2e.test_stacks import change, damage, use
from tests.e2e.test_survival import add, go_on, open_long_lived

pytestmark = pytest.mark.root

LISTENING = 7000
SOURCE_PORT = 33333
REUSES = 20
WITHIN = 5.0  # seconds
USUAL = ("SYN-ACK lost", "client without timestamps", "SYN cookies, SYN-ACK lost")


def start_stateful(lab: ServersLab, port: int | None = None, servers: int | None = None) -> Balancer:
    """Start poise with one stateful VIP, for the servers' `port`, and the first `servers` of them."""
    of_port: dict[str, Any] = {} if port is None else {"server_port": port}
    return lab.start_balancer(
        vips=[lab.vip_settings(lab.servers[:servers], **of_port) | {"mode": "stateful"}]
    )


def let_resets_out(lab: ServersLab) -> None:
    """Have what poise sends back to clients leave its interface at once."""
    pass_everything(lab.switch, "b-clients")


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(trouble, id=name, marks=() if name in USUAL else pytest.mark.slow)
        for name, trouble in (TROUBLES | SLOW_TROUBLES).items()
    ],
)
def test_a_difficult_handshake_is_as_good_as_without_poise(trouble: Trouble) -> None:
    """Whatever goes wrong, a client connects as fast as on the direct path, and takes one slot."""
    with ServersLab(2, clients=1) as lab, Listeners(LISTENING, greeting=trouble.greeting) as listeners:
        client = lab.add_far_client(trouble.delay) if trouble.delay else lab.clients[0]
        client.sysctl(trouble.client)
        for server in lab.servers:
            server.namespace.sysctl(trouble.server)
        listeners.beside(lab.servers)
        direct = talk(client, lab.servers[0].address, LISTENING, listeners, trouble)
        balancer = start_stateful(lab, LISTENING)
        balanced = talk(client, lab.vip, lab.port, listeners, trouble)
        assert balanced.seconds < direct.seconds + TOLERANCE
        assert balanced.agreed == direct.agreed
        assert len(balancer.client.connections()) <= 1  # none, if it has ended already
        assert drops(balancer) == {}
        for server in lab.servers:
            assert server.namespace.counters()["TcpExtTSEcrRejected"] == 0


@pytest.mark.parametrize("seconds", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_the_kernels_of_clients_and_servers_notice_nothing(seconds: int) -> None:
    """After many connections and changes, no kernel has counted anything that it does not without poise."""
    with ServersLab(5) as lab:
        direct_server = lab.servers[-1]
        before = damage(lab)
        use(lab, direct_server.address, seconds)
        direct = change(before, damage(lab))
        balancer = start_stateful(lab, servers=4)
        before = damage(lab)
        use(lab, lab.vip, seconds, balancer)
        balanced = change(before, damage(lab))
        assert {name: count for name, count in balanced.items() if count > direct.get(name, 0)} == {}
        assert drops(balancer) == {}


@pytest.mark.parametrize("family", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_connections_survive_changes_and_the_end_of_the_daemon(family: Family) -> None:
    """No open connection breaks, and a new daemon finds all of them in the table."""
    with ServersLab(4, family=family) as lab:
        balancer = start_stateful(lab, servers=3)
        connections = open_long_lived(lab)
        listed = {(row["client"], row["port"]) for row in balancer.client.connections()}
        add(balancer, lab, "web4")
        balancer.client.drain("web1")
        balancer.client.remove("web2")
        go_on(connections)
        balancer.kill()
        go_on(connections)
        balancer.start()
        go_on(connections)
        rows = balancer.client.connections()
        assert {(row["client"], row["port"]) for row in rows} == listed
        assert {row["state"] for row in rows} == {"established"}
        assert {row["server"] for row in rows} == {"web1", "web2", "web3"}
        assert min(row["packets_to_client"] for row in rows) > 2
        assert connections.finish().reasons == {}
        wait_until(lambda: balancer.client.connections() == [])
        assert drops(balancer) == {}


@pytest.mark.parametrize(
    "server_settings",
    [
        pytest.param({}, id="usual"),
        pytest.param(SYN_COOKIES, id="SYN cookies", marks=pytest.mark.slow),
        pytest.param(NO_TIMESTAMPS, id="no timestamps", marks=pytest.mark.slow),
    ],
)
def test_a_port_can_be_reused_at_once(server_settings: dict[str, object]) -> None:
    """A new connection with the ends of one that its server has in TIME_WAIT is made at once, every time."""
    with ServersLab(2, clients=1) as lab, Listeners(LISTENING) as listeners:
        (client,) = lab.clients
        for server in lab.servers:
            server.namespace.sysctl(server_settings)
        listeners.beside(lab.servers)
        balancer = start_stateful(lab, LISTENING)
        start = time.monotonic()
        for _ in range(REUSES):
            with Conversation(client, lab.vip, listeners, port=lab.port, source_port=SOURCE_PORT) as talking:
                talking.exchange()
                talking.end()
        assert time.monotonic() - start < 1
        assert balancer.client.connections() == []
        for namespace in (client, *(server.namespace for server in lab.servers)):
            counters = namespace.counters()
            counted = ("TcpExtPAWSActive", "TcpExtPAWSEstab", "TcpExtTSEcrRejected", "TcpRetransSegs")
            assert {name: counters[name] for name in counted if counters.get(name)} == {}
        assert drops(balancer) == {}


@pytest.mark.parametrize("leave", [Conversation.vanish, Conversation.hang_up])
def test_a_reset_without_timestamp_ends_the_connection(leave: Callable[[Conversation], None]) -> None:
    """The server of a client that is gone learns of it, and the slot is free again."""
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        balancer = start_stateful(lab, LISTENING)
        talks = [
            stack.enter_context(Conversation(lab.clients[0], lab.vip, listeners, port=lab.port))
            for _ in range(4)
        ]
        for talking in talks:
            talking.exchange()
        leave(talks[0])
        talks[0].server.sendall(b"is anybody there?")
        ended = select.poll()
        ended.register(talks[0].server, 0)  # POLLHUP and POLLERR always count
        assert ended.poll(WITHIN * 1000), "the server has not noticed"
        assert len(balancer.client.connections()) == 3
        for talking in talks[1:]:
            talking.exchange()
        assert drops(balancer) == {}


def test_a_flood_of_syns_ends_no_connection() -> None:
    """What is established keeps its slot, and a table that SYNs have gone through takes new connections."""
    with ServersLab(2) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        nowhere = LISTENING + 1
        vips = [
            lab.vip_settings(server_port=LISTENING) | {"name": "vip", "mode": "stateful"},
            lab.vip_settings(port=nowhere, server_port=nowhere) | {"name": "flooded", "mode": "stateful"},
        ]
        balancer = lab.start_balancer(vips=vips)  # 32,768 slots by default
        client = lab.clients[0]
        talks = [
            stack.enter_context(Conversation(client, lab.vip, listeners, port=lab.port)) for _ in range(50)
        ]
        for talking in talks:
            talking.exchange()
        syn_flood(lab.clients[1], lab.client_address(2), lab.vip, nowhere, 50_000)
        for talking in talks:
            talking.exchange()
        with Conversation(client, lab.vip, listeners, port=lab.port) as late:
            late.exchange()
        assert drops(balancer) == {}


def test_what_the_table_does_not_hold_is_reset() -> None:
    """After a reboot a client's next word is answered with a reset; a server's word enters its connection."""
    with ServersLab(2, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        balancer = start_stateful(lab, LISTENING)
        speaks, listens = (
            stack.enter_context(Conversation(lab.clients[0], lab.vip, listeners, port=lab.port))
            for _ in range(2)
        )
        for talking in (speaks, listens):
            talking.exchange()
        balancer.stop()
        balancer.down()
        balancer.start()
        let_resets_out(lab)
        listens.server.sendall(b"good morning")
        assert listens.client.recv(100) == b"good morning"
        listens.exchange()
        speaks.client.sendall(b"good evening")
        with pytest.raises(ConnectionResetError):
            speaks.client.recv(1)
        assert [row["state"] for row in balancer.client.connections()] == ["established"]
        assert balancer.client.counters()["connection_relearned"] == 1


def test_a_connection_of_a_cut_server_is_reset() -> None:
    """`poise servers remove --now` ends connections of stateful VIPs too."""
    with ServersLab(1, clients=1) as lab, Listeners(LISTENING) as listeners:
        listeners.beside(lab.servers)
        balancer = start_stateful(lab, LISTENING)
        with Conversation(lab.clients[0], lab.vip, listeners, port=lab.port) as talking:
            talking.exchange()
            let_resets_out(lab)
            balancer.client.remove("web1", now=True)
            talking.client.sendall(b"good evening")
            with pytest.raises(ConnectionResetError):
                talking.client.recv(1)
