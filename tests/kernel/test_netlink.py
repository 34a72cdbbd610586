# SPDX-License-Identifier: Apache-2.0
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest
from pyroute2.netlink import rtnl

from poise.errors import PoiseError
from poise.kernel import netlink
from poise.kernel.rtnetlink import Message, decode
from tests.kernel.two_machines import TwoMachines, living_here, mac_of

pytestmark = pytest.mark.root

PEER = IPv4Address("10.1.0.2")
PEER6 = IPv6Address("2001:db8::2")
VIP = IPv4Interface("10.1.0.100/32")
VIP6 = IPv6Interface("2001:db8::100/128")


def test_interface_is_as_the_kernel_has_it() -> None:
    """An interface is told with its index, MAC, MTU, driver, state and all of its addresses."""
    with living_here() as machines:
        machines.here.ip("address add 192.0.2.1/28 dev eth0", "link set eth0 mtu 1400")
        found = netlink.interface("eth0")
        assert found.mac == mac_of(machines.here)
        assert (found.name, found.mtu, found.driver, found.up) == ("eth0", 1400, "veth", True)
        assert found.addresses == (IPv4Interface("10.1.0.1/24"), IPv4Interface("192.0.2.1/28"))
        assert netlink.interface_name(found.index) == "eth0"
        assert (netlink.interface_index("eth0"), netlink.interface_index("eth9")) == (found.index, None)
        machines.here.ip("link set eth0 down")
        assert not netlink.interface("eth0").up


@pytest.mark.parametrize("name", ["eth9", "", "a-name-that-no-interface-can-have"])
def test_missing_interface_is_answered_with_those_that_exist(name: str) -> None:
    """Who mistypes an interface is told which there are."""
    with (
        living_here(),
        pytest.raises(PoiseError, match=f"^no interface {name}: the interfaces are lo, eth0$"),
    ):
        netlink.interface(name)


def test_route_names_the_gateway_where_there_is_one() -> None:
    """A route leads straight to a neighbour, and to anyone else by the gateway."""
    with living_here() as machines:
        machines.here.ip("route add 10.7.0.0/16 via 10.1.0.2")
        index = netlink.interface("eth0").index
        assert netlink.route(PEER) == netlink.Route(index, None)
        assert netlink.route(IPv4Address("10.7.0.1")) == netlink.Route(index, PEER)


def test_route_by_an_ipv6_gateway() -> None:
    """An IPv4 route may lead by an IPv6 gateway (RFC 5549), whose MAC is an IPv6 neighbour's."""
    with living_here() as machines:
        machines.here.sysctl({"net.ipv6.conf.eth0.disable_ipv6": 0})
        machines.here.ip(
            "route add 10.7.0.0/16 via inet6 fe80::2 dev eth0",
            "neighbour add fe80::2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
        )
        hop = netlink.next_hop(IPv4Address("10.7.0.1"))
        assert (hop.address, hop.mac, hop.valid) == (
            IPv6Address("fe80::2"),
            bytes.fromhex("020000000002"),
            True,
        )


def enable_ipv6(machines: TwoMachines) -> None:
    """Give this machine 2001:db8::1/64 on its eth0."""
    machines.here.sysctl({"net.ipv6.conf.eth0.disable_ipv6": 0})
    machines.here.ip("address add 2001:db8::1/64 dev eth0 nodad")


def test_route_of_ipv6_names_the_gateway_where_there_is_one() -> None:
    """Ways of IPv6 are looked up as those of IPv4 are, also by a gateway's link-local address."""
    with living_here() as machines:
        enable_ipv6(machines)
        machines.here.ip(
            "route add 2001:db8:7::/48 via 2001:db8::2", "route add 2001:db8:8::/48 via fe80::2 dev eth0"
        )
        index = netlink.interface("eth0").index
        assert netlink.route(PEER6) == netlink.Route(index, None)
        assert netlink.route(IPv6Address("2001:db8:7::1")) == netlink.Route(index, PEER6)
        assert netlink.route(IPv6Address("2001:db8:8::1")).gateway == IPv6Address("fe80::2")


def test_a_route_may_have_an_mtu_of_its_own() -> None:
    """The MTU of a route is told where it has one."""
    with living_here() as machines:
        enable_ipv6(machines)
        machines.here.ip(
            "route add 10.7.0.0/16 via 10.1.0.2 mtu 1400",
            "route add 2001:db8:7::/48 via 2001:db8::2 mtu 1300",
        )
        assert [netlink.route(IPv4Address(far)).mtu for far in ("10.1.0.2", "10.7.0.1")] == [0, 1400]
        assert [netlink.route(IPv6Address(far)).mtu for far in ("2001:db8::2", "2001:db8:7::1")] == [0, 1300]


@pytest.mark.parametrize(
    ("command", "address", "why"),
    [
        ("route flush cache", "2001:db8:7::1", "no route leads to it"),
        ("route add unreachable 2001:db8:7::/48", "2001:db8:7::1", 'its route is "unreachable"'),
        ("route add prohibit 2001:db8:7::/48", "2001:db8:7::1", 'its route is "prohibit"'),
        ("route add blackhole 2001:db8:7::/48", "2001:db8:7::1", 'its route is "blackhole"'),
        ("route flush cache", "2001:db8::1", "it is an address of this machine"),
    ],
)
def test_no_route_of_ipv6_says_why(command: str, address: str, why: str) -> None:
    """An address of IPv6 that no packet would leave for is told with the reason."""
    with living_here() as machines:
        enable_ipv6(machines)
        machines.here.ip(command)
        with pytest.raises(netlink.NoRoute, match=f"^{address} cannot be reached.*: {why}$"):
            netlink.next_hop(IPv6Address(address))


