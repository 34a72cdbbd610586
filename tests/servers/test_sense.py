# SPDX-License-Identifier: Apache-2.0
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import pytest

from poise.kernel import netlink
from poise.servers import sense
from poise.servers.model import Address, Hop, Link
from poise.servers.sense import Ways
from tests.kernel.two_machines import TwoMachines, living_here, mac_of, seen
from tests.servers.control_room import is_resolved

PEER4, PEER6 = IPv4Address("10.1.0.2"), IPv6Address("2001:db8::2")


def with_ipv6(machines: TwoMachines) -> None:
    """Give both machines addresses of IPv6 as well, 2001:db8::1 and ::2."""
    for machine, address in ((machines.here, "2001:db8::1"), (machines.peer, PEER6)):
        machine.sysctl({"net.ipv6.conf.eth0.disable_ipv6": 0})
        machine.ip(f"address add {address}/64 dev eth0 nodad")


def look_up(*addresses: Address, tags: tuple[int, ...] = (), former: Ways | None = None) -> Ways:
    """The ways by eth0, once their neighbours had the time to answer."""
    index = netlink.interface("eth0").index
    interfaces = {index: tags}
    for address in addresses:
        entry = netlink.neighbour(index, address)
        if entry and entry.valid:
            continue
        ask = partial(sense.look_up_ways, [address], Ways(), interfaces)
        seen(ask, partial(is_resolved, address=address))
    return sense.look_up_ways(addresses, former or Ways(), interfaces)


@pytest.mark.root
def test_hops_of_both_families() -> None:
    """A hop tells of the device, both MAC addresses, the tags and the MTU, for IPv4 as for IPv6."""
    with living_here() as machines:
        with_ipv6(machines)
        ways = look_up(PEER4, PEER6, tags=(100, 10))
        index, own, others = netlink.interface("eth0").index, mac_of(machines.here), mac_of(machines.peer)
        assert ways.hops == {
            peer: Hop(peer, index, others, own, valid=True, tags=(100, 10), mtu=1500)
            for peer in (PEER4, PEER6)
        }
        assert ways.neighbours == {peer: (index, peer) for peer in (PEER4, PEER6)}
        assert not ways.faults


@pytest.mark.root
def test_the_mtu_is_that_of_the_way() -> None:
    """A route's own MTU goes before that of its interface, and for IPv6 a lower one of the interface's."""
    with living_here() as machines:
        with_ipv6(machines)
        machines.here.ip(f"route add {PEER4} dev eth0 mtu 1400", f"route add {PEER6} dev eth0 mtu 1300")
        ways = look_up(PEER4, PEER6)
        assert [ways.hops[peer].mtu for peer in (PEER4, PEER6)] == [1400, 1300]
        machines.here.ip(f"route delete {PEER4} dev eth0", f"route delete {PEER6} dev eth0")
        machines.here.sysctl({"net.ipv6.conf.eth0.mtu": 1380})
        ways = look_up(PEER4, PEER6)
        assert [ways.hops[peer].mtu for peer in (PEER4, PEER6)] == [1500, 1380]


@pytest.mark.root
def test_who_does_not_answer_is_told_with_the_protocol() -> None:
    """The reason names ARP for a neighbour of IPv4, and NDP for one of IPv6."""
    with living_here() as machines:
        with_ipv6(machines)
        absent: list[Address] = [IPv4Address("10.1.0.9"), IPv6Address("2001:db8::9")]
        ways = sense.look_up_ways(absent, Ways(), {netlink.interface("eth0").index: ()})
        assert list(ways.faults.values()) == [
            "10.1.0.9 does not answer ARP on eth0",
            "2001:db8::9 does not answer NDP on eth0",
        ]


@pytest.mark.root
def test_what_was_looked_up_is_not_looked_up_again_unless_afresh() -> None:
    """A change of servers costs a look at the new ones; what was found of the others stays."""
    with living_here() as machines:
        index = netlink.interface("eth0").index
        absent = IPv4Address("10.1.0.9")
        former = Ways({PEER4: Hop(PEER4, 99, bytes(6), bytes(6), valid=True)}, {absent: "it is away"})
        ways = sense.look_up_ways([PEER4, absent], former, {index: ()}, afresh=())
        assert (ways.hops, ways.faults) == (former.hops, former.faults)
        assert look_up(PEER4, former=former).hops[PEER4].ifindex == index
        assert mac_of(machines.here) == look_up(PEER4).hops[PEER4].interface_mac


def device(index: int, vlan: netlink.Vlan | None = None) -> netlink.Link:
    """An interface of the routing table."""
    return netlink.Link(index, f"eth{index}", bytes(6), 1500, vlan)


def test_vlan_devices_lead_to_the_device_under_them() -> None:
    """Frames of stacked VLAN devices carry the tags of all of them, those that poise puts on outermost.

    Not every kernel has VLAN devices (8021q), so that they are made up here.
    """
    known = {
        1: device(1),
        2: device(2),
        10: device(10, netlink.Vlan(100, 1)),
        11: device(11, netlink.Vlan(7, 10)),
        12: device(12, netlink.Vlan(8, 11)),
        20: device(20, netlink.Vlan(5, 2)),
        30: device(30),
        31: device(31, netlink.Vlan(6, 30)),
    }
    assert sense.links({1: (), 2: (4,)}, known) == {
        10: Link(1, (100,)),
        11: Link(1, (100, 7)),
        2: Link(2, (4,)),
        20: Link(2, (4, 5)),
    }
    assert sense.links({10: ()}, known) == {11: Link(10, (7,)), 12: Link(10, (7, 8))}
