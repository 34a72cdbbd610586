# SPDX-License-Identifier: Apache-2.0
from contextlib import aclosing
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import anyio
import pytest

from poise.kernel import netlink
from poise.kernel.netlink import (
    AddressChange,
    Event,
    LinkChange,
    NeighbourChange,
    Overrun,
    RouteChange,
    watch,
)
from poise.lab.namespaces import Namespace
from tests.kernel.two_machines import living_here, seen

pytestmark = pytest.mark.root

VIP = IPv4Interface("10.1.0.100/32")
MANY = 20_000  # the notices' buffer holds a few thousand


def add_many_routes(machine: Namespace) -> None:
    """Make the kernel tell of more changes than it keeps for a slow reader."""
    machine.ip(*(f"route add blackhole 10.2.{number // 256}.{number % 256}" for number in range(MANY)))


def test_addresses_are_watched() -> None:
    """Adding and deleting an address is told, with its interface."""
    with living_here():
        index = netlink.interface("eth0").index
        new, gone = (AddressChange(index, VIP, gone) for gone in (False, True))
        seen(lambda: netlink.add_address(index, VIP), lambda event: event == new)
        seen(lambda: netlink.delete_address(index, VIP), lambda event: event == gone)


def test_addresses_and_routes_of_ipv6_are_watched() -> None:
    """Changes of IPv6 are told as those of IPv4 are."""
    vip = IPv6Interface("2001:db8::100/128")
    with living_here() as machines:
        machines.here.sysctl({"net.ipv6.conf.eth0.disable_ipv6": 0})
        index = netlink.interface("eth0").index
        new, gone = (AddressChange(index, vip, gone) for gone in (False, True))
        seen(lambda: netlink.add_address(index, vip), lambda event: event == new)
        seen(lambda: netlink.delete_address(index, vip), lambda event: event == gone)
        for route, destination in (("2001:db8:7::/48", "2001:db8:7::/48"), ("default", "::/0")):
            add = partial(machines.here.ip, f"route add {route} via fe80::2 dev eth0")
            seen(add, RouteChange(IPv6Network(destination)).__eq__)
        rule = ["ip", "-6", "rule", "add", "from", "2001:db8::/32", "lookup", "7"]
        seen(lambda: machines.here.run(rule), lambda event: event == RouteChange(None))


def test_links_are_watched() -> None:
    """A link that lost its carrier, came back or was removed is told."""
    with living_here() as machines:
        index = netlink.interface("eth0").index

        def after(command: str) -> Event:
            return seen(lambda: machines.peer.ip(command), lambda event: isinstance(event, LinkChange))

        assert after("link set eth0 down") == LinkChange(index, "eth0", up=False, gone=False)
        assert after("link set eth0 up") == LinkChange(index, "eth0", up=True, gone=False)
        gone = LinkChange(index, "eth0", up=False, gone=True)
        seen(lambda: machines.peer.ip("link delete eth0"), lambda event: event == gone)


@pytest.mark.parametrize(
    ("command", "destination"),
    [
        ("route add 10.7.0.0/16 via 10.1.0.2", IPv4Network("10.7.0.0/16")),
        ("route add default via 10.1.0.2", IPv4Network("0.0.0.0/0")),
        ("rule add from 10.0.0.0/8 lookup 7", None),
        ("nexthop add id 1 via 10.1.0.2 dev eth0", None),
    ],
)
def test_whatever_may_change_routes_is_watched(command: str, destination: IPv4Network | None) -> None:
    """A new route is told with its network; rules and shared next hops, which may change any, without one."""
    with living_here() as machines:
        event = seen(lambda: machines.here.ip(command), lambda event: isinstance(event, RouteChange))
        assert event == RouteChange(destination)


def test_neighbours_are_watched() -> None:
    """A neighbour that an administrator adds or deletes is told."""
    with living_here() as machines:
        add, delete = (
            f"neighbour {verb} 10.1.0.2 lladdr 02:00:00:00:00:01 dev eth0" for verb in ("add", "delete")
        )
        new = seen(lambda: machines.here.ip(add), lambda event: isinstance(event, NeighbourChange))
        assert isinstance(new, NeighbourChange)
        assert (new.neighbour.address, new.neighbour.mac, new.gone) == (
            IPv4Address("10.1.0.2"),
            bytes.fromhex("020000000001"),
            False,
        )
        seen(
            lambda: machines.here.ip(delete),
            lambda event: isinstance(event, NeighbourChange) and event.gone,
        )


def test_lost_notices_are_told_and_nothing_is_lost_afterwards() -> None:
    """Who reads too slowly is told to look afresh, and whatever changes after that is told again."""

    async def look(machine: Namespace) -> None:
        index = netlink.interface("eth0").index
        with anyio.fail_after(60):
            async with aclosing(watch()) as events:
                assert await anext(events) == Overrun()
                add_many_routes(machine)
                assert await anext(events) == Overrun()
                netlink.add_address(index, VIP)
                assert {await anext(events), await anext(events)} == {
                    AddressChange(index, VIP, gone=False),
                    RouteChange(VIP.network),
                }

    with living_here() as machines:
        anyio.run(look, machines.here)
