# SPDX-License-Identifier: Apache-2.0
"""The VIPs and servers that the packets of these tests are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, ip_address

from poise.servers import cookie, maglev
from poise.servers.ends import end_of as end_in_tables
from poise.servers.model import (
    SERVER_IDS,
    Address,
    Hop,
    Mode,
    Model,
    Policy,
    Protocol,
    QuicIds,
    Server,
    State,
    Vip,
)
from tests.bpf.network import (
    CLIENT,
    CLIENT6,
    FAR_CLIENT,
    FAR_CLIENT6,
    LOOPBACK_MAC,
    LOOPED_CLIENT,
    LOOPED_CLIENT6,
    OWN_ADDRESS,
    OWN_ADDRESS6,
    SERVERS_MAC,
    SILENT_CLIENT,
    SILENT_CLIENT6,
)
from tests.bpf.packets import End

KEY = bytes(range(16))  # of the cookie
TOKEN = bytes.fromhex("02c0ffee0001")  # by which XDP hands a packet to the slow path
LOOPBACK = 1  # ifindex of the device on which test runs take place


def end_of(service: Server | Vip) -> End:
    """Return the end that packets to it carry."""
    return End(service.address, service.port)


def server_mac(server: Server) -> bytes:
    """Return the MAC address of a server's hop, made from its IP address."""
    return (b"\x02\xb0" if server.address.version == 4 else b"\x02\xb6") + server.address.packed[-4:]


def _server(number: int, address: str, port: int, state: State = State.READY) -> Server:
    return Server(number, f"{address}:{port}", ip_address(address), port, state, 0.0, declared=True)


FIRST = _server(0, "10.0.0.1", 8080)
SECOND = _server(1, "10.0.0.2", 8081)
DRAINED = _server(2, "10.0.0.3", 8080, State.DRAIN)
REMOVED = _server(3, "10.0.0.4", 8080, State.REMOVED)
CUT = _server(4, "10.0.0.5", 8080, State.CUT)
WITHOUT_HOP = _server(5, "10.0.0.6", 8080)
WITH_STALE_HOP = _server(6, "10.0.0.7", 8080)  # the kernel would not send there now
LOOPED = _server(7, "10.0.0.8", 8080, State.DRAIN)  # its hop is where the packet came from: one-arm
LAST = _server(511, "10.0.0.9", 65535, State.DRAIN)
NO_SERVER_ID = 300

WEB = Vip(
    0,
    "web",
    IPv4Address("192.0.2.10"),
    80,
    Policy.ROUND_ROBIN,
    (FIRST, SECOND, DRAINED, REMOVED, CUT, WITHOUT_HOP, WITH_STALE_HOP, LOOPED, LAST),
)

HASHED_SERVERS = tuple(_server(number, f"10.1.0.{number + 1}", 443) for number in range(3))
HASHED = Vip(
    1,
    "hashed",
    IPv4Address("192.0.2.11"),
    443,
    Policy.HASH,
    (*HASHED_SERVERS, _server(3, "10.1.0.9", 443, State.DRAIN)),
    mode=Mode.COOKIELESS,
)

EMPTY = Vip(2, "empty", IPv4Address("192.0.2.12"), 80, Policy.ROUND_ROBIN)
EMPTY_HASHED = Vip(3, "empty, hashed", IPv4Address("192.0.2.12"), 81, Policy.HASH, mode=Mode.COOKIELESS)
CLOSING_SERVER = _server(9, "10.2.0.1", 80, State.DRAIN)
CLOSING = Vip(4, "closing", IPv4Address("192.0.2.13"), 80, Policy.ROUND_ROBIN, (CLOSING_SERVER,))

FULL = Vip(
    5,
    "full",
    IPv4Address("192.0.2.14"),
    8080,
    Policy.ROUND_ROBIN,
    tuple(_server(number, f"10.3.{number // 256}.{number % 256}", 8080) for number in range(SERVER_IDS)),
)

