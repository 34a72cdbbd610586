# SPDX-License-Identifier: Apache-2.0
import random
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from poise.servers import maglev
from poise.servers.model import Mode, Model, Policy, Protocol, Server, State, Vip
from poise.servers.pick import Live, Pool, pick, random_number
from poise.servers.schedule import schedule
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.connection import Connection
from tests.bpf.headers import patched
from tests.bpf.packets import End, target_of, usual
from tests.bpf.services import KEY, flow_hash, hops

pytestmark = pytest.mark.root

PICKS = 10_000
IDS = (*range(3, 43), 511)
SERVERS = tuple(
    Server(
        number, f"s{number}", ip_address(f"10.7.{number // 256}.{number % 256}"), 80, State.READY, 0.0, True
    )
    for number in IDS
)
BY_ADDRESS = {server.address: server.id for server in SERVERS}
WEIGHTS = {number: 1 + number % 5 for number in IDS}
POOL = Pool(IDS, schedule(WEIGHTS), maglev.table(WEIGHTS), hot_above=600)
CLIENTS = int(IPv4Address("11.0.0.0"))
BY_LOAD = (Policy.POWER_OF_TWO, Policy.LEAST_LOADED, Policy.PREQUAL)


class Room:
    """A balancer with one VIP of that policy, and what Python thinks that it does."""

    def __init__(
        self, balancer: Balancer, servers_ifindex: int, policy: Policy, mode: Mode, protocol: Protocol
    ) -> None:
        self.vip = Vip(20, "picky", ip_address("192.0.2.20"), 80, policy, SERVERS, protocol, mode)
        self.balancer = balancer
        model = Model((self.vip,))
        balancer.fill(model, hops(model, servers_ifindex), KEY)
        balancer.start_afresh()
        balancer.put_pool(self.vip, POOL)
        self.lives = dict.fromkeys(IDS, Live())
        self.syn = Connection(self.vip).syn()
        self.turn = 0
        self.ready: set[int] | None = None

    def put_lives(self, lives: dict[int, Live]) -> None:
        """Have the servers be as busy as that."""
        self.lives = lives
        self.balancer.put_lives(self.vip, lives)

    def put_ready(self, ready: set[int]) -> None:
        """Have these servers take connections and no others, while the pool stays what it is."""
        self.ready = ready
        for number in IDS:
            self.balancer.put_state(self.vip, number, State.READY if number in ready else State.DRAIN)

    def send(self, client: End, isn: int) -> int | None:
        """Return the server that the SYN of a new connection goes to."""
        # The checksums are those of another packet, as nobody looks at them: they are only updated.
        at = {26: client.address.packed, 34: client.port.to_bytes(2), 38: isn.to_bytes(4)}
        result = self.balancer.run(patched(self.syn, at))
        if result.verdict != Verdict.REDIRECT:
            return None
        return BY_ADDRESS[IPv4Address(result.packet[30:34])]

    def expect(self, client: End, isn: int) -> int | None:
        """Return the server that it should go to."""
        hashed = flow_hash(self.vip, client)
        picked = pick(
            self.vip.policy,
            POOL,
            self.lives,
            hash=hashed,
            turn=self.turn,
            random=random_number(hashed, isn),
            ready=self.ready,
        )
        self.turn += 1
        if picked is not None and self.vip.policy in BY_LOAD:
            live = self.lives[picked]
            self.lives[picked] = live._replace(placed=live.placed + 1)
        return picked


@pytest.fixture
def room(balancer: Balancer, servers_ifindex: int, request: pytest.FixtureRequest) -> Iterator[Room]:
    """A balancer with a VIP of the wanted policy."""
    policy, mode, protocol = request.param
    room = Room(balancer, servers_ifindex, policy, mode, protocol)
    yield room
    room.put_ready(set(IDS))
    balancer.start_afresh()


def of(
    *policies: Policy, mode: Mode = Mode.STATELESS, protocol: Protocol = Protocol.TCP
) -> pytest.MarkDecorator:
    """Run a test with a VIP of each policy."""
    cases = [pytest.param((policy, mode, protocol), id=policy) for policy in policies]
    return pytest.mark.parametrize("room", cases, indirect=True)


