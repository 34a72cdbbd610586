# SPDX-License-Identifier: Apache-2.0
"""How the servers can be reached at present: the ways to them, followed as the kernel tells of changes."""

import time
from collections.abc import Collection, Container, Mapping
from typing import Final

from poise.kernel import neighbours, netlink, watch
from poise.servers import sense
from poise.servers.events import Events, Kind
from poise.servers.model import Address, Hop, Link

_PAUSE: Final = 0.05  # seconds between two looks at neighbours that are being resolved


class Reach:
    """The ways to all servers; an address is looked up once, however many VIPs have servers there."""

    def __init__(self, interfaces: sense.Interfaces, hops: Mapping[Address, Hop], events: Events) -> None:
        """Know nothing but the hops that an earlier process used.

        interfaces: those that servers may be behind.
        """
        self._interfaces = interfaces
        self._events = events
        self._ways = sense.Ways(dict(hops))
        self._servers_by_neighbour: dict[sense.Neighbour, set[Address]] = {}
        self.links: Mapping[int, Link] = sense.links(interfaces, netlink.links())
        # None: what an earlier process had kept fresh is not known.
        self._kept_fresh: set[sense.Neighbour] | None = None

    @property
    def hops(self) -> Mapping[Address, Hop]:
        """The hops to servers; those that are not valid are used for old connections only."""
        return self._ways.hops

    @property
    def faults(self) -> Mapping[Address, str]:
        """Why servers cannot be reached."""
        return self._ways.faults

    def is_valid(self, address: Address) -> bool:
        """Whether new connections can be sent there."""
        hop = self._ways.hops.get(address)
        return hop is not None and hop.valid

    def look_up(
        self, addresses: Collection[Address], *, afresh: Container[Address] | None = ()
    ) -> frozenset[Address]:
        """Look up the ways to these servers, and to no others; return those whose hop is another than before.

        afresh: which of those that are known are looked up again, None for all.
        """
        if afresh is None:
            self.links = sense.links(self._interfaces, netlink.links())
        before = self._ways
        ways = sense.look_up_ways(addresses, before, self._interfaces, afresh=afresh)
        for address in sorted(ways.faults.keys() - before.faults.keys(), key=str):
            message = f"a server cannot be reached: {ways.faults[address]}"
            self._events.add(Kind.UNREACHABLE, message, server=str(address))
        for address in sorted((before.faults.keys() - ways.faults.keys()) & ways.hops.keys(), key=str):
            self._events.add(Kind.REACHABLE, f"servers at {address} can be reached", server=str(address))
        self._ways = ways
        self._servers_by_neighbour = {}
        for server, neighbour in ways.neighbours.items():
            self._servers_by_neighbour.setdefault(neighbour, set()).add(server)
        kept_fresh = set(self._servers_by_neighbour)
        if self._kept_fresh is None or self._kept_fresh - kept_fresh:
            neighbours.let_go_except(kept_fresh)
        self._kept_fresh = kept_fresh
        known = before.hops.keys() | ways.hops.keys()
        return frozenset(address for address in known if before.hops.get(address) != ways.hops.get(address))

    def wait(self, seconds: float) -> frozenset[Address]:
        """Give neighbours a moment to answer; return the servers whose hop is another than before."""
        changed: frozenset[Address] = frozenset()
        deadline = time.monotonic() + seconds
        while self._ways.faults and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            known = self._ways.hops.keys() | self._ways.faults.keys()
            changed |= self.look_up(known, afresh=set(self._ways.faults))
        return changed

    def holders_of_neighbours(self) -> set[int]:
        """Return the interfaces (ifindex) with the neighbours that packets are sent to."""
        return {*self._interfaces, *self.links}

    def concerns(self, event: watch.Event) -> Collection[Address] | None:
        """Return the servers to which the way may have changed, None for all; most events only confirm."""
        if not isinstance(event, watch.NeighbourChange):
            return None
        told = event.neighbour
        valid = told.valid and not event.gone
        concerned = self._servers_by_neighbour.get((told.ifindex, told.address), set())
        return {server for server in concerned if self._differs(server, told, valid=valid)}

    def _differs(self, server: Address, told: neighbours.Neighbour, *, valid: bool) -> bool:
        hop = self._ways.hops.get(server)
        return valid if hop is None else hop.valid != valid or hop.mac != told.mac
