# SPDX-License-Identifier: Apache-2.0
"""What the kernel's tables hold, as far as Python writes them: a copy, kept in step with each write."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poise.kernel.records import octets
from poise.quic.tables import CODEPOINTS
from poise.servers.ends import GONE, Row
from poise.servers.model import SERVER_IDS, Address, Hop, Link
from poise.servers.rows import ADDRESS, ORIGIN, QUIC_CONFIG, SERVER, VIP, Pool, Records, two

Network = IPv4Network | IPv6Network

RECORDS: Final = {
    "vips": VIP,
    "vip_addresses": ADDRESS,
    "servers": SERVER,
    "server_addresses": ADDRESS,
    "origins": ORIGIN,
    "quic_configs": QUIC_CONFIG,
}
"""The tables whose rows are written as records."""


class Write(NamedTuple):
    """One step of a plan: values for keys of a table.

    Of the tables in RECORDS: row numbers, and records of which all zero means none. pools: numbers, and
    Pool; maglevs: numbers, and the weights by server id that the table is made from. links: ifindex, and a
    row of struct link or None; direct: networks, and whether they are there.
    """

    table: str
    keys: Any
    values: Any


@dataclass(frozen=True)
class Shape:
    """How many VIPs the kernel's tables take, and how many rows those of VIPs and of origins have."""

    vip_limit: int
    vip_rows: int
    origin_rows: int


@dataclass
class Present:
    """Contents of the tables, by row as in the kernel.

    vips and origins: with the end GONE where one was. servers, server_addresses: by VIP index x 512 + id.
    vip_addresses: by VIP index. quic_configs: by VIP index x 8 + codepoint. pools: those of which it is
    known that they and their Maglev tables are complete. links: by the ifindex of the routing table.
    watched: indices of VIPs that have watches.
    """

    vips: Records
    vip_addresses: Records
    servers: Records
    server_addresses: Records
    origins: Records
    quic_configs: Records
    pools: dict[int, Pool] = field(default_factory=dict)
    links: dict[int, Row] = field(default_factory=dict)
    direct: set[Network] = field(default_factory=set)
    watched: set[int] = field(default_factory=set)

    @classmethod
    def empty(cls, shape: Shape) -> "Present":
        """Return the content of tables that were never written."""
        limit = shape.vip_limit
        return cls(
            np.zeros(shape.vip_rows, VIP),
            np.zeros(limit, ADDRESS),
            np.zeros(limit * SERVER_IDS, SERVER),
            np.zeros(limit * SERVER_IDS, ADDRESS),
            np.zeros(shape.origin_rows, ORIGIN),
            np.zeros(limit * CODEPOINTS, QUIC_CONFIG),
        )

    def note(self, write: Write) -> None:
        """Keep in step with a write that was carried out."""
        table, keys, values = write
        match table:
            case "pools":
                self.pools.update(zip(keys, values, strict=True))
            case "maglevs":
                for number in keys:  # until its pool is written, too
                    self.pools.pop(number, None)
            case "links":
                self.links.update((key, value) for key, value in zip(keys, values, strict=True) if value)
                for key in (key for key, value in zip(keys, values, strict=True) if not value):
                    self.links.pop(key, None)
            case "direct":
                self.direct |= {key for key, there in zip(keys, values, strict=True) if there}
                self.direct -= {key for key, there in zip(keys, values, strict=True) if not there}
            case _:
                getattr(self, table)[np.asarray(keys, np.intp)] = values

    def indices(self) -> set[int]:
        """Return the indices of all VIPs of which something is there."""
        live = self.vips[self.vips["end"] > GONE]
        owned = self.origins[self.origins["end"] > GONE]
        found = set(live["index"].tolist()) | set(owned["vip"].tolist())
        for records, rows in (
            (self.servers, SERVER_IDS),
            (self.server_addresses, SERVER_IDS),
            (self.vip_addresses, 1),
            (self.quic_configs, CODEPOINTS),
        ):
            found |= set((np.flatnonzero(is_set(records)) // rows).tolist())
        return found

    def pool_of(self, index: int) -> Pool | None:
        """Return who takes a VIP's new connections, None if there is no such VIP."""
        rows = np.flatnonzero((self.vips["index"] == index) & (self.vips["end"] > GONE))
        return self.pools.get(int(self.vips["pool"][rows[0]]), Pool()) if len(rows) else None

    def hops(self) -> dict[Address, Hop]:
        """Return the hops to servers by their addresses; not valid until they are seen again."""
        hops: dict[Address, Hop] = {}
        for row in np.flatnonzero(self.servers["ifindex"]).tolist():
            server, words = self.servers[row], self.server_addresses["word"][row]
            address = IPv6Address(words.astype(">u4").tobytes()) if words.any() else None
            hops[address or IPv4Address(int(server["address"]))] = Hop(
                None,
                int(server["ifindex"]),
                server["hop_mac"].tobytes(),
                server["interface_mac"].tobytes(),
                valid=False,
                tags=tuple(server["tag"][: server["tags"]].tolist()),
                mtu=int(server["mtu"]),
            )
        return hops


def is_set(records: Records) -> NDArray[np.bool_]:
    """Whether each record has a byte that is not zero."""
    return np.asarray(octets(records).any(axis=1))


def differs(one: Records, other: Records) -> NDArray[np.bool_]:
    """Whether the records of two arrays of the same kind differ, one by one."""
    return np.asarray((octets(one) != octets(other)).any(axis=1))


def link_rows(links: Mapping[int, Link]) -> dict[int, Row]:
    """Return rows of struct link."""
    return {
        number: {"ifindex": link.ifindex, "tags": len(link.tags), "tag": two(link.tags)}
        for number, link in links.items()
    }
