# SPDX-License-Identifier: Apache-2.0
"""Interfaces, addresses and routes of this network namespace; neighbours and changes are re-exported.

MAC addresses are bytes, as the tables of the XDP program want them; `mac.hex(":")` prints one.
"""

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, rtnl

from poise.errors import PoiseError
from poise.kernel import ethtool
from poise.kernel.neighbours import Neighbour, keep_fresh, let_go, neighbour, probe, refresh_stale
from poise.kernel.rtnetlink import Message, NetlinkError, dump, request
from poise.kernel.watch import AddressChange, Event, LinkChange, NeighbourChange, Overrun, RouteChange, watch

__all__ = [
    "AddressChange",
    "Event",
    "Interface",
    "Link",
    "LinkChange",
    "Neighbour",
    "NeighbourChange",
    "NextHop",
    "NoRoute",
    "Overrun",
    "Route",
    "RouteChange",
    "Vlan",
    "add_address",
    "addresses",
    "delete_address",
    "interface",
    "interface_index",
    "interface_name",
    "keep_fresh",
    "let_go",
    "links",
    "neighbour",
    "next_hop",
    "probe",
    "refresh_stale",
    "route",
    "watch",
]

_IFF_UP = 0x1
_RTN_UNICAST = 1
_RTN_LOCAL = 2
_ETH_P_8021Q = 0x8100
_IFA_F_NODAD = 0x02
_FOREVER = 0xFFFFFFFF  # INFINITY_LIFE_TIME, include/net/addrconf.h
# What ip_route_output_key() and ip6_route_output() return for a destination that they find no way to, and
# what that means.
_NO_WAY = {
    errno.ENETUNREACH: "no route leads to it",
    errno.EHOSTUNREACH: 'its route is "unreachable"',
    errno.EACCES: 'its route is "prohibit"',
    errno.EINVAL: 'its route is "blackhole"',
}


class NoRoute(PoiseError):
    """The kernel would not send a packet for this address to any other machine."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as it is now; `mac` is empty where the link has no addresses."""

    index: int
    name: str
    mac: bytes
    mtu: int
    driver: str | None
    up: bool
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


@dataclass(frozen=True, slots=True)
class Vlan:
    """A VLAN of IEEE 802.1Q: its id, and the interface (ifindex) that carries its tagged frames."""

    id: int
    carrier: int


@dataclass(frozen=True, slots=True)
class Link:
    """What a frame needs to know of an interface; `mac` is empty where the link has no addresses."""

    index: int
    name: str
    mac: bytes
    mtu: int
    vlan: Vlan | None


@dataclass(frozen=True, slots=True)
class Route:
    """The way to an address: out of this interface, to this gateway or (None) straight to the address.

    mtu: in bytes, if the route itself has one (RTAX_MTU), else 0.
    """

    ifindex: int
    gateway: IPv4Address | IPv6Address | None
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class NextHop:
    """The machine that packets for an address are handed to: the gateway, or the addressed machine itself.

    `valid` says whether `mac` can be sent to now (NUD_VALID); otherwise it is unknown, or was once right.
    """

    ifindex: int
    address: IPv4Address | IPv6Address
    mac: bytes | None
    source_mac: bytes
    valid: bool


def interface(name: str) -> Interface:
    """The interface of this name; raises PoiseError, naming those that exist, where there is none."""
    try:
        (link,) = request(rtnl.RTM_GETLINK, {}, {"IFLA_IFNAME": name})
    except NetlinkError as error:
        if error.errno not in {errno.ENODEV, errno.ERANGE, errno.EINVAL}:
            raise
        names = [link.text("IFLA_IFNAME") or "" for link in dump(rtnl.RTM_GETLINK, {})]
        raise PoiseError(f"no interface {name}: the interfaces are {', '.join(names)}") from None
    index = link.fields["index"]
    found = link.text("IFLA_IFNAME") or name
    return Interface(
        index=index,
        name=found,
        mac=_mac(link),
        mtu=link.number("IFLA_MTU") or 0,
        driver=ethtool.driver(found),
        up=bool(link.fields["flags"] & _IFF_UP),
        addresses=tuple(address for holder, address in addresses() if holder == index),
    )


def interface_index(name: str) -> int | None:
    """The index of the interface of this name; None where there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def interface_name(ifindex: int) -> str:
    """The name of the interface with this index; raises PoiseError where there is none."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        raise PoiseError(f"no interface has the index {ifindex}: it was removed") from None


def links() -> dict[int, Link]:
    """Every interface of this network namespace, by its index."""
    return {link.fields["index"]: parse_link(link) for link in dump(rtnl.RTM_GETLINK, {})}


def parse_link(message: Message) -> Link:
    """The interface that an RTM_NEWLINK tells of."""
    return Link(
        index=message.fields["index"],
        name=message.text("IFLA_IFNAME") or "",
        mac=_mac(message),
        mtu=message.number("IFLA_MTU") or 0,
        vlan=_vlan(message),
    )


