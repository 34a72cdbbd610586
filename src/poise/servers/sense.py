# SPDX-License-Identifier: Apache-2.0
"""What is measured for the servers level: the Ethernet hops towards the servers."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from poise.errors import PoiseError
from poise.kernel import neighbours, netlink
from poise.servers.model import Hop
from poise.servers.tables import Tables


def hops_in(tables: Tables) -> dict[IPv4Address, Hop]:
    """Return the hops that the tables of an earlier process hold; not valid until they are seen again."""
    return {
        IPv4Address(row["address"]): Hop(
            None, row["ifindex"], row["hop_mac"], row["interface_mac"], valid=False
        )
        for row in tables.servers.values()
        if row["ifindex"]
    }


def look_up_hops(
    addresses: Iterable[IPv4Address], known: Mapping[IPv4Address, Hop], interfaces: Collection[int]
) -> tuple[dict[IPv4Address, Hop], dict[IPv4Address, str]]:
    """Return the present hop of each server's address, and of those not to be reached, why.

    Has the kernel resolve the neighbours and keep them fresh. Where there is no hop at present,
    the last known one is returned as not valid. interfaces (ifindex): the only ones to send to,
    because a server elsewhere would not reply through poise.
    """
    found = {}
    faults = {}
    for address in addresses:
        try:
            found[address] = _look_up(address, interfaces)
        except PoiseError as error:
            faults[address] = str(error)
            if address in known:
                found[address] = replace(known[address], valid=False)
    return found, faults


def _look_up(address: IPv4Address, interfaces: Collection[int]) -> Hop:
    route = netlink.route(address)
    if route.ifindex not in interfaces:
        name = netlink.interface_name(route.ifindex)
        raise PoiseError(f"{address} is reached by {name}, which is not one of poise's interfaces")
    neighbours.keep_fresh(route.ifindex, route.gateway or address)
    hop = netlink.next_hop(address)
    if hop.mac is None or not hop.valid:
        raise PoiseError(f"{hop.address} does not answer ARP on {netlink.interface_name(hop.ifindex)}")
    return Hop(hop.address, hop.ifindex, hop.mac, hop.source_mac, valid=True)


def let_go(addresses: Iterable[IPv4Address]) -> None:
    """Leave the neighbours of these servers to the kernel again."""
    for address in addresses:
        try:
            hop = netlink.next_hop(address)
        except PoiseError:
            continue  # without a route there is no neighbour to let go
        neighbours.let_go(hop.ifindex, hop.address)
