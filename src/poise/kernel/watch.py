# SPDX-License-Identifier: Apache-2.0
"""Changes of neighbours, links, routes and addresses, as the kernel tells them."""

import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface

from pyroute2.netlink import rtnl

from poise.kernel import neighbours
from poise.kernel.neighbours import Neighbour
from poise.kernel.rtnetlink import Message, Subscription

_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_RTNLGRP_IPV6_RULE = 19
_RTNLGRP_NEXTHOP = 32
_GROUPS = (
    rtnl.RTNLGRP_LINK,
    rtnl.RTNLGRP_NEIGH,
    rtnl.RTNLGRP_IPV4_IFADDR,
    rtnl.RTNLGRP_IPV4_ROUTE,
    rtnl.RTNLGRP_IPV4_RULE,
    rtnl.RTNLGRP_IPV6_IFADDR,
    rtnl.RTNLGRP_IPV6_ROUTE,
    _RTNLGRP_IPV6_RULE,
    _RTNLGRP_NEXTHOP,
)
_RTM_NEWNEXTHOP, _RTM_DELNEXTHOP = 104, 105
_ANY_ROUTE = {rtnl.RTM_NEWRULE, rtnl.RTM_DELRULE, _RTM_NEWNEXTHOP, _RTM_DELNEXTHOP}
_GONE = {rtnl.RTM_DELLINK, rtnl.RTM_DELNEIGH, rtnl.RTM_DELADDR, rtnl.RTM_DELROUTE}


@dataclass(frozen=True, slots=True)
class Overrun:
    """Changes were missed: look at everything afresh."""


@dataclass(frozen=True, slots=True)
class NeighbourChange:
    """A neighbour entry is new, changed its MAC or state, or is gone."""

    neighbour: Neighbour
    gone: bool


@dataclass(frozen=True, slots=True)
class LinkChange:
    """An interface is new, changed, or is gone; `up` says that it is set up and has a carrier."""

    ifindex: int
    name: str
    up: bool
    gone: bool


@dataclass(frozen=True, slots=True)
class AddressChange:
    """An interface got or lost an address."""

    ifindex: int
    address: IPv4Interface | IPv6Interface
    gone: bool


@dataclass(frozen=True, slots=True)
class RouteChange:
    """Routes to this network changed; None: a rule or a shared next hop did, so any route may have."""

    destination: IPv4Network | IPv6Network | None


Event = Overrun | NeighbourChange | LinkChange | AddressChange | RouteChange


async def watch() -> AsyncGenerator[Event, None]:
    """What changes from now on, in the kernel's order; ends when it is closed (contextlib.aclosing).

    The first event is an `Overrun`, since nothing has been seen yet: what is looked at after it cannot change
    unnoticed. Another one follows whenever the kernel had to drop notices, which were not read fast enough.
    """
    with Subscription(_GROUPS) as subscription:
        yield Overrun()
        while True:
            messages = await subscription.read()
            if messages is None:
                yield Overrun()
                continue
            for message in messages:
                event = _event(message)
                if event:
                    yield event


def _event(message: Message) -> Event | None:
    kind = message.kind
    gone = kind in _GONE
    if kind in {rtnl.RTM_NEWNEIGH, rtnl.RTM_DELNEIGH}:
        entry = neighbours.parse(message)
        return NeighbourChange(entry, gone) if entry else None
    if kind in {rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK}:
        return _link_change(message, gone=gone)
    if kind in {rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR}:
        # IPv6 has no IFA_LOCAL but on point-to-point links (inet6_fill_ifaddr)
        text = message.text("IFA_LOCAL") or message.text("IFA_ADDRESS")
        address = ip_interface(f"{text}/{message.fields['prefixlen']}")
        return AddressChange(message.fields["index"], address, gone)
    if kind in {rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE}:
        kind_of_network = IPv6Network if message.fields["family"] == socket.AF_INET6 else IPv4Network
        destination = message.text("RTA_DST") or 0  # a default route names none
        return RouteChange(kind_of_network((destination, message.fields["dst_len"])))
    if kind in _ANY_ROUTE:
        return RouteChange(None)
    return None


def _link_change(message: Message, *, gone: bool) -> LinkChange | None:
    if message.fields["family"] != socket.AF_UNSPEC:  # a bridge tells of its ports in the same group
        return None
    working = _IFF_UP | _IFF_LOWER_UP
    up = message.fields["flags"] & working == working
    return LinkChange(message.fields["index"], message.text("IFLA_IFNAME") or "", up and not gone, gone)
