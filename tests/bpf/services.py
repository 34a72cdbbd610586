# SPDX-License-Identifier: Apache-2.0
"""The VIPs and servers that the packets of these tests are for."""

from collections.abc import Mapping
from ipaddress import IPv4Address

from poise.servers import cookie
from poise.servers.ends import end_of as end_in_tables
from poise.servers.model import SERVER_IDS, Hop, Model, Policy, Server, State, Vip
from tests.bpf.network import LOOPBACK_MAC, SERVERS_MAC
from tests.bpf.packets import End

KEY = bytes(range(16))  # of the cookie
TOKEN = bytes.fromhex("02c0ffee0001")  # by which XDP hands a packet to the slow path
LOOPBACK = 1  # ifindex of the device on which test runs take place


def end_of(service: Server | Vip) -> End:
    """Return the end that packets to it carry."""
    return End(service.address, service.port)


def server_mac(server: Server) -> bytes:
    """Return the MAC address of a server's hop, made from its IP address."""
    return b"\x02\xb0" + server.address.packed


def _server(number: int, address: str, port: int, state: State = State.READY) -> Server:
    return Server(number, f"{address}:{port}", IPv4Address(address), port, state, 0.0, declared=True)


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
)

EMPTY = Vip(2, "empty", IPv4Address("192.0.2.12"), 80, Policy.ROUND_ROBIN)
EMPTY_HASHED = Vip(3, "empty, hashed", IPv4Address("192.0.2.12"), 81, Policy.HASH)
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

MODEL = Model((WEB, HASHED, EMPTY, EMPTY_HASHED, CLOSING, FULL))


def hops(model: Model, servers_ifindex: int) -> Mapping[IPv4Address, Hop]:
    """Return the way to every server that has one."""
    known = {}
    for _, server in model.servers():
        ifindex, interface_mac = servers_ifindex, SERVERS_MAC
        if server == LOOPED:
            ifindex, interface_mac = LOOPBACK, LOOPBACK_MAC
        if server != WITHOUT_HOP:
            valid = server != WITH_STALE_HOP
            known[server.address] = Hop(server.address, ifindex, server_mac(server), interface_mac, valid)
    return known


def flow_hash(vip: Vip, client: End) -> int:
    """Return the hash of a connection to one of these VIPs."""
    return cookie.flow_hash(KEY, end_in_tables(vip).packed(), client.address, client.port)