FIRST6 = _server(0, "2001:db8:a::1", 8080)
SECOND6 = _server(1, "2001:db8:a::2", 8081)
DRAINED6 = _server(2, "2001:db8:a::3", 8080, State.DRAIN)
REMOVED6 = _server(3, "2001:db8:a::4", 8080, State.REMOVED)
CUT6 = _server(4, "2001:db8:a::5", 8080, State.CUT)
WITHOUT_HOP6 = _server(5, "2001:db8:a::6", 8080)
LOOPED6 = _server(7, "2001:db8:a::8", 8080, State.DRAIN)
LAST6 = _server(511, "2001:db8:a::9", 65535, State.DRAIN)
WEB6 = Vip(
    6,
    "web, IPv6",
    ip_address("2001:db8:f::10"),
    80,
    Policy.ROUND_ROBIN,
    (FIRST6, SECOND6, DRAINED6, REMOVED6, CUT6, WITHOUT_HOP6, LOOPED6, LAST6),
)
HASHED6 = Vip(
    7,
    "hashed, IPv6",
    ip_address("2001:db8:f::11"),
    443,
    Policy.HASH,
    tuple(_server(number, f"2001:db8:a:1::{number + 1}", 443) for number in range(3)),
    mode=Mode.COOKIELESS,
)
EMPTY6 = Vip(8, "empty, IPv6", ip_address("2001:db8:f::12"), 80, Policy.ROUND_ROBIN)


def _names(index: int, address: str, network: str) -> Vip:
    """A VIP of UDP with servers of every kind."""
    servers = (
        _server(0, f"{network}1", 53),
        _server(1, f"{network}2", 5353),
        _server(2, f"{network}3", 53, State.DRAIN),
        _server(3, f"{network}4", 53, State.CUT),
        _server(5, f"{network}6", 53),
    )
    name = f"names at {address}"
    return Vip(index, name, ip_address(address), 53, Policy.ROUND_ROBIN, servers, Protocol.UDP)


NAMES = _names(9, "192.0.2.10", "10.0.0.")
NAMES6 = _names(10, "2001:db8:f::10", "2001:db8:a::")
EMPTY_NAMES = Vip(11, "empty, UDP", ip_address("192.0.2.12"), 53, Policy.ROUND_ROBIN, (), Protocol.UDP)
EMPTY_NAMES6 = Vip(12, "empty, UDP6", ip_address("2001:db8:f::12"), 53, Policy.ROUND_ROBIN, (), Protocol.UDP)
HASHED_NAMES = Vip(
    13,
    "hashed, UDP",
    ip_address("192.0.2.11"),
    53,
    Policy.HASH,
    tuple(_server(number, f"10.1.0.{number + 1}", 53) for number in range(3)),
    Protocol.UDP,
    Mode.COOKIELESS,
)

# Behind links with tags, and behind one of which the MTU is smaller.
ONE_TAG, TWO_TAGS = (10,), (100, 4094)
TAGS = {
    ip_address("10.4.0.1"): ONE_TAG,
    ip_address("10.4.0.2"): TWO_TAGS,
    ip_address("2001:db8:a:4::1"): ONE_TAG,
    ip_address("2001:db8:a:4::2"): TWO_TAGS,
}
TAGGED = Vip(
    14,
    "tagged",
    ip_address("192.0.2.15"),
    80,
    Policy.ROUND_ROBIN,
    (_server(0, "10.4.0.1", 8080), _server(1, "10.4.0.2", 8080), _server(2, "10.4.0.3", 8080)),
)
TAGGED6 = Vip(
    15,
    "tagged, IPv6",
    ip_address("2001:db8:f::15"),
    80,
    Policy.ROUND_ROBIN,
    (
        _server(0, "2001:db8:a:4::1", 8080),
        _server(1, "2001:db8:a:4::2", 8080),
        _server(2, "2001:db8:a:4::3", 8080),
    ),
)
MTU = 1000
NARROW = _server(0, "10.5.0.1", 8080)
NARROW_VIP = Vip(16, "narrow", ip_address("192.0.2.16"), 80, Policy.ROUND_ROBIN, (NARROW,))
NARROW_NAMES_SERVER = _server(0, "10.5.0.1", 53)
NARROW_NAMES = Vip(
    17,
    "narrow, UDP",
    ip_address("192.0.2.16"),
    53,
    Policy.ROUND_ROBIN,
    (NARROW_NAMES_SERVER,),
    Protocol.UDP,
)

