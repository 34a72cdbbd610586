# SPDX-License-Identifier: Apache-2.0
"""A balancer of both IP versions; ICMP errors as they come, and as they must leave: built anew by scapy."""

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Literal

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from poise.lab.namespaces import Lab
from poise.servers import cookie
from poise.servers.ends import end_of
from poise.servers.model import Address, Hop, Mode, Model, Policy, Protocol, Server, State, Vip
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.packets import usual
from tests.bpf.services import KEY

Family = Literal[4, 6]
FAMILIES: tuple[Family, ...] = (4, 6)

HERE_MAC = "02:a0:00:00:00:01"  # eth0, towards clients
CLIENT_MAC = "02:a0:00:00:00:07"
SERVERS_MAC = "02:b0:00:00:00:01"  # eth1
SERVER_MAC = "02:b0:00:00:00:02"

OWN = {4: "198.51.100.1", 6: "2001:db8:c::1"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:c::7"}
SILENT_CLIENT = {4: "198.51.100.99", 6: "2001:db8:c::99"}  # its MAC address is unknown
DIRECT_CLIENT = {4: "198.51.100.200", 6: "2001:db8:c::200"}
UNREACHABLE_CLIENT = {4: "100.65.0.1", 6: "2001:db8:dead::1"}
ROUTER = {4: "203.0.113.9", 6: "2001:db8:f::9"}  # who found the error, anywhere
VIP = {4: "192.0.2.1", 6: "2001:db8::1"}
SERVERS = {4: "10.0.0.", 6: "2001:db8:5::"}  # and their ids

READY, DRAINING, CUT, UNREACHABLE = 3, 200, 4, 5
STATES = {READY: State.READY, DRAINING: State.DRAIN, CUT: State.CUT, UNREACHABLE: State.DRAIN}
SERVER_MTU = {READY: 0, DRAINING: 1400}  # bytes; 0: unknown
WEB, DNS, HASHED = 80, 53, 443  # ports of the VIPs,
SERVER_PORT = {WEB: 8080, DNS: 5353, HASHED: 8443}  # and of their servers
CLIENT_PORT = 40000
LIMITS = {"icmp_copies": 20000, "too_big": 10000}  # per second and CPU, of contract.h


def server_address(family: Family, number: int) -> str:
    """Return a server's address; its host number is its id."""
    return f"{SERVERS[family]}{number:x}" if family == 6 else f"{SERVERS[family]}{number}"


def _vip(index: int, family: Family, port: int) -> Vip:
    servers = tuple(
        Server(
            number,
            f"s{number}",
            ip_address(server_address(family, number)),
            SERVER_PORT[port],
            state,
            0.0,
            declared=True,
        )
        for number, state in STATES.items()
    )
    policy = Policy.HASH if port == HASHED else Policy.ROUND_ROBIN
    protocol = Protocol.UDP if port == DNS else Protocol.TCP
    mode = Mode.COOKIELESS if port == HASHED else Mode.STATELESS
    return Vip(index, f"v{index}", ip_address(VIP[family]), port, policy, servers, protocol, mode)


VIPS = {
    (family, port): _vip(index, family, port)
    for index, (family, port) in enumerate((family, port) for family in FAMILIES for port in SERVER_PORT)
}
MODEL = Model(tuple(VIPS.values()))


def hops(ifindex: int, tags: tuple[int, ...] = ()) -> Mapping[Address, Hop]:
    """Return the ways to all servers that have one."""
    mac, interface_mac = (bytes.fromhex(mac.replace(":", "")) for mac in (SERVER_MAC, SERVERS_MAC))
    return {
        server.address: Hop(
            server.address,
            ifindex,
            mac,
            interface_mac,
            valid=True,
            tags=tags,
            mtu=SERVER_MTU.get(server.id, 0),
        )
        for _, server in MODEL.servers()
        if server.id != UNREACHABLE
    }


DIRECT = frozenset(ip_network(address) for address in DIRECT_CLIENT.values())


class Site(Lab):
    """`here` has eth0 towards clients and eth1 towards servers."""

    def build(self) -> None:
        """Make the three machines."""
        self.here, self.clients, self.servers = map(self.namespace, ("here", "clients", "servers"))
        for namespace in (self.here, self.clients, self.servers):
            namespace.enable_ipv6()
        self.link(self.here, "eth0", self.clients, "eth0")
        self.link(self.here, "eth1", self.servers, "eth0")
        # Test runs take place on the loopback device, so that is what must forward.
        self.here.sysctl(
            {
                "net.ipv4.conf.all.forwarding": 1,
                "net.ipv4.conf.lo.forwarding": 1,
                "net.ipv6.conf.all.forwarding": 1,
                "net.ipv6.conf.lo.forwarding": 1,
            }
        )
        self.here.ip(
            f"link set eth0 address {HERE_MAC}",
            f"link set eth1 address {SERVERS_MAC}",
            f"address add {OWN[4]}/24 dev eth0",
            f"address add {OWN[6]}/64 dev eth0 nodad",
            f"route add unreachable {UNREACHABLE_CLIENT[4]}",
            f"route add unreachable {UNREACHABLE_CLIENT[6]}",
            f"neighbour add {CLIENT[4]} lladdr {CLIENT_MAC} dev eth0 nud permanent",
            f"neighbour add {CLIENT[6]} lladdr {CLIENT_MAC} dev eth0 nud permanent",
        )


@dataclass(frozen=True)
class Flow:
    """A client's flow to a VIP."""

    family: Family
    port: int = WEB
    client: str = ""

    @property
    def at_client(self) -> tuple[str, int]:
        """The client's end."""
        return (self.client or CLIENT[self.family], CLIENT_PORT)

    @property
    def at_vip(self) -> tuple[str, int]:
        """The VIP's end."""
        return (VIP[self.family], self.port)

    def at_server(self, number: int) -> tuple[str, int]:
        """The end of the server with this id."""
        return (server_address(self.family, number), SERVER_PORT[self.port])

    def stamped(self, number: int) -> int:
        """Return a TSval with the cookie of the server with this id."""
        vip = VIPS[self.family, self.port]
        address, port = self.at_client
        flow_hash = cookie.flow_hash(KEY, end_of(vip).packed(), ip_address(address), port)
        return 0x12345600 | (number ^ flow_hash) % 512 | 0x200

    def packet(
        self,
        source: tuple[str, int],
        target: tuple[str, int],
        options: bytes = b"",
        payload: bytes = b"x" * 100,
        *,
        flags: str = "A",
        extension: Packet | None = None,
    ) -> Packet:
        """Return an IP packet of this flow, with the usual checksums."""
        if self.port == DNS:
            transport: Packet = UDP(sport=source[1], dport=target[1])
        else:
            options = options.ljust(-(-len(options) // 4) * 4, b"\0")
            transport = TCP(
                sport=source[1], dport=target[1], flags=flags, seq=1000, dataofs=5 + len(options) // 4
            ) / Raw(options)
        return ip(self.family, source[0], target[0], extension) / transport / Raw(payload)

    def reply(
        self, options: bytes = b"", payload: bytes = b"x" * 100, extension: Packet | None = None
    ) -> bytes:
        """Return a packet from the VIP to the client."""
        return bytes(self.packet(self.at_vip, self.at_client, options, payload, extension=extension))

    def readdressed(self, quote: bytes, source: tuple[str, int], target: tuple[str, int]) -> bytes:
        """Return a quoted packet with other ends; the checksum of TCP and UDP stays as it was."""
        layer = (IP if self.family == 4 else IPv6)(quote)
        layer.src, layer.dst = source[0], target[0]
        if self.family == 4:
            del layer.chksum
            head = layer.ihl * 4
        else:
            head = quote.index(_ports(quote, self), 40)
        changed = bytearray(bytes(layer)[:head] + quote[head:])
        changed[head : head + 4] = source[1].to_bytes(2) + target[1].to_bytes(2)
        return bytes(changed)


def _ports(quote: bytes, flow: Flow) -> bytes:
    """The four bytes of the ports in a quote, whichever way the quoted packet went."""
    inner = [flow.at_vip[1], SERVER_PORT[flow.port]]
    for service in inner:
        for pair in ((service, CLIENT_PORT), (CLIENT_PORT, service)):
            ports = pair[0].to_bytes(2) + pair[1].to_bytes(2)
            if ports in quote[40:]:
                return ports
    raise AssertionError("the quote has no ports of this flow")


def ip(family: Family, source: str, target: str, extension: Packet | None = None, ttl: int = 64) -> Packet:
    """Return an IP header, with an IPv6 extension header behind it."""
    header = IP(src=source, dst=target, ttl=ttl) if family == 4 else IPv6(src=source, dst=target, hlim=ttl)
    return header / extension if extension else header


ERRORS: dict[Family, dict[str, Packet]] = {
    4: {
        "port unreachable": ICMP(type=3, code=3),
        "fragmentation needed": ICMP(type=3, code=4, nexthopmtu=1280),
        "time exceeded": ICMP(type=11, code=0),
        "parameter problem": ICMP(type=12, code=0),
    },
    6: {
        "port unreachable": ICMPv6DestUnreach(code=4),
        "packet too big": ICMPv6PacketTooBig(mtu=1280),
        "time exceeded": ICMPv6TimeExceeded(code=0),
        "parameter problem": ICMPv6ParamProblem(code=1, ptr=6),
    },
}
family_each = pytest.mark.parametrize("family", FAMILIES)
error_each = pytest.mark.parametrize(
    ("family", "kind"),
    [pytest.param(f, k, id=f"{f}, {name}") for f in FAMILIES for name, k in ERRORS[f].items()],
)
TOO_BIG: dict[Family, Packet] = {4: ERRORS[4]["fragmentation needed"], 6: ERRORS[6]["packet too big"]}


def error(
    family: Family,
    source: str,
    target: str,
    quote: bytes,
    kind: Packet | None = None,
    *,
    ttl: int = 64,
    extension: Packet | None = None,
) -> Packet:
    """Return an IP packet with an ICMP error, its checksums computed from scratch."""
    icmp = (kind or TOO_BIG[family]).copy()
    return ip(family, source, target, extension, ttl) / icmp / Raw(quote)


def tagged(tags: tuple[int, ...]) -> Packet | None:
    """Return VLAN tags, the outer one first."""
    if len(tags) == 2:
        return Dot1AD(vlan=tags[0]) / Dot1Q(vlan=tags[1])
    return Dot1Q(vlan=tags[0]) if tags else None


def frame(target: str, source: str, packet: Packet, tags: tuple[int, ...] = ()) -> bytes:
    """Return it in Ethernet."""
    header = Ether(dst=target, src=source)
    if tags:
        # scapy knows the type of the outer tag by the class of its layer.
        return bytes(header / tagged(tags) / packet)
    return bytes(header / packet)


def arriving(packet: Packet, tags: tuple[int, ...] = ()) -> bytes:
    """Return a frame from the side of the clients."""
    return frame(HERE_MAC, CLIENT_MAC, packet, tags)


def from_servers(packet: Packet, tags: tuple[int, ...] = ()) -> bytes:
    """Return a frame from the side of the servers."""
    return frame(SERVERS_MAC, SERVER_MAC, packet, tags)


def to_servers(packet: Packet, tags: tuple[int, ...] = ()) -> bytes:
    """Return a frame as it must leave for a server."""
    return frame(SERVER_MAC, SERVERS_MAC, packet, tags)


def to_client(packet: Packet, tags: tuple[int, ...] = ()) -> bytes:
    """Return a frame as it must leave for the client."""
    return frame(CLIENT_MAC, HERE_MAC, packet, tags)


def counted(balancer: Balancer, before: Mapping[str, int]) -> dict[str, int]:
    """Return which events were counted since."""
    return {
        name: number - before.get(name, 0)
        for name, number in balancer.events().items()
        if number != before.get(name, 0)
    }


def run_with_budget(balancer: Balancer, budget: str, left: int, run: Callable[[], object]) -> dict[str, int]:
    """Return what is counted when so much of a budget is left, within one second of its clock."""
    while True:
        second = int(time.monotonic())
        balancer.spend(budget, LIMITS[budget], second, left=left)
        before = balancer.events()
        run()
        if int(time.monotonic()) == second:
            return counted(balancer, before)


def fill(balancer: Balancer, tags: tuple[int, ...] = ()) -> None:
    """Have the tables hold MODEL, with these tags on the ways to its servers."""
    balancer.fill(MODEL, hops(socket.if_nametoindex("eth1"), tags), KEY, DIRECT)


def outcome(balancer: Balancer, packet: bytes) -> tuple[Verdict, str, dict[str, int]]:
    """Run a frame: what becomes of it, in hexadecimal, empty if dropped; and what is counted."""
    before = balancer.events()
    result = balancer.run(packet)
    out = "" if result.verdict == Verdict.DROP else result.packet.hex(" ")
    return result.verdict, out, counted(balancer, before)


def stamped(flow: Flow, number: int) -> bytes:
    """Return options with the timestamp that the server with this id sent."""
    return usual(flow.stamped(number), 7)


def at_server(flow: Flow, quote: bytes, number: int, kind: Packet | None = None, ttl: int = 63) -> Packet:
    """The error as the server gets it."""
    address, _ = flow.at_server(number)
    seen = flow.readdressed(quote, flow.at_server(number), flow.at_client)
    return error(flow.family, ROUTER[flow.family], address, seen, kind, ttl=ttl)


def of_router(flow: Flow, quote: bytes, kind: Packet | None = None, ttl: int = 64) -> Packet:
    """Return an error that a router sends about a packet of the VIP."""
    return error(flow.family, ROUTER[flow.family], VIP[flow.family], quote, kind, ttl=ttl)


def cut_short(quote: bytes, family: Family, kept: int) -> bytes:
    """Return a quote that ends so many bytes after its IP header."""
    return quote[: (20 if family == 4 else 40) + kept]
