# SPDX-License-Identifier: Apache-2.0
"""At each single write, packets find what they need: histories made by hypothesis."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from poise.servers import ends, tables
from poise.servers.ends import GONE, Row
from poise.servers.model import SERVER_IDS, Hop, Link
from poise.servers.tables import CUT, Network, Pool, Shape, Tables, Write
from tests.servers.models import wanted
from tests.servers.test_decide_histories import SERVERS, Histories

KEY = bytes(16)
PREFIXES: list[Network] = [
    IPv4Network("10.0.0.0/8"),
    IPv4Network("192.0.2.1/32"),
    IPv6Network("2001:db8::/32"),
]
LINKS = [(4, Link(2, (10,))), (5, Link(2, (100, 10))), (4, Link(3, (10,)))]
TABLES = (
    *("vips", "vip_addresses", "servers", "server_addresses"),
    *("origins", "pools", "quic_configs", "links", "direct"),
)


class Kernel:
    """Tables as the program sees them, written one step at a time; ends are their numbers."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.tables: dict[str, dict[Any, Any]] = {name: {} for name in (*TABLES, "maglevs")}

    def read(self) -> Tables:
        """What a new process finds."""
        copies: dict[str, Any] = {name: dict(self.tables[name]) for name in TABLES}
        direct = frozenset(copies.pop("direct"))
        copies["pools"] = {number: pool for number, pool in copies["pools"].items() if pool.ids}
        return Tables(**copies, direct=direct)

    def write(self, step: Write) -> None:
        """One system call."""
        if step.value is None:
            del self.tables[step.table][step.key]
        elif step.table == "maglevs":
            self.tables[step.table][step.key] = frozenset(step.value)  # whom hashes lead to
        else:
            self.tables[step.table][step.key] = step.value

    def _find(self, table: str, end: int, rows: int) -> Row | None:
        for row in ends.probed_rows(end, rows):
            found: Row | None = self.tables[table].get(row)
            if found is None or found["end"] == end:
                return found
        return None

    def find_vip(self, end: int) -> Row | None:
        """As the program finds it."""
        return self._find("vips", end, self.shape.vip_rows)

    def find_origin(self, end: int) -> Row | None:
        """As the program finds it."""
        return self._find("origins", end, self.shape.origin_rows)

    def takes_connections(self, end: int) -> bool:
        """Whether the VIP is found, and every server in its pool can be sent to, by turn and by hash."""
        vip = self.find_vip(end)
        if vip is None:
            return False
        pool = self.tables["pools"].get(vip["pool"], Pool())
        if pool.ids and self.tables["maglevs"][vip["pool"]] != set(pool.ids):
            return False
        rows = (vip["index"] * SERVER_IDS + server for server in pool.ids)
        servers = [self.tables["servers"].get(row) for row in rows]
        return all(server and server["ifindex"] and server["state"] != CUT for server in servers)

    def address_of_vip(self, end: int) -> object:
        """The IPv6 address beside the VIP's row, by which the program tells it from others; None of IPv4."""
        vip = self.find_vip(end)
        return vip and self.tables["vip_addresses"].get(vip["index"])

    def address_of_origin(self, end: int) -> object:
        """The same of a server's end."""
        origin = self.find_origin(end)
        row = origin and origin["vip"] * SERVER_IDS + origin["server"]
        return origin and self.tables["server_addresses"].get(row)

    def place_of_origin(self, end: int) -> tuple[int, int, int] | None:
        """The VIP's row and index, and the id of the server at this end."""
        origin = self.find_origin(end)
        return (origin["vip_row"], origin["vip"], origin["server"]) if origin else None

    def vip_of(self, end: int) -> int | None:
        """The VIP whose server is at this end."""
        origin = self.find_origin(end)
        vip = self.tables["vips"].get(origin["vip_row"]) if origin else None
        return vip["end"] if vip else None

    def leads_to_nothing(self, end: int) -> bool:
        """Whether packets from this end would be rewritten as if from a VIP that is not there."""
        return self.find_origin(end) is not None and self.vip_of(end) in (None, GONE)

    def is_direct(self, prefix: Network) -> bool:
        """Whether packets to the prefix are left alone."""
        live = (row for row in self.tables["vips"].values() if row["end"] != GONE)
        return all(row["flags"] & tables.ASKS_DIRECT for row in live) and prefix in self.tables["direct"]


def ends_in(table: Mapping[int, Row]) -> set[int]:
    """All ends that have a row."""
    return {row["end"] for row in table.values()} - {GONE}


def is_ipv6(end: int) -> bool:
    """Whether the number of an end is one of IPv6 (IPV6_NUMBERS of tables.h)."""
    return end >> 56 == 6