def test_an_address_of_ipv6_can_be_used_at_once_and_goes_again() -> None:
    """An address of IPv6 waits for no duplicate detection, is no source by itself, and leaves no route."""
    with living_here() as machines:
        enable_ipv6(machines)
        index = netlink.interface("eth0").index
        shown = ["ip", "-6", "address", "show", "dev", "eth0"]
        routes = ["ip", "-6", "route", "show", "table", "all"]
        before = machines.here.run(routes)
        assert [netlink.add_address(index, VIP6) for _ in range(2)] == [True, False]
        (line,) = (line for line in machines.here.run(shown).splitlines() if str(VIP6) in line)
        assert "tentative" not in line
        assert "nodad" in line
        assert "deprecated" in line
        assert (index, VIP6) in netlink.addresses()
        assert [netlink.delete_address(index, VIP6) for _ in range(2)] == [True, False]
        assert machines.here.run(routes) == before


def attribute(kind: int, content: bytes) -> bytes:
    """A netlink attribute."""
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def vlan_message(protocol: int, *more: bytes) -> Message:
    """What the kernel tells of eth0.100, VLAN 100 over interface 3; made here as not every kernel has 8021q.

    The numbers are those of <linux/if_link.h>.
    """
    data = attribute(1, struct.pack("=H", 100)) + attribute(5, struct.pack("!H", protocol))
    info = attribute(1, b"vlan\0") + attribute(2, data)
    body = struct.pack("=BxHiII", 0, 1, 9, 0x1043, 0)
    body += attribute(1, bytes.fromhex("020000000009")) + attribute(3, b"eth0.100\0")
    body += attribute(4, struct.pack("=I", 1496)) + attribute(5, struct.pack("=I", 3)) + attribute(18, info)
    body += b"".join(more)
    header = struct.pack("=IHHII", 16 + len(body), rtnl.RTM_NEWLINK, 0, 1, 0)
    ((_, message),) = decode(header + body)
    return message


def test_vlan_devices_are_told_with_what_carries_them() -> None:
    """A VLAN device of 802.1Q has its id and carrier; one of 802.1ad, or carried elsewhere, has none."""
    expected = netlink.Link(9, "eth0.100", bytes.fromhex("020000000009"), 1496, netlink.Vlan(100, 3))
    assert netlink.parse_link(vlan_message(0x8100)) == expected
    assert netlink.parse_link(vlan_message(0x88A8)).vlan is None
    abroad = attribute(37, struct.pack("=i", 1))  # IFLA_LINK_NETNSID
    assert netlink.parse_link(vlan_message(0x8100, abroad)).vlan is None


def test_links_are_all_interfaces() -> None:
    """Every interface is told by its index; those of this machine carry no tags."""
    with living_here() as machines:
        eth0 = netlink.interface("eth0")
        found = netlink.links()
        assert found[eth0.index] == netlink.Link(eth0.index, "eth0", mac_of(machines.here), 1500, None)
        assert sorted(link.name for link in found.values()) == ["eth0", "lo"]


@pytest.mark.parametrize(
    ("command", "address", "why"),
    [
        ("route flush cache", "10.7.0.1", "no route leads to it"),
        ("route add unreachable 10.7.0.0/16", "10.7.0.1", 'its route is "unreachable"'),
        ("route add prohibit 10.7.0.0/16", "10.7.0.1", 'its route is "prohibit"'),
        ("route add blackhole 10.7.0.0/16", "10.7.0.1", 'its route is "blackhole"'),
        ("route flush cache", "10.1.0.1", "it is an address of this machine"),
        ("route flush cache", "10.1.0.255", "it is not the address of one machine"),
    ],
)
def test_no_route_says_why(command: str, address: str, why: str) -> None:
    """An address that no packet would leave for is told with the reason, not with a wrong next hop."""
    with living_here() as machines:
        machines.here.ip(command)
        with pytest.raises(netlink.NoRoute, match=f"^{address} cannot be reached.*: {why}$"):
            netlink.next_hop(IPv4Address(address))


def test_adding_and_deleting_an_address_is_idempotent() -> None:
    """An address is there once however often it was added, and deleting what is not there changes nothing."""
    with living_here():
        eth0 = netlink.interface("eth0")
        assert [netlink.add_address(eth0.index, VIP) for _ in range(2)] == [True, False]
        assert (
            netlink.interface("eth0").addresses
            == (*eth0.addresses, VIP)
            == (IPv4Interface("10.1.0.1/24"), VIP)
        )
        assert [netlink.delete_address(eth0.index, VIP) for _ in range(2)] == [True, False]
        assert netlink.interface("eth0") == eth0


def test_only_the_very_prefix_length_is_deleted() -> None:
    """Deleting a /32 leaves the same address with another prefix length alone."""
    with living_here():
        eth0 = netlink.interface("eth0")
        assert not netlink.delete_address(eth0.index, IPv4Interface("10.1.0.1/32"))
        assert netlink.interface("eth0") == eth0


def test_an_address_for_an_interface_that_is_gone_is_told() -> None:
    """Adding to an interface that was removed is an error in a sentence; deleting is done already."""
    with living_here():
        with pytest.raises(PoiseError, match=r"^no interface has the index 999: it was removed$"):
            netlink.add_address(999, VIP)
        assert not netlink.delete_address(999, VIP)
