# SPDX-License-Identifier: Apache-2.0
"""At each single write, packets find what they need: histories made by hypothesis."""

from collections.abc import Mapping
from copy import deepcopy
from ipaddress import IPv4Network, IPv6Network

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from poise.servers import ends
from poise.servers.ends import GONE
from poise.servers.model import SERVER_IDS, Hop, Link
from poise.servers.plan import Changes, plan
from poise.servers.rows import ASKS_DIRECT, CUT, VIP, Pool, Records, VipTables, of_model
from poise.servers.tables import Network, Present, Shape, Write
from tests.servers.models import wanted
from tests.servers.test_decide_histories import SERVERS, Histories
from tests.servers.writes import singles

KEY = bytes(16)
PREFIXES: list[Network] = [
    IPv4Network("10.0.0.0/8"),
    IPv4Network("192.0.2.1/32"),
    IPv6Network("2001:db8::/32"),
]
LINKS = [(4, Link(2, (10,))), (5, Link(2, (100, 10))), (4, Link(3, (10,)))]
VIP_MEMBERS = [name for name in VIP.names or () if name != "pool"]


class Kernel:
    """Tables as the program sees them, written one step at a time; ends are their numbers."""

    def __init__(self, shape: Shape) -> None:
        self.tables = Present.empty(shape)
        self.maglevs: dict[int, dict[int, int]] = {}
        self.pools: dict[int, Pool] = {}

    def copy(self) -> "Kernel":
        """The same content, to be written elsewhere."""
        return deepcopy(self)

    def read(self) -> Present:
        """What a new process finds: of pools only those in use."""
        found = deepcopy(self.tables)
        live = found.vips["pool"][found.vips["end"] > GONE].tolist()
        found.pools = {number: self.pools.get(number, Pool()) for number in live}
        return found

    def write(self, step: Write) -> None:
        """One system call."""
        self.tables.note(step)
        if step.table == "maglevs":
            self.maglevs[step.keys[0]] = step.values[0]
        if step.table == "pools":
            self.pools[step.keys[0]] = step.values[0]

    def _find(self, table: Records, end: int) -> int | None:
        for row in ends.probed_rows(end, len(table)):
            if table["end"][row] == end:
                return row
            if not table["end"][row]:
                return None
        return None

    def find_vip(self, end: int) -> Records | None:
        """As the program finds it."""
        row = self._find(self.tables.vips, end)
        return None if row is None else self.tables.vips[row]

    def find_origin(self, end: int) -> Records | None:
        """As the program finds it."""
        row = self._find(self.tables.origins, end)
        return None if row is None else self.tables.origins[row]

    def takes_connections(self, end: int) -> bool:
        """Whether the VIP is found, and every server in its pool can be sent to, by turn and by hash."""
        vip = self.find_vip(end)
        if vip is None:
            return False
        pool = self.pools.get(int(vip["pool"]), Pool())
        if self.maglevs.get(int(vip["pool"]), {}) != dict(zip(pool.ids, pool.weights, strict=True)):
            return False
        rows = int(vip["index"]) * SERVER_IDS + np.array((*pool.ids, *pool.turns), np.intp)
        servers = self.tables.servers[rows]
        return bool(np.all((servers["ifindex"] != 0) & (servers["state"] != CUT)))

    def address_of_vip(self, end: int) -> object:
        """The IPv6 address beside the VIP's row, by which the program tells it from others."""
        vip = self.find_vip(end)
        return vip is not None and self.tables.vip_addresses[int(vip["index"])].tobytes()

    def address_of_origin(self, end: int) -> object:
        """The same of a server's end."""
        origin = self.find_origin(end)
        if origin is None:
            return None
        return self.tables.server_addresses[int(origin["vip"]) * SERVER_IDS + int(origin["server"])].tobytes()

    def place_of_origin(self, end: int) -> tuple[int, ...] | None:
        """The VIP's row and index, and the id of the server at this end."""
        origin = self.find_origin(end)
        return None if origin is None else tuple(int(origin[name]) for name in ("vip_row", "vip", "server"))

    def vip_of(self, end: int) -> int | None:
        """The VIP whose server is at this end."""
        origin = self.find_origin(end)
        return None if origin is None else int(self.tables.vips["end"][origin["vip_row"]]) or None

    def leads_to_nothing(self, end: int) -> bool:
        """Whether packets from this end would be rewritten as if from a VIP that is not there."""
        return self.find_origin(end) is not None and self.vip_of(end) in (None, GONE)

    def is_direct(self, prefix: Network) -> bool:
        """Whether packets to the prefix are left alone."""
        flags = self.tables.vips["flags"][self.tables.vips["end"] > GONE]
        return bool(np.all(flags & ASKS_DIRECT != 0)) and prefix in self.tables.direct


def ends_in(table: Records) -> set[int]:
    """All ends that have a row."""
    return set(table["end"][table["end"] > GONE].tolist())


def is_ipv6(end: int) -> bool:
    """Whether the number of an end is one of IPv6 (IPV6_NUMBERS of tables.h)."""
    return end >> 56 == 6


