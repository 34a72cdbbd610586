# SPDX-License-Identifier: Apache-2.0
"""The network around the balancer: what every client's packets meet on their way."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from poise.lab.namespaces import Lab
from tests.bpf.headers import Macs

CLIENTS_MAC = bytes.fromhex("02a000000001")  # the balancer's interface towards clients: eth0
SERVERS_MAC = bytes.fromhex("02b000000001")  # and towards servers: eth1
LOOPBACK_MAC = bytes(6)

CLIENT = IPv4Address("198.51.100.7")  # on eth0's link
CLIENT_MAC = bytes.fromhex("02a000000007")
GATEWAY = IPv4Address("198.51.100.254")  # the way to all other clients
GATEWAY_MAC = bytes.fromhex("02a0000000fe")
SILENT_CLIENT = IPv4Address("198.51.100.99")  # on eth0's link, its MAC unknown
OWN_ADDRESS = IPv4Address("198.51.100.1")
FAR_CLIENT = IPv4Address("93.184.216.34")  # beyond the gateway
NARROW_CLIENT = IPv4Address("100.64.0.1")  # behind a route with an MTU of NARROW_MTU
NARROW_MTU = 600
UNREACHABLE_CLIENT = IPv4Address("100.65.0.1")
BLACKHOLED_CLIENT = IPv4Address("100.66.0.1")
PROHIBITED_CLIENT = IPv4Address("100.67.0.1")
UNROUTED_CLIENT = IPv4Address("100.68.0.1")
LOOPED_CLIENT = IPv4Address("100.69.0.1")  # behind loopback, where test runs take place: one-arm
LOOPED_CLIENT_MAC = bytes.fromhex("02c000000007")
DIRECT_CLIENT = IPv4Address("100.70.0.1")
DIRECT = IPv4Network("100.70.0.0/16")

# The same of IPv6.
CLIENT6 = IPv6Address("2001:db8:c::7")
GATEWAY6 = IPv6Address("2001:db8:c::fe")
SILENT_CLIENT6 = IPv6Address("2001:db8:c::99")
OWN_ADDRESS6 = IPv6Address("2001:db8:c::1")
FAR_CLIENT6 = IPv6Address("2600:1406:bc00:53::b81e:94c8")
NARROW_CLIENT6 = IPv6Address("2001:db8:e::1")
NARROW_MTU6 = 1280
UNREACHABLE_CLIENT6 = IPv6Address("2001:db8:e:1::1")
BLACKHOLED_CLIENT6 = IPv6Address("2001:db8:e:2::1")
LOOPED_CLIENT6 = IPv6Address("2001:db8:e:4::1")
DIRECT_CLIENT6 = IPv6Address("2001:db8:d::1")
DIRECT6 = IPv6Network("2001:db8:d::/48")

# How replies leave for them: Ethernet target and source.
TO_CLIENT = Macs(CLIENT_MAC, CLIENTS_MAC)
TO_GATEWAY = Macs(GATEWAY_MAC, CLIENTS_MAC)
TO_LOOPED_CLIENT = Macs(LOOPED_CLIENT_MAC, LOOPBACK_MAC)


class Site(Lab):
    """A balancer between `clients` (its eth0) and `servers` (its eth1), with all neighbours known."""

    def build(self) -> None:
        """Make the namespaces, links, routes and neighbours."""
        self.here = self.namespace("here")
        self.clients = self.namespace("clients")
        self.servers = self.namespace("servers")
        self.link(self.here, "eth0", self.clients, "eth0")
        self.link(self.here, "eth1", self.servers, "eth0")
        # Test runs take place on the loopback device, so that is what must forward.
        self.here.sysctl({"net.ipv4.conf.all.forwarding": 1, "net.ipv4.conf.lo.forwarding": 1})
        # On the link towards servers IPv6 stays off, so that the kernel says nothing there on its own.
        for interface in ("lo", "eth0"):
            self.here.sysctl({f"net.ipv6.conf.{interface}.disable_ipv6": 0})
        self.here.sysctl({"net.ipv6.conf.lo.forwarding": 1})
        self.here.ip(
            f"link set eth0 address {CLIENTS_MAC.hex(':')}",
            f"link set eth1 address {SERVERS_MAC.hex(':')}",
            f"address add {OWN_ADDRESS}/24 dev eth0",
            "address add 10.0.0.254/8 dev eth1",
            f"neighbour add {CLIENT} lladdr {CLIENT_MAC.hex(':')} dev eth0 nud permanent",
            f"neighbour add {GATEWAY} lladdr {GATEWAY_MAC.hex(':')} dev eth0 nud permanent",
            f"neighbour add {LOOPED_CLIENT} lladdr {LOOPED_CLIENT_MAC.hex(':')} dev lo nud permanent",
            f"route add default via {GATEWAY}",
            f"route add {NARROW_CLIENT} via {GATEWAY} mtu lock {NARROW_MTU}",
            f"route add unreachable {UNREACHABLE_CLIENT}",
            f"route add blackhole {BLACKHOLED_CLIENT}",
            f"route add prohibit {PROHIBITED_CLIENT}",
            f"route add throw {UNROUTED_CLIENT}",  # as if there were no default route
            f"route add {LOOPED_CLIENT} dev lo",
            f"address add {OWN_ADDRESS6}/64 dev eth0 nodad",
            f"neighbour add {CLIENT6} lladdr {CLIENT_MAC.hex(':')} dev eth0 nud permanent",
            f"neighbour add {GATEWAY6} lladdr {GATEWAY_MAC.hex(':')} dev eth0 nud permanent",
            f"neighbour add {LOOPED_CLIENT6} lladdr {LOOPED_CLIENT_MAC.hex(':')} dev lo nud permanent",
            f"route add default via {GATEWAY6}",
            f"route add {NARROW_CLIENT6} via {GATEWAY6} mtu lock {NARROW_MTU6}",
            f"route add unreachable {UNREACHABLE_CLIENT6}",
            f"route add blackhole {BLACKHOLED_CLIENT6}",
            f"route add {LOOPED_CLIENT6} dev lo",
        )