STATEFUL = Vip(
    18,
    "stateful",
    ip_address("192.0.2.17"),
    80,
    Policy.ROUND_ROBIN,
    (_server(0, "10.6.0.1", 8080), _server(1, "10.6.0.2", 8080)),
    mode=Mode.STATEFUL,
)
QUIC = Vip(
    19,
    "quic",
    ip_address("192.0.2.17"),
    443,
    Policy.ROUND_ROBIN,
    (_server(0, "10.6.0.1", 443), _server(1, "10.6.0.2", 443)),
    Protocol.QUIC,
    quic_ids=(QuicIds(config=0, server_id_length=2, nonce_length=6),),
)

MODEL = Model(
    (
        *(WEB, HASHED, EMPTY, EMPTY_HASHED, CLOSING, FULL, WEB6, HASHED6, EMPTY6),
        *(NAMES, NAMES6, EMPTY_NAMES, EMPTY_NAMES6, HASHED_NAMES),
        *(TAGGED, TAGGED6, NARROW_VIP, NARROW_NAMES, STATEFUL, QUIC),
    )
)


@dataclass(frozen=True)
class Family:
    """What there is of IPv4 and of IPv6 alike."""

    version: int
    web: Vip
    hashed: Vip
    empty: Vip
    names: Vip
    empty_names: Vip
    tagged: Vip
    client: Address
    far_client: Address
    silent_client: Address
    looped_client: Address
    own_address: Address

    def __str__(self) -> str:
        """Return its name in the sentences of tests."""
        return f"IPv{self.version}"


IPV4 = Family(
    *(4, WEB, HASHED, EMPTY, NAMES, EMPTY_NAMES, TAGGED),
    *(CLIENT, FAR_CLIENT, SILENT_CLIENT, LOOPED_CLIENT, OWN_ADDRESS),
)
IPV6 = Family(
    *(6, WEB6, HASHED6, EMPTY6, NAMES6, EMPTY_NAMES6, TAGGED6),
    *(CLIENT6, FAR_CLIENT6, SILENT_CLIENT6, LOOPED_CLIENT6, OWN_ADDRESS6),
)
FAMILIES = (IPV4, IPV6)
_HOPLESS = (WITHOUT_HOP, WITHOUT_HOP6)


def server_of(vip: Vip, number: int) -> Server:
    """Return the server of a VIP that has this id."""
    return next(server for server in vip.servers if server.id == number)


def hops(model: Model, servers_ifindex: int) -> Mapping[Address, Hop]:
    """Return the way to every server that has one."""
    known: dict[Address, Hop] = {}
    hopless = {server.address for server in _HOPLESS}
    for _, server in model.servers():
        ifindex, interface_mac = servers_ifindex, SERVERS_MAC
        if server in (LOOPED, LOOPED6):
            ifindex, interface_mac = LOOPBACK, LOOPBACK_MAC
        if server.address not in hopless:
            known[server.address] = Hop(
                server.address,
                ifindex,
                server_mac(server),
                interface_mac,
                valid=server != WITH_STALE_HOP,
                tags=TAGS.get(server.address, ()),
                mtu=MTU if server.address == NARROW.address else 0,
            )
    return known


def flow_hash(vip: Vip, client: End) -> int:
    """Return the hash of a connection to one of these VIPs."""
    return cookie.flow_hash(KEY, end_in_tables(vip).packed(), client.address, client.port)


@cache
def maglev_rows(weights: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Return the Maglev table of servers, by their ids and weights."""
    return maglev.table(dict(weights))