class Contents(Histories):
    """The tables follow the servers; ways come and go, and the daemon may be killed at any write."""

    def __init__(self) -> None:
        super().__init__()
        self.present = Present.empty(Shape(16, 16, 32))

    @initialize(vip_rows=st.sampled_from([8, 16]), origin_rows=st.sampled_from([16, 32, 64]))
    def shape(self, vip_rows: int, origin_rows: int) -> None:
        """So few rows that ends meet."""
        self.kernel = Kernel(Shape(16, vip_rows, origin_rows))
        self.present = self.kernel.read()

    @rule(
        interfaces=st.lists(st.sampled_from([0, 2, 3]), min_size=len(SERVERS), max_size=len(SERVERS)),
        valid=st.sets(st.sampled_from(SERVERS)),
        direct=st.sets(st.sampled_from(PREFIXES)),
        links_wanted=st.sets(st.sampled_from(LINKS)).map(dict),
        killed=st.none() | st.integers(0, 25),
        part=st.none() | st.sets(st.integers(0, 5)),
    )
    def apply(
        self,
        *,
        interfaces: list[int],
        valid: set[int],
        direct: set[Network],
        links_wanted: dict[int, Link],
        killed: int | None,
        part: set[int] | None,
    ) -> None:
        """Write what is wanted, of all VIPs or some, checking after each write."""
        hops = {
            wanted(number).address: Hop(None, ifindex, bytes(6), bytes(6), valid=number in valid)
            for number, ifindex in zip(SERVERS, interfaces, strict=True)
            if ifindex
        }
        prefixes = frozenset(direct)
        links: dict[int, Link] | None = links_wanted
        if part is not None:
            prefixes, links_wanted, links = frozenset(self.present.direct), dict(LINKS), None
            links_wanted = links_wanted if self.present.links else {}
        wanted_tables = of_model(self.model, hops, KEY, prefixes, links_wanted)
        everything = dict.fromkeys(self.present.indices()) | wanted_tables
        changes: Changes = {
            index: tables for index, tables in everything.items() if part is None or index in part
        }
        try:
            steps = list(singles(plan(self.present, changes, links=links, direct=prefixes)))
        except ends.Crowded:
            return  # which poise says, and leaves the tables as they are
        goal = self.kernel.copy()
        for step in steps:
            goal.write(step)
        laws = Laws(self.kernel, self.present, goal)
        for step in steps[:killed]:
            laws.check_write(step)
            self.kernel.write(step)
            laws.check()
        if killed is None or killed >= len(steps):
            if links is not None:
                check_content(goal, wanted_tables, links, prefixes)
            self.present = goal.read()
            assert plan(self.present, changes, links=links, direct=prefixes) == []
        else:
            self.present = self.kernel.read()


def check_content(
    kernel: Kernel,
    wanted_tables: Mapping[int, VipTables],
    links: Mapping[int, Link],
    direct: frozenset[Network],
) -> None:
    """The tables hold what is wanted of each VIP, and nothing else."""
    held = kernel.tables
    assert ends_in(held.vips) == {int(tables.vip["end"][0]) for tables in wanted_tables.values()}
    assert held.indices() == set(wanted_tables)
    claimed = [tables.origins["end"].tolist() for tables in wanted_tables.values()]
    assert ends_in(held.origins) == {end for part in claimed for end in part}
    assert set(held.links) == set(links)
    assert held.direct == set(direct)
    for index, tables in wanted_tables.items():
        vip = kernel.find_vip(int(tables.vip["end"][0]))
        assert vip is not None
        assert all(vip[name].tolist() == tables.vip[name][0].tolist() for name in VIP_MEMBERS)
        assert kernel.pools[int(vip["pool"])] == tables.pool
        block = slice(index * SERVER_IDS, (index + 1) * SERVER_IDS)
        assert held.servers[block].tobytes() == tables.servers.tobytes()
        assert held.server_addresses[block].tobytes() == tables.server_addresses.tobytes()


class Laws:
    """What must hold between two contents, at every write from one to the other."""

    def __init__(self, kernel: Kernel, present: Present, goal: Kernel) -> None:
        self.kernel = kernel
        # A killed process may have left a VIP half taken away: it is in order again at the end only.
        staying = ends_in(present.vips) & ends_in(goal.tables.vips)
        self.vips = {end for end in staying if kernel.takes_connections(end)}
        before = {end: kernel.vip_of(end) for end in ends_in(present.origins)}
        after = {end: goal.vip_of(end) for end in ends_in(goal.tables.origins)}
        self.origins = {
            end: {vip, after[end]}
            for end, vip in before.items()
            if end in after and not kernel.leads_to_nothing(end)
        }
        self.leaving = {end for end in before.keys() - after.keys() if not kernel.leads_to_nothing(end)}
        self.direct = {prefix for prefix in present.direct & goal.tables.direct if kernel.is_direct(prefix)}
        # By the numbers of the ends, so that what stays keeps the address it had; of IPv4 nobody asks.
        self.addresses = {end: kernel.address_of_vip(end) for end in filter(is_ipv6, self.vips)}
        # A server whose VIP is replaced by another one gets its place, and its address there, in two steps.
        self.server_addresses = {
            end: kernel.address_of_origin(end)
            for end in filter(is_ipv6, self.origins)
            if kernel.place_of_origin(end) == goal.place_of_origin(end)
        }

    def check_write(self, step: Write) -> None:
        """No row changes its end in one go, and no pool while it is in use: readers would see a mixture."""
        if step.table in ("vips", "origins"):
            held = getattr(self.kernel.tables, step.table)["end"][step.keys[0]]
            assert len({int(held), int(step.values["end"][0])} - {GONE, 0}) <= 1
        if step.table in ("pools", "maglevs"):
            found = (self.kernel.find_vip(end) for end in self.vips)
            assert all(vip is not None and vip["pool"] != step.keys[0] for vip in found)

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
