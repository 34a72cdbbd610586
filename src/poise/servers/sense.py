# SPDX-License-Identifier: Apache-2.0
"""What is measured for the servers level: the Ethernet hops towards the servers, and VLANs on the way."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from poise.errors import PoiseError
from poise.kernel import neighbours, netlink, proc
from poise.servers.model import Address, Hop, Link

Neighbour = tuple[int, Address]  # ifindex, address
Interfaces = Mapping[int, tuple[int, ...]]
"""poise's interfaces (ifindex), each with the VLAN tags that poise itself puts on its frames."""

_MAXIMUM_TAGS = 2  # that the programs can write
_FEW = 8


@dataclass(frozen=True)
class Ways:
    """The ways to the servers: hops by server address, and of those not to be reached, why.

    neighbours: by server address, those that the kernel keeps fresh.
    """

    hops: dict[Address, Hop] = field(default_factory=dict)
    faults: dict[Address, str] = field(default_factory=dict)
    neighbours: dict[Address, Neighbour] = field(default_factory=dict)

    def take_over(self, address: Address, former: "Ways") -> bool:
        """Copy what was found of a server before; returns whether it was looked up then."""
        if address in former.hops:
            self.hops[address] = former.hops[address]
        if address in former.faults:
            self.faults[address] = former.faults[address]
        if address in former.neighbours:
            self.neighbours[address] = former.neighbours[address]
        return address in former.faults or (address in former.hops and former.hops[address].valid)


def links(interfaces: Interfaces, known: Mapping[int, netlink.Link]) -> dict[int, Link]:
    """Return where frames leave for each interface whose frames carry VLAN tags on one of poise's.

    known: all interfaces, by ifindex (netlink.links()).
    """
    found = ((ifindex, _carried_by(ifindex, interfaces, known)) for ifindex in known)
    return {ifindex: link for ifindex, link in found if link and 0 < len(link.tags) <= _MAXIMUM_TAGS}


def _carried_by(ifindex: int, interfaces: Interfaces, known: Mapping[int, netlink.Link]) -> Link | None:
    """Follow VLAN devices down to an interface of poise's; None where they do not lead to one."""
    tags: tuple[int, ...] = ()
    while ifindex not in interfaces:
        vlan = known[ifindex].vlan if ifindex in known else None
        if vlan is None:
            return None
        tags = (vlan.id, *tags)
        ifindex = vlan.carrier
    return Link(ifindex, (*interfaces[ifindex], *tags))


def look_up_ways(
    addresses: Iterable[Address],
    former: Ways,
    interfaces: Interfaces,
    *,
    afresh: Container[Address] | None = None,
) -> Ways:
    """Return the present ways to servers, and have the kernel resolve their neighbours and keep them fresh.

    Where there is no hop at present, the last known one is returned as not valid. interfaces: the only
    ones to send by, because a server elsewhere would not reply through poise. afresh: which of those that
    were looked up before are looked up again; all, unless given.
    """
    ways = Ways()
    due = [
        address
        for address in addresses
        if (afresh is None or address in afresh) or not ways.take_over(address, former)
    ]
    known = netlink.links() if due else {}
    # One request for all, where that is less than one for each.
    entries = neighbours.entries() if len(due) > _FEW else {}
    for address in due:
        try:
            ways.hops[address] = _look_up(address, interfaces, known, entries, ways)
        except PoiseError as error:
            ways.faults[address] = str(error)
            if address in former.hops:
                ways.hops[address] = replace(former.hops[address], valid=False)
    return ways


def _look_up(
    address: Address,
    interfaces: Interfaces,
    known: Mapping[int, netlink.Link],
    entries: Mapping[Neighbour, neighbours.Neighbour],
    ways: Ways,
) -> Hop:
    route = netlink.route(address)
    if route.ifindex not in known:
        raise PoiseError(f"the way to {address} is changing: no interface has the index {route.ifindex}")
    device = known[route.ifindex]
    link = _carried_by(device.index, interfaces, known)
    if link is None:
        raise PoiseError(f"{address} is reached by {device.name}, which is not one of poise's interfaces")
    if len(link.tags) > _MAXIMUM_TAGS:
        tags = f"frames with {len(link.tags)} VLAN tags"
        raise PoiseError(f"{address} is reached by {device.name} in {tags}: poise puts on at most two")
    target = route.gateway or address
    entry = entries.get((device.index, target))
    if entry is None or not (entry.managed or entry.foreign):
        neighbours.keep_fresh(device.index, target)
        entry = netlink.neighbour(device.index, target)
    ways.neighbours[address] = (device.index, target)
    if entry is None or entry.mac is None or not entry.valid:
        protocol = "ARP" if target.version == 4 else "NDP"
        raise PoiseError(f"{target} does not answer {protocol} on {device.name}")
    mtu = route.mtu or _mtu(device, address)
    return Hop(target, link.ifindex, entry.mac, device.mac, valid=True, tags=link.tags, mtu=mtu)


def _mtu(device: netlink.Link, address: Address) -> int:
    """Return the MTU of a link, of which router advertisements may have told a lower one for IPv6."""
    key = proc.interface_sysctl(device.name, "mtu", family="ipv6")
    if address.version == 4 or not proc.has_sysctl(key):
        return device.mtu
    return min(device.mtu, int(proc.read_sysctl(key)))
