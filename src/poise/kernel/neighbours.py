# SPDX-License-Identifier: Apache-2.0
"""The kernel's neighbour entries: who on a link has which MAC address, and keeping that knowledge fresh.

What XDP redirects neither uses nor confirms an entry: nothing would ever notice that a gateway was replaced.
The kernel can be told to keep an entry fresh by itself (NTF_EXT_MANAGED, Linux 5.16), or be told each time to
act as if the entry had been used (NTF_USE). Either request, on an entry that does not carry the same flags
already, strips the entry of NUD_PERMANENT, NTF_EXT_MANAGED and NTF_EXT_LEARNED (net/core/neighbour.c,
__neigh_update and neigh_update_flags): entries that others care for are left alone here.
"""

import errno
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2.netlink import NLM_F_CREATE, NLM_F_REPLACE, rtnl
from pyroute2.netlink.rtnl.ndmsg import (
    NTF_EXT_LEARNED,
    NTF_USE,
    NUD_DELAY,
    NUD_NOARP,
    NUD_PERMANENT,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
)

from poise.errors import PoiseError
from poise.kernel.rtnetlink import Message, NetlinkError, dump, request

NTF_EXT_MANAGED = 1 << 0  # <linux/neighbour.h>, under NDA_FLAGS_EXT
_NUD_VALID = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE
_STATIC = NUD_PERMANENT | NUD_NOARP
# NDA_PROTOCOL, "who made this": marks the entries that are managed for poise, also to a later process.
_POISE = 80


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour entry: the address's MAC on an interface, as far as it is known; `state` is NUD_... ."""

    ifindex: int
    address: IPv4Address | IPv6Address
    mac: bytes | None
    state: int
    flags: int
    managed: bool
    ours: bool

    @property
    def valid(self) -> bool:
        """Whether the kernel itself would send to this MAC."""
        return self.mac is not None and bool(self.state & _NUD_VALID)

    @property
    def foreign(self) -> bool:
        """Whether someone else cares for the entry: an administrator, a routing daemon, another program."""
        learned = bool(self.flags & NTF_EXT_LEARNED)
        return bool(self.state & _STATIC) or learned or (self.managed and not self.ours)


def neighbour(ifindex: int, address: IPv4Address | IPv6Address) -> Neighbour | None:
    """The entry for this address on this interface, if there is one."""
    fields = {"family": _family(address), "ifindex": ifindex}
    try:
        (found,) = request(rtnl.RTM_GETNEIGH, fields, {"NDA_DST": str(address)})
    except NetlinkError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV}:
            return None
        raise
    return parse(found)


def entries() -> dict[tuple[int, IPv4Address | IPv6Address], Neighbour]:
    """All entries of this network namespace, by interface (ifindex) and address."""
    found = map(parse, dump(rtnl.RTM_GETNEIGH, {}))
    return {(entry.ifindex, entry.address): entry for entry in found if entry}


def keep_fresh(ifindex: int, address: IPv4Address | IPv6Address) -> bool:
    """Have the kernel resolve this address and probe it again and again; harmless to call more than once.

    Returns whether the kernel does so, or someone else cares for the entry: if not (before Linux 5.16), the
    address was asked for once, and the caller has to call `probe` from time to time. The kernel forgets
    entries when their interface goes down: call this again on each `LinkChange`, and when a
    `NeighbourChange` tells that the entry is gone. Raises PoiseError where the interface is not there.
    """
    known = neighbour(ifindex, address)
    if known and (known.foreign or known.managed):
        return True
    attributes: dict[str, object] = {"NDA_FLAGS_EXT": NTF_EXT_MANAGED, "NDA_PROTOCOL": _POISE}
    try:
        _use(ifindex, address, attributes, NLM_F_CREATE)
    except NetlinkError as error:
        raise PoiseError(f"cannot have {address} resolved on interface {ifindex}: {error.reason}") from None
    known = neighbour(ifindex, address)
    return known is not None and known.managed


def let_go(ifindex: int, address: IPv4Address | IPv6Address) -> None:
    """Undo `keep_fresh`: the entry stays, and ages as any other. Those that others care for are untouched."""
    known = neighbour(ifindex, address)
    if known and known.managed and known.ours:
        probe(ifindex, address)


def let_go_except(kept: Collection[tuple[int, IPv4Address | IPv6Address]]) -> None:
    """Undo every `keep_fresh`, also of an earlier process, but those of these (interface, address)."""
    for entry in map(parse, dump(rtnl.RTM_GETNEIGH, {})):
        if entry and entry.managed and entry.ours and (entry.ifindex, entry.address) not in kept:
            let_go(entry.ifindex, entry.address)


def probe(ifindex: int, address: IPv4Address | IPv6Address) -> None:
    """Have the kernel check an entry that it has, as if a packet had used it; without an entry, do nothing.

    Not for entries that others care for: see above for what it takes from them.
    """
    try:
        _use(ifindex, address, {}, 0)
    except NetlinkError as error:
        if error.errno not in {errno.ENOENT, errno.ENODEV}:
            raise


def refresh_stale(ifindices: Collection[int]) -> int:
    """Have the kernel check the MAC of each neighbour on these interfaces that was not heard of lately.

    Returns how many are checked. Entries that the kernel keeps fresh, or others care for, are left alone.
    """
    stale = [
        entry
        for entry in map(parse, dump(rtnl.RTM_GETNEIGH, {}))
        if entry and entry.ifindex in ifindices and entry.state & NUD_STALE
    ]
    due = [entry for entry in stale if not (entry.managed or entry.foreign)]
    for entry in due:
        probe(entry.ifindex, entry.address)
    return len(due)


def parse(message: Message) -> Neighbour | None:
    """The entry that an RTM_NEWNEIGH or RTM_DELNEIGH tells of; None if it is not one of IPv4 or IPv6."""
    address = message.text("NDA_DST")
    if address is None or message.fields["family"] not in {socket.AF_INET, socket.AF_INET6}:
        return None
    mac = message.text("NDA_LLADDR")
    return Neighbour(
        ifindex=message.fields["ifindex"],
        address=ip_address(address),
        mac=bytes.fromhex(mac.replace(":", "")) if mac else None,
        state=message.fields["state"],
        flags=message.fields["flags"],
        managed=bool((message.number("NDA_FLAGS_EXT") or 0) & NTF_EXT_MANAGED),
        ours=message.number("NDA_PROTOCOL") == _POISE,
    )


def _use(ifindex: int, address: IPv4Address | IPv6Address, attributes: dict[str, object], flags: int) -> None:
    fields = {"family": _family(address), "ifindex": ifindex, "state": 0, "flags": NTF_USE}
    request(rtnl.RTM_NEWNEIGH, fields, {"NDA_DST": str(address), **attributes}, flags | NLM_F_REPLACE)


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