class Contents(Histories):
    """The tables follow the servers; ways come and go, and the daemon may be killed at any write."""

    def __init__(self) -> None:
        super().__init__()
        self.present = Tables()

    @initialize(vip_rows=st.integers(4, 8), origin_rows=st.integers(12, 32))
    def shape(self, vip_rows: int, origin_rows: int) -> None:
        """So few rows that ends meet."""
        self.kernel = Kernel(Shape(vip_rows, origin_rows))

    @rule(
        interfaces=st.lists(st.sampled_from([0, 2, 3]), min_size=len(SERVERS), max_size=len(SERVERS)),
        valid=st.sets(st.sampled_from(SERVERS)),
        direct=st.sets(st.sampled_from(PREFIXES)),
        links=st.sets(st.sampled_from(LINKS)).map(dict),
        killed=st.none() | st.integers(0, 25),
    )
    def apply(
        self,
        *,
        interfaces: list[int],
        valid: set[int],
        direct: set[Network],
        links: dict[int, Link],
        killed: int | None,
    ) -> None:
        """Write what is wanted, checking after each write."""
        hops = {
            wanted(number).address: Hop(None, ifindex, bytes(6), bytes(6), valid=number in valid)
            for number, ifindex in zip(SERVERS, interfaces, strict=True)
            if ifindex
        }
        prefixes, shape = frozenset(direct), self.kernel.shape
        try:
            goal = tables.desired(
                self.model, hops, prefixes, links, key=KEY, present=self.present, shape=shape
            )
        except ends.Crowded:
            return  # which poise says, and leaves the tables as they are
        steps = tables.plan(self.present, goal)
        laws = Laws(self.kernel, self.present, goal)
        for step in steps[:killed]:
            laws.check_write(step)
            self.kernel.write(step)
            laws.check()
        if killed is None or killed >= len(steps):
            pools = {number: pool for number, pool in goal.pools.items() if pool.ids}
            assert self.kernel.read() == replace(goal, pools=pools)
            self.present = goal
            again = tables.desired(self.model, hops, prefixes, links, key=KEY, present=goal, shape=shape)
            assert goal == again
        else:
            self.present = self.kernel.read()


class Laws:
    """What must hold between two contents, at every write from one to the other."""

    def __init__(self, kernel: Kernel, present: Tables, goal: Tables) -> None:
        self.kernel = kernel
        # A killed process may have left a VIP half taken away: it is in order again at the end only.
        staying = ends_in(present.vips) & ends_in(goal.vips)
        self.vips = {end for end in staying if kernel.takes_connections(end)}
        before = {end: kernel.vip_of(end) for end in ends_in(present.origins)}
        after = {row["end"]: row["vip_row"] for row in goal.origins.values()}
        self.origins = {
            end: {vip, goal.vips[after[end]]["end"]}
            for end, vip in before.items()
            if end in after and not kernel.leads_to_nothing(end)
        }
        self.leaving = {end for end in before.keys() - after.keys() if not kernel.leads_to_nothing(end)}
        self.direct = {prefix for prefix in present.direct & goal.direct if kernel.is_direct(prefix)}
        # By the numbers of the ends, so that what stays keeps the address it had; of IPv4 nobody asks.
        self.addresses = {end: kernel.address_of_vip(end) for end in filter(is_ipv6, self.vips)}
        # A server whose VIP is replaced by another one gets its place, and its address there, in two steps.
        places = {row["end"]: (row["vip_row"], row["vip"], row["server"]) for row in goal.origins.values()}
        self.server_addresses = {
            end: kernel.address_of_origin(end)
            for end in filter(is_ipv6, self.origins)
            if kernel.place_of_origin(end) == places[end]
        }

    def check_write(self, step: Write) -> None:
        """No row changes its end in one go, and no pool while it is in use: readers would see a mixture."""
        if step.table in ("vips", "origins") and step.value:
            row = self.kernel.tables[step.table].get(step.key, step.value)
            assert len({row["end"], step.value["end"]} - {GONE}) <= 1
        if step.table in ("pools", "maglevs"):
            found = (self.kernel.find_vip(end) for end in self.vips)
            assert all(vip and vip["pool"] != step.key for vip in found)

    def check(self) -> None:
        """What packets find is what they found before, or will find in the end."""
        kernel = self.kernel
        assert all(map(kernel.takes_connections, self.vips))
        assert all(kernel.vip_of(end) in vips for end, vips in self.origins.items())
        assert not any(map(kernel.leads_to_nothing, self.leaving))
        assert all(map(kernel.is_direct, self.direct))
        for end, address in self.addresses.items():
            assert kernel.address_of_vip(end) == address
        for end, address in self.server_addresses.items():
            assert kernel.address_of_origin(end) == address


TestContents = Contents.TestCase
TestContents.__doc__ = (
    "While tables are written, every VIP and server that stays is found, and none is moved."
)
TestContents.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
