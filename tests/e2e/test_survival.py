# SPDX-License-Identifier: Apache-2.0
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Literal

import pytest

from poise.errors import PoiseError
from poise.lab.balancer import Balancer
from poise.lab.conversation import Conversation, Listeners
from poise.lab.duplicates import Duplicates
from poise.lab.long_lived import LongLivedCounts
from poise.lab.network import ServersLab
from poise.lab.traffic import Traffic, long_lived
from tests.e2e.counters import drops
from tests.e2e.http import ask

pytestmark = pytest.mark.root

LISTENING = 7000
CONNECTIONS = 200
INTERVAL = 0.5  # seconds between two requests of a connection
WITHIN = 30.0  # seconds
IDLE = (35, 70, 90)  # seconds
AT_ONCE = 2.0  # seconds: twice the interval, and something for a busy machine


def open_long_lived(lab: ServersLab, patience: float = 5.0) -> Traffic[LongLivedCounts]:
    """Connections that ask twice a second, all open, and break if they have to wait longer (seconds)."""
    traffic = long_lived(
        lab.clients[0], lab.vip, lab.port, connections=CONNECTIONS, interval=INTERVAL, timeout=patience
    )
    traffic.wait_until(lambda counts: counts.opened == CONNECTIONS, WITHIN)
    return traffic


def go_on(traffic: Traffic[LongLivedCounts]) -> None:
    """Return when all connections that are not broken have asked and were answered again."""
    now = traffic.counts
    enough = now.answers + 2 * (CONNECTIONS - now.broken)
    traffic.wait_until(lambda counts: counts.answers >= enough, WITHIN)


def add(balancer: Balancer, lab: ServersLab, name: str) -> None:
    """Add a server of the lab."""
    server = lab.server(name)
    balancer.client.add(server.address, server.port, name=name)