def _draw(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  the same in each run


def _clients(seed: int, number: int) -> Iterator[tuple[End, int]]:
    """Connections, each from another port: of the client's address and ISN."""
    draw = _draw(seed)
    for place in range(number):
        client = End(IPv4Address(CLIENTS + draw.getrandbits(20)), 1024 + place % 60000)
        yield client, draw.getrandbits(32)


def _busy(seed: int) -> dict[int, Live]:
    draw = _draw(seed)
    return {
        number: Live(draw.randrange(1000), draw.randrange(9), 0, draw.choice((0, draw.randrange(1, 500))))
        for number in IDS
    }


@of(*Policy)
def test_python_picks_as_the_program_does(room: Room) -> None:
    """Pick for pick, the program and its counterpart in Python choose the same server."""
    room.put_lives(_busy(1))
    for place, (client, isn) in enumerate(_clients(2, PICKS)):
        if place == PICKS // 2:  # from here on the pool holds servers that take none any more
            room.put_ready(set(_draw(3).sample(IDS, 4)))
        assert room.send(client, isn) == room.expect(client, isn)


@of(
    Policy.WEIGHTED_ROUND_ROBIN,
    Policy.HASH,
    Policy.MAGLEV,
    Policy.POWER_OF_TWO,
    Policy.PREQUAL,
    Policy.LEAST_LOADED,
)
def test_without_loads_connections_go_by_weight(room: Room) -> None:
    """As long as nothing is known of loads, each policy places connections by the servers' weights."""
    number = 40 * sum(WEIGHTS.values())
    got = Counter(room.send(client, isn) for client, isn in _clients(4, number))
    for server in IDS:
        assert 0.5 < got[server] / (40 * WEIGHTS[server]) < 1.6, (server, got[server])


@of(*Policy)
def test_no_connection_goes_to_a_server_that_takes_none(room: Room) -> None:
    """From the moment that a server is drained, and before the pool is replaced, it gets no SYN."""
    draw = _draw(5)
    for _ in range(50):
        ready = set(draw.sample(IDS, draw.randrange(len(IDS))))
        room.put_ready(ready)
        for client, isn in _clients(draw.getrandbits(32), 40):
            server = room.send(client, isn)
            assert server in ready if ready else server is None


@of(*Policy, mode=Mode.STATEFUL)
def test_nor_in_stateful_mode(room: Room) -> None:
    """The same of a VIP with a table of connections."""
    ready = {7, 12}
    room.put_ready(ready)
    for client, isn in _clients(6, 200):
        assert room.send(client, isn) in ready


@of(*Policy)
def test_open_connections_stay_whatever_the_policy(room: Room) -> None:
    """The policy places new connections only: the others follow their cookie, to a drained server too."""
    connection = Connection(room.vip, End(IPv4Address(CLIENTS + 5), 5000))
    room.put_lives({number: Live(load=9) for number in IDS})
    room.put_ready({12})
    for server in SERVERS:
        echo = connection.stamped(1 << 20, server, mark=1)
        result = room.balancer.run(connection.request("A", usual(1, echo)))
        assert BY_ADDRESS[target_of(result.packet).address] == server.id


@of(Policy.HASH, Policy.MAGLEV, mode=Mode.COOKIELESS)
def test_without_cookie_every_packet_goes_by_hash(room: Room) -> None:
    """In mode cookieless all packets of a flow go to the server of its hash, and carry what they carried."""
    for client, isn in _clients(7, 300):
        connection = Connection(room.vip, client)
        server = room.send(client, isn)
        assert server == room.expect(client, isn)
        result = room.balancer.run(connection.request("A", usual(1, 0x12345678)))
        assert BY_ADDRESS[target_of(result.packet).address] == server
        (of_server,) = (one for one in SERVERS if one.id == server)
        reply = connection.reply(of_server, "A", usual(0x12345678, 1))
        assert room.balancer.run(reply).packet[14:] == connection.at_client(reply)[14:]


@of(Policy.LEAST_LOADED, Policy.POWER_OF_TWO, Policy.PREQUAL)
def test_a_late_report_draws_no_crowd(room: Room) -> None:
    """However old the loads are, connections placed since count: a server that was idle does not get all."""
    step = 10
    room.put_lives({number: Live(load=0 if number == IDS[0] else 100, step=step) for number in IDS})
    got = Counter(room.send(client, isn) for client, isn in _clients(8, 400))
    assert max(got.values()) <= 400 // len(IDS) * 3
    placed = {number: live.placed for number, live in room.balancer.lives(room.vip).items()}
    assert {number: count for number, count in placed.items() if count} == dict(got)


@of(Policy.POWER_OF_TWO, Policy.LEAST_LOADED, Policy.PREQUAL, protocol=Protocol.UDP)
def test_new_flows_of_udp_go_by_load(room: Room) -> None:
    """A policy that looks at the load places flows without cookie too, and they stay there."""
    chosen = {number: Live(load=0 if number < 23 else 10**6) for number in IDS}
    room.put_lives(chosen)
    got: Counter[int] = Counter()
    for client, _ in _clients(9, 300):
        connection = Connection(room.vip, client)
        servers = {
            BY_ADDRESS[target_of(room.balancer.run(connection.datagram()).packet).address] for _ in range(3)
        }
        assert len(servers) == 1
        got[servers.pop()] += 1
    idle = sum(count for number, count in got.items() if number < 23)
    assert idle > 200
    assert sum(live.placed for live in room.balancer.lives(room.vip).values()) == 300


@of(Policy.ROUND_ROBIN)
def test_an_empty_pool_takes_none(room: Room) -> None:
    """Without a schedule a SYN is answered with a reset, of any policy."""
    for policy in range(6):
        room.balancer.put_pool(room.vip, Pool())
        room.balancer.change_vip(room.vip, policy=policy)
        assert room.send(End(IPv4Address(CLIENTS), 2000 + policy), 1) is None