def route(address: IPv4Address | IPv6Address) -> Route:
    """The way that the kernel would send packets of its own to this address (RTM_GETROUTE).

    Of several equal ways the kernel names one, by its hash of the addresses. Raises NoRoute where no
    packet would leave for another machine: nothing leads there, or the address belongs to this machine.
    """
    try:
        fields = {"family": _family(address), "dst_len": address.max_prefixlen}
        (found,) = request(rtnl.RTM_GETROUTE, fields, {"RTA_DST": str(address)})
    except NetlinkError as error:
        if error.errno not in _NO_WAY:
            raise
        raise NoRoute(f"{address} cannot be reached: {_NO_WAY[error.errno]}") from None
    if found.fields["type"] == _RTN_LOCAL:
        raise NoRoute(f"{address} cannot be reached from here: it is an address of this machine")
    ifindex = found.number("RTA_OIF")
    if found.fields["type"] != _RTN_UNICAST or ifindex is None:
        raise NoRoute(f"{address} cannot be reached: it is not the address of one machine")
    mtu = found.nested("RTA_METRICS").get("RTAX_MTU")
    return Route(ifindex, _gateway(found), mtu if isinstance(mtu, int) else 0)


def next_hop(address: IPv4Address | IPv6Address) -> NextHop:
    """Where packets for this address go now, and whether that machine's MAC is known; asks nobody for it.

    Raises NoRoute as `route` does. See `keep_fresh` for having the MAC resolved.
    """
    way = route(address)
    target = way.gateway or address
    known = neighbour(way.ifindex, target)
    (link,) = request(rtnl.RTM_GETLINK, {"index": way.ifindex})
    return NextHop(
        ifindex=way.ifindex,
        address=target,
        mac=known.mac if known else None,
        source_mac=_mac(link),
        valid=known is not None and known.valid,
    )


def addresses() -> list[tuple[int, IPv4Interface | IPv6Interface]]:
    """Every address of this machine with its prefix length, each with the index of its interface."""
    # IPv6 has no IFA_LOCAL but on point-to-point links (inet6_fill_ifaddr)
    return [
        (
            found.fields["index"],
            ip_interface(
                f"{found.text('IFA_LOCAL') or found.text('IFA_ADDRESS')}/{found.fields['prefixlen']}"
            ),
        )
        for found in dump(rtnl.RTM_GETADDR, {})
        if found.fields["family"] in {socket.AF_INET, socket.AF_INET6}
    ]


def add_address(ifindex: int, address: IPv4Interface | IPv6Interface) -> bool:
    """Give the interface this address; False where it has it already. Raises PoiseError if that fails.

    One of IPv6 can be used at once, without duplicate address detection, and is not chosen as the source of
    what this machine sends by itself: it is deprecated (RFC 4862, section 5.5.4).
    """
    fields, attributes = _address(ifindex, address)
    if address.version == 6:
        fields["flags"] = _IFA_F_NODAD
        attributes["IFA_CACHEINFO"] = {"ifa_preferred": 0, "ifa_valid": _FOREVER, "cstamp": 0, "tstamp": 0}
    try:
        request(rtnl.RTM_NEWADDR, fields, attributes, flags=NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            return False
        raise PoiseError(f"cannot add {address} to {interface_name(ifindex)}: {error.reason}") from None
    return True


def delete_address(ifindex: int, address: IPv4Interface | IPv6Interface) -> bool:
    """Take this address, of exactly this prefix length, from the interface; False where it is not there.

    Raises PoiseError if that fails.
    """
    try:
        request(rtnl.RTM_DELADDR, *_address(ifindex, address))
    except NetlinkError as error:
        if error.errno in {errno.EADDRNOTAVAIL, errno.ENODEV}:
            return False
        raise PoiseError(f"cannot remove {address} from {interface_name(ifindex)}: {error.reason}") from None
    return True


def _address(
    ifindex: int, address: IPv4Interface | IPv6Interface
) -> tuple[dict[str, int], dict[str, object]]:
    fields = {"family": _family(address), "prefixlen": address.network.prefixlen, "index": ifindex}
    return fields, {"IFA_LOCAL": str(address.ip), "IFA_ADDRESS": str(address.ip)}


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _vlan(link: Message) -> Vlan | None:
    kind = link.nested("IFLA_LINKINFO").get("IFLA_INFO_KIND")
    data = link.nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    number, carrier = data.get("IFLA_VLAN_ID"), link.number("IFLA_LINK")
    is_8021q = kind == "vlan" and data.get("IFLA_VLAN_PROTOCOL") == _ETH_P_8021Q
    abroad = "IFLA_LINK_NETNSID" in link.attributes  # then the carrier's index is another namespace's
    if abroad or not (is_8021q and isinstance(number, int) and carrier):
        return None
    return Vlan(number, carrier)


def _mac(link: Message) -> bytes:
    return bytes.fromhex((link.text("IFLA_ADDRESS") or "").replace(":", ""))


def _gateway(found: Message) -> IPv4Address | IPv6Address | None:
    """The gateway, which for an IPv4 route may be an IPv6 one (RTA_VIA, RFC 5549)."""
    via = found.attributes.get("RTA_VIA")
    gateway = via["addr"] if isinstance(via, dict) else found.text("RTA_GATEWAY")
    return ip_address(gateway) if gateway else None