def test_connections_survive_changes_of_the_servers() -> None:
    """No open connection breaks when servers are added, drained, removed and added again."""
    with ServersLab(5) as lab:
        balancer = lab.start_balancer(lab.servers[:3])
        connections = open_long_lived(lab)
        add(balancer, lab, "web4")
        go_on(connections)
        balancer.client.drain("web1")
        go_on(connections)
        balancer.client.remove("web2")
        add(balancer, lab, "web5")
        go_on(connections)
        answers = [ask(lab.clients[1], lab.vip, lab.port) for _ in range(6)]
        assert sorted(answers) == ["web3"] * 2 + ["web4"] * 2 + ["web5"] * 2
        balancer.client.remove("web1")
        add(balancer, lab, "web2")
        go_on(connections)
        add(balancer, lab, "web1")
        go_on(connections)
        assert connections.finish().reasons == {}
        assert drops(balancer) == {}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(Balancer.kill, id="SIGKILL"),
        pytest.param(Balancer.stop, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_connections_survive_the_end_of_the_daemon(end: Callable[[Balancer], None]) -> None:
    """Without its daemon poise goes on, for new connections too, and a new daemon takes over."""
    with ServersLab(4) as lab:
        balancer = lab.start_balancer(lab.servers[:3])
        connections = open_long_lived(lab)
        add(balancer, lab, "web4")
        balancer.client.drain("web1")
        end(balancer)
        go_on(connections)
        answers = [ask(lab.clients[1], lab.vip, lab.port) for _ in range(6)]
        assert sorted(answers) == ["web2"] * 2 + ["web3"] * 2 + ["web4"] * 2
        balancer.start()
        go_on(connections)
        states = {server["name"]: server["state"] for server in balancer.client.servers()}
        assert states == {"web1": "drain", "web2": "ready", "web3": "ready", "web4": "ready"}
        balancer.client.remove("web2")
        add(balancer, lab, "web1")
        go_on(connections)
        assert connections.finish().reasons == {}
        assert drops(balancer) == {}


@pytest.mark.slow
def test_connections_survive_a_daemon_killed_amid_changes() -> None:
    """Wherever in a change the daemon is killed, connections go on, and the next daemon finds all servers."""
    with ServersLab(4) as lab:
        balancer = lab.start_balancer()
        connections = open_long_lived(lab)
        for milliseconds in (2, 5, 11, 17, 23, 31):
            with ThreadPoolExecutor(1) as pool:
                changing = pool.submit(change_for_ever, balancer, lab)
                time.sleep(milliseconds / 1000)
                balancer.kill()
                assert isinstance(changing.exception(), PoiseError)
            go_on(connections)
            balancer.start()
            for server in balancer.client.servers():
                if server["state"] != "ready":
                    add(balancer, lab, server["name"])
            answers = [ask(lab.clients[1], lab.vip, lab.port) for _ in range(8)]
            assert sorted(answers) == sorted(["web1", "web2", "web3", "web4"] * 2)
        assert connections.finish().reasons == {}
        assert drops(balancer) == {}


def change_for_ever(balancer: Balancer, lab: ServersLab) -> None:
    """Remove servers and add them again, until the daemon does not answer any more."""
    for name in itertools.cycle(["web1", "web2", "web3"]):
        balancer.client.remove(name)
        add(balancer, lab, name)


def test_idle_connections_survive_a_reboot_of_the_balancer() -> None:
    """All that connections need is on disk: with nothing left in the kernel, a new start finds their servers.

    Among them some that have not said a word yet, and whose server has left the list meanwhile.
    """
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        conversations = [
            stack.enter_context(Conversation(lab.clients[0], lab.vip, listeners, port=lab.port))
            for _ in range(30)
        ]
        for conversation in conversations[::2]:
            conversation.exchange()
        balancer.client.remove("web1")
        balancer.stop()
        balancer.down()
        assert not lab.pins.exists()
        balancer.start()
        for conversation in conversations:
            conversation.exchange()
        assert drops(balancer) == {}


@pytest.mark.parametrize("repeated", ["questions", "answers"])
def test_no_answer_gets_past_poise(repeated: Literal["questions", "answers"]) -> None:
    """While poise ends or starts, clients get answers in the VIP's name, or none; others they would reset.

    Answers to what is asked meanwhile, and, if the machine forwards only for poise, such as servers repeat.
    """
    with ServersLab(1, clients=1) as lab, Listeners(LISTENING) as listeners:
        (client,) = lab.clients
        (server,) = lab.servers
        listeners.beside(lab.servers)
        if repeated == "answers":
            lab.router.sysctl({"net.ipv4.ip_forward": 0})
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        with Conversation(client, lab.vip, listeners, port=lab.port) as conversation:
            if repeated == "questions":
                duplicates = Duplicates(client, conversation, conversation.name[1])
            else:
                duplicates = Duplicates(server.namespace, conversation, LISTENING)
            balancer.stop()
            with duplicates:
                balancer.down()
                assert client.counters()["TcpOutRsts"] == 0
                balancer.start()
                assert client.counters()["TcpOutRsts"] == 0
            conversation.exchange()


def test_busy_connections_survive_a_reboot_of_the_balancer() -> None:
    """What clients ask while no poise runs is answered later, if the machine forwards only for poise.

    Else what servers repeat, since their clients could not confirm it, would arrive in their own names.
    """
    with ServersLab(3) as lab:
        lab.router.sysctl({"net.ipv4.ip_forward": 0})
        balancer = lab.start_balancer()
        connections = open_long_lived(lab, patience=WITHIN)  # as long as TCP repeats itself
        go_on(connections)
        balancer.stop()
        balancer.down()
        assert not lab.pins.exists()
        balancer.start()
        go_on(connections)
        assert connections.finish().reasons == {}
        assert drops(balancer) == {}


def test_remove_now_resets_the_connections_of_that_server_alone() -> None:
    """With --now a server's clients are told at their next word, and nobody else notices anything."""
    with ServersLab(3, clients=1) as lab:
        balancer = lab.start_balancer()
        connections = open_long_lived(lab)
        of_server = connections.counts.servers["web2"]
        balancer.client.remove("web2", now=True)
        connections.wait_until(lambda counts: counts.broken >= of_server, AT_ONCE)
        go_on(connections)
        assert connections.finish().reasons == {"reset": of_server}
        # Only the server's own last words, to clients that are gone.
        assert drops(balancer).keys() <= {"drop_reply_of_cut_server"}


@pytest.mark.slow
def test_connections_survive_idle_minutes() -> None:
    """However long a connection has been idle, its next word is answered at once.

    Timestamps whose upper bits are replaced look old to PAWS after 65 s (or 33 s).
    """
    with ServersLab(3, clients=1) as lab, Listeners(LISTENING) as listeners, ExitStack() as stack:
        listeners.beside(lab.servers)
        balancer = lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])
        conversations = [
            stack.enter_context(Conversation(lab.clients[0], lab.vip, listeners, port=lab.port)) for _ in IDLE
        ]
        start = time.monotonic()
        for conversation in conversations:
            conversation.exchange()
        for idle, conversation in zip(IDLE, conversations, strict=True):
            time.sleep(max(0.0, start + idle - time.monotonic()))
            conversation.exchange()
        assert lab.clients[0].counters()["TcpRetransSegs"] == 0
        assert drops(balancer) == {}
