# SPDX-License-Identifier: Apache-2.0
"""What is measured for the servers level: the Ethernet hops towards the servers."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from poise.errors import PoiseError
from poise.kernel import neighbours, netlink
from poise.servers.model import Hop
from poise.servers.tables import Tables

Neighbour = tuple[int, IPv4Address | IPv6Address]  # ifindex, address


@dataclass(frozen=True)
class Ways:
    """The ways to the servers: hops by server address, and of those not to be reached, why.

    neighbours: those that the kernel keeps fresh for them.
    """

    hops: dict[IPv4Address, Hop] = field(default_factory=dict)
    faults: dict[IPv4Address, str] = field(default_factory=dict)
    neighbours: set[Neighbour] = field(default_factory=set)


def hops_in(tables: Tables) -> dict[IPv4Address, Hop]:
    """Return the hops that the tables of an earlier process hold; not valid until they are seen again."""
    return {
        IPv4Address(row["address"]): Hop(
            None, row["ifindex"], row["hop_mac"], row["interface_mac"], valid=False
        )
        for row in tables.servers.values()
        if row["ifindex"]
    }


def look_up_ways(
    addresses: Iterable[IPv4Address], known: Mapping[IPv4Address, Hop], interfaces: Collection[int]
) -> Ways:
    """Return the present ways to servers, and have the kernel resolve their neighbours and keep them fresh.

    Where there is no hop at present, the last known one is returned as not valid. interfaces
    (ifindex): the only ones to send to, because a server elsewhere would not reply through poise.
    """
    ways = Ways()
    for address in addresses:
        try:
            ways.hops[address] = _look_up(address, interfaces, ways)
        except PoiseError as error:
            ways.faults[address] = str(error)
            if address in known:
                ways.hops[address] = replace(known[address], valid=False)
    return ways


def _look_up(address: IPv4Address, interfaces: Collection[int], ways: Ways) -> Hop:
    route = netlink.route(address)
    if route.ifindex not in interfaces:
        name = netlink.interface_name(route.ifindex)
        raise PoiseError(f"{address} is reached by {name}, which is not one of poise's interfaces")
    neighbour = route.gateway or address
    neighbours.keep_fresh(route.ifindex, neighbour)
    ways.neighbours.add((route.ifindex, neighbour))
    hop = netlink.next_hop(address)
    if hop.mac is None or not hop.valid:
        raise PoiseError(f"{hop.address} does not answer ARP on {netlink.interface_name(hop.ifindex)}")
    return Hop(hop.address, hop.ifindex, hop.mac, hop.source_mac, valid=True)
