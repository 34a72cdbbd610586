# SPDX-License-Identifier: Apache-2.0
"""At each single write, packets find what they need: histories made by hypothesis."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from poise.servers import tables
from poise.servers.model import SERVER_IDS, Hop
from poise.servers.tables import CUT, GONE, End, Row, Shape, Tables, Write
from tests.servers.models import find, wanted
from tests.servers.test_decide_histories import SERVERS, Histories

KEY = bytes(16)
PREFIXES = [(8, 0x0A000000), (16, 0xC0A80000), (32, 0xC0000201)]


class Kernel:
    """Tables as the program sees them, written one step at a time."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.tables: dict[str, dict[Any, Any]] = {
            name: {} for name in ("vips", "servers", "origins", "pools", "direct")
        }

    def read(self) -> Tables:
        """What a new process finds."""
        copies = {name: dict(table) for name, table in self.tables.items()}
        direct = frozenset(copies.pop("direct"))
        copies["pools"] = {number: ids for number, ids in copies["pools"].items() if ids}
        return Tables(**copies, direct=direct)

    def write(self, step: Write) -> None:
        """One system call."""
        if step.value is None:
            del self.tables[step.table][step.key]
        else:
            self.tables[step.table][step.key] = step.value

    def find_vip(self, end: End) -> Row | None:
        """As the program finds it."""
        return find(self.tables["vips"], end, self.shape.vip_rows)

    def find_origin(self, end: End) -> Row | None:
        """As the program finds it."""
        return find(self.tables["origins"], end, self.shape.origin_rows)

    def takes_connections(self, end: End) -> bool:
        """Whether the VIP is found, and every server in its pool can be sent to."""
        vip = self.find_vip(end)
        if vip is None:
            return False
        rows = (vip["index"] * SERVER_IDS + server for server in self.tables["pools"].get(vip["pool"], ()))
        servers = [self.tables["servers"].get(row) for row in rows]
        return all(server and server["ifindex"] and server["state"] != CUT for server in servers)

    def vip_of(self, end: End) -> End | None:
        """The VIP whose server is at this end."""
        origin = self.find_origin(end)
        vip = self.tables["vips"].get(origin["vip_row"]) if origin else None
        return End(**vip["end"]) if vip else None

    def leads_to_nothing(self, end: End) -> bool:
        """Whether packets from this end would be rewritten as if from a VIP that is not there."""
        return self.find_origin(end) is not None and self.vip_of(end) in (None, GONE)

    def is_direct(self, prefix: tuple[int, int]) -> bool:
        """Whether packets to the prefix are left alone."""
        live = (row for row in self.tables["vips"].values() if End(**row["end"]) != GONE)
        return all(row["asks_direct"] for row in live) and prefix in self.tables["direct"]


def ends_in(table: Mapping[int, Row]) -> set[End]:
    """All ends that have a row."""
    return {End(**row["end"]) for row in table.values()} - {GONE}


class Contents(Histories):
    """The tables follow the servers; ways come and go, and the daemon may be killed at any write."""

    def __init__(self) -> None:
        super().__init__()
        self.present = Tables()

    @initialize(vip_rows=st.integers(3, 8), origin_rows=st.integers(6, 16))
    def shape(self, vip_rows: int, origin_rows: int) -> None:
        """So few rows that ends meet."""
        self.kernel = Kernel(Shape(vip_rows, origin_rows))

    @rule(
        interfaces=st.lists(st.sampled_from([0, 2, 3]), min_size=len(SERVERS), max_size=len(SERVERS)),
        valid=st.sets(st.sampled_from(SERVERS)),
        direct=st.sets(st.sampled_from(PREFIXES)),
        killed=st.none() | st.integers(0, 25),
    )
    def apply(
        self, interfaces: list[int], valid: set[int], direct: set[tuple[int, int]], killed: int | None
    ) -> None:
        """Write what is wanted, checking after each write."""
        hops = {
            wanted(number).address: Hop(None, ifindex, bytes(6), bytes(6), valid=number in valid)
            for number, ifindex in zip(SERVERS, interfaces, strict=True)
            if ifindex
        }
        prefixes, shape = frozenset(direct), self.kernel.shape
        goal = tables.desired(self.model, hops, prefixes, key=KEY, present=self.present, shape=shape)
        steps = tables.plan(self.present, goal)
        laws = Laws(self.kernel, self.present, goal)
        for step in steps[:killed]:
            laws.check_write(step)
            self.kernel.write(step)
            laws.check()
        if killed is None or killed >= len(steps):
            pools = {number: ids for number, ids in goal.pools.items() if ids}
            assert self.kernel.read() == replace(goal, pools=pools)
            self.present = goal
            assert goal == tables.desired(self.model, hops, prefixes, key=KEY, present=goal, shape=shape)
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
        after = {End(**row["end"]): row["vip_row"] for row in goal.origins.values()}
        self.origins = {
            end: {vip, End(**goal.vips[after[end]]["end"])}
            for end, vip in before.items()
            if end in after and not kernel.leads_to_nothing(end)
        }
        self.leaving = {end for end in before.keys() - after.keys() if not kernel.leads_to_nothing(end)}
        self.direct = {prefix for prefix in present.direct & goal.direct if kernel.is_direct(prefix)}

    def check_write(self, step: Write) -> None:
        """No row changes its end in one go, and no pool while it is in use: readers would see a mixture."""
        if step.table in ("vips", "origins") and step.value:
            row = self.kernel.tables[step.table].get(step.key, step.value)
            ends = {End(**row["end"]), End(**step.value["end"])} - {GONE}
            assert len(ends) <= 1
        if step.table == "pools":
            found = (self.kernel.find_vip(end) for end in self.vips)
            assert all(vip and vip["pool"] != step.key for vip in found)

    def check(self) -> None:
        """What packets find is what they found before, or will find in the end."""
        assert all(map(self.kernel.takes_connections, self.vips))
        assert all(self.kernel.vip_of(end) in vips for end, vips in self.origins.items())
        assert not any(map(self.kernel.leads_to_nothing, self.leaving))
        assert all(map(self.kernel.is_direct, self.direct))


TestContents = Contents.TestCase
TestContents.__doc__ = (
    "While tables are written, every VIP and server that stays is found, and none is moved."
)
TestContents.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
