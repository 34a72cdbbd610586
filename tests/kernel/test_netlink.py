# SPDX-License-Identifier: Apache-2.0
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest

from poise.errors import PoiseError
from poise.kernel import netlink
from tests.kernel.two_machines import living_here, mac_of

pytestmark = pytest.mark.root

PEER = IPv4Address("10.1.0.2")
VIP = IPv4Interface("10.1.0.100/32")


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
