# SPDX-License-Identifier: Apache-2.0
"""The real tables, without packets: adoption, repair, and tables of other sizes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import numpy as np
import pytest

from poise.kernel import bpffs
from poise.kernel.maps import open_pinned
from poise.servers.apply import DataPlane, Limits, discard
from poise.servers.ends import GONE
from poise.servers.model import SERVER_IDS, Address, Hop, Link, Model, Policy, Server, State, Vip
from poise.servers.rows import VipTables, of_model
from poise.servers.tables import RECORDS, Present, Write, is_set
from poise.servers.watching import Flow
from tests.servers.writes import singles

pytestmark = pytest.mark.root

KEY = bytes(range(16))
SMALL = Limits(handshake_rows=1024, flow_rows=1024, connection_rows=1, vip_limit=16)
LINKS = {4: Link(2, (10,))}
DIRECT = frozenset({IPv4Network("10.0.0.0/8")})


def server(number: int, address: Address, state: State = State.READY) -> Server:
    """Server 3 has the id 3."""
    return Server(number, f"web{number}", address, 8080, state, 0.0, declared=True)


def vip(index: int, *numbers: int, cut: tuple[int, ...] = ()) -> Vip:
    """A VIP with these servers; every third VIP is of IPv6."""
    first: Address = IPv6Address("2001:db8::") if index % 3 == 2 else IPv4Address("10.1.0.0")
    servers = tuple(
        server(number, first + 256 * index + number, State.CUT if number in cut else State.READY)
        for number in numbers
    )
    return Vip(index, f"vip{index}", first + 0x20000 + index, 80, Policy.ROUND_ROBIN, servers)


def tables_of(*vips: Vip) -> dict[int, VipTables]:
    """What the tables should hold of them; all servers can be reached."""
    model = Model(vips)
    hop = Hop(None, 7, bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2]), valid=True, mtu=1500)
    return of_model(model, {each.address: hop for _, each in model.servers()}, KEY, DIRECT, LINKS)


class Killed(Exception):
    """What ends a process between two writes."""


class Mortal(DataPlane):
    """A data plane whose process dies after so many writes."""

    lives = -1

    def write(self, steps: Iterable[Write]) -> None:
        """Carry out single writes until the end."""
        for step in singles(steps):
            if not self.lives:
                raise Killed
            self.lives -= 1
            super().write([step])


@pytest.fixture
def pins() -> Iterator[Path]:
    """A place for pins that is not there yet."""
    directory = bpffs.BPFFS / "poise-test-apply"
    discard(directory)
    yield directory
    discard(directory)


@contextmanager
def started(pins: Path, limits: Limits = SMALL, kind: type[DataPlane] = DataPlane) -> Iterator[DataPlane]:
    """A data plane as at the start of a daemon."""
    with closing(kind(pins, limits, bytes(6))) as plane:
        yield plane


def replace_all(plane: DataPlane, wanted: dict[int, VipTables]) -> int:
    """Have the tables hold only these."""
    return plane.replace(wanted.values(), links=LINKS, direct=DIRECT)


def content(present: Present) -> dict[str, object]:
    """All that can be compared: without pools that are not in use."""
    in_use = set(present.vips["pool"][present.vips["end"] > GONE].tolist())
    return {
        **{name: getattr(present, name).tobytes() for name in RECORDS},
        "pools": {number: pool for number, pool in present.pools.items() if number in in_use},
        "links": present.links,
        "direct": present.direct,
    }


BEFORE = tables_of(vip(0, 1, 2, 3), vip(1, 1, cut=(1,)), vip(2, 1, 2), vip(3, 5))
AFTER = tables_of(vip(0, 2, 3, 4, cut=(2,)), vip(1, 1, 2), vip(2, 2, 3), replace(vip(4, 1), index=3))


def test_what_is_written_is_what_is_read(pins: Path) -> None:
    """The copy of the tables that is kept in step is what a new process finds in the kernel."""
    with started(pins) as plane:
        assert not plane.adopted
        replace_all(plane, BEFORE)
        replace_all(plane, AFTER)
        with started(pins) as again:
            assert again.adopted
            assert content(again.present) == content(plane.present)
            assert replace_all(again, AFTER) == 0


def test_killed_at_any_write_the_next_start_repairs(pins: Path) -> None:
    """Whatever a process had written of a change, what reads the tables next ends up with the same ones."""
    with started(pins, kind=Mortal) as plane:
        assert isinstance(plane, Mortal)
        replace_all(plane, BEFORE)
        writes = replace_all(plane, AFTER)
        assert writes > 20
        for killed in range(writes):
            plane.lives = -1
            replace_all(plane, BEFORE)
            plane.lives = killed
            with pytest.raises(Killed):
                replace_all(plane, AFTER)  # and it reads the tables again, as a new process would
            plane.lives = -1
            replace_all(plane, AFTER)
            check(plane, AFTER)
        with started(pins) as successor:
            check(successor, AFTER)


def check(plane: DataPlane, wanted: dict[int, VipTables]) -> None:
    """The kernel holds just these VIPs, however it came to that."""
    present = plane.present
    assert present.indices() == set(wanted)
    live = present.vips[present.vips["end"] > GONE]
    assert sorted(live["end"].tolist()) == sorted(int(tables.vip["end"][0]) for tables in wanted.values())
    owned = present.origins[present.origins["end"] > GONE]
    ends = sorted(end for tables in wanted.values() for end in tables.origins["end"].tolist())
    assert sorted(owned["end"].tolist()) == ends
    for index, tables in wanted.items():
        block = slice(index * SERVER_IDS, (index + 1) * SERVER_IDS)
        assert present.servers[block].tobytes() == tables.servers.tobytes()
        assert present.server_addresses[block].tobytes() == tables.server_addresses.tobytes()
        assert present.pool_of(index) == tables.pool
    assert present.links.keys() == LINKS.keys()
    assert present.direct == DIRECT


@pytest.mark.parametrize("limit", [16, 512])
def test_tables_of_another_size_hold_the_same(pins: Path, limit: int) -> None:
    """With another limit of VIPs, the new tables are filled before any program uses them."""
    with started(pins, replace(SMALL, vip_limit=32)) as plane:
        replace_all(plane, BEFORE)
    with started(pins, replace(SMALL, vip_limit=limit)) as plane:
        assert plane.shape.vip_limit == limit
        check(plane, BEFORE)
        plane.settle()
    with started(pins, replace(SMALL, vip_limit=limit)) as plane:
        check(plane, BEFORE)
        assert replace_all(plane, BEFORE) == 0
        assert not (pins / "next").exists()


def test_vips_that_do_not_fit_are_left_out(pins: Path) -> None:
    """With a lower limit, what has an index beyond it is gone, and the rest is whole."""
    with started(pins, replace(SMALL, vip_limit=32)) as plane:
        replace_all(plane, BEFORE | tables_of(vip(20, 1, 2)))
    with started(pins) as plane:
        check(plane, BEFORE)


def test_a_renewal_that_was_killed_before_the_switch_is_begun_afresh(pins: Path) -> None:
    """Until programs may use them, new tables are nothing: what was written meanwhile counts."""
    with started(pins) as plane:
        replace_all(plane, BEFORE)
        with started(pins, replace(SMALL, vip_limit=32)):
            assert (pins / "next").exists()
        replace_all(plane, AFTER)
    with started(pins, replace(SMALL, vip_limit=64)) as plane:
        check(plane, AFTER)


def test_a_renewal_that_was_killed_after_the_switch_is_ended(pins: Path) -> None:
    """Once programs may use them, the new tables are the ones that count."""
    with started(pins) as plane:
        replace_all(plane, BEFORE)
    with started(pins, replace(SMALL, vip_limit=32)) as plane:
        plane._switch()  # noqa: SLF001  as `attach` does
        replace_all(plane, AFTER)
    with started(pins, replace(SMALL, vip_limit=32)) as plane:
        check(plane, AFTER)
        assert not (pins / "switched").exists()


def test_counts_are_carried_and_what_is_added_meanwhile(pins: Path) -> None:
    """Traffic goes on where it was, with what the former programs counted until they were gone."""
    with started(pins) as plane:
        replace_all(plane, BEFORE)
        table = plane._maps["traffic"]  # noqa: SLF001
        counts = table.rows(1, 1)
        counts["packets"] = 5
        table.write_rows(np.array([1]), counts)
        with started(pins, replace(SMALL, vip_limit=32)) as new:
            assert new.traffic(1)["packets"] == counts["packets"].sum()
            counts["packets"] = 7
            table.write_rows(np.array([1]), counts)
            new.settle()
            assert new.traffic(1)["packets"] == counts["packets"].sum()


def test_a_new_server_counts_from_zero(pins: Path) -> None:
    """A row that gets another server starts afresh; the others go on."""
    with started(pins) as plane:
        replace_all(plane, BEFORE)
        table = plane._maps["traffic"]  # noqa: SLF001
        rows = np.array([1, 2])
        counts = table.rows(1, 2)
        counts["connections"] = 3
        table.write_rows(rows, counts)
        moved = vip(0, 1, 2, 3)
        other = replace(moved.servers[0], port=8081)
        plane.apply(tables_of(replace(moved, servers=(other, *moved.servers[1:]))))
        assert [plane.traffic(row)["connections"] > 0 for row in (1, 2)] == [False, True]


def test_loads_are_told_and_read_in_place(pins: Path) -> None:
    """What is written as the load of some rows stands there, with nothing placed since."""
    with started(pins) as plane:
        rows = np.array([3, 600])
        plane.readings.lives["placed"][rows] = 9
        plane.readings.set_loads(rows, np.array([10, 20]), np.array([1, 2]), np.array([300, 400]))
        assert plane._maps["lives"].get(600) == {  # noqa: SLF001
            "load": 20,
            "step": 2,
            "placed": 0,
            "latency": 400,
        }
        assert plane.readings.traffic([0]).shape == (16 * SERVER_IDS,)
        assert not is_set(plane.readings.traffic()).any()
        assert plane.readings.open_connections.shape == (16 * SERVER_IDS,)
        assert len(plane.readings.samples) == 65536


def test_a_watch_has_its_vip_asked(pins: Path) -> None:
    """The flag stands as long as a flow of the VIP is watched, whatever else is applied, or who starts."""
    flow = Flow(IPv4Address("198.51.100.7"), 40000, 0)
    with started(pins) as plane:
        replace_all(plane, BEFORE)
        plane.watch(flow)
        assert plane.watched(flow) is None
        assert replace_all(plane, BEFORE) == 0
        assert flags(plane, 0) & 8
        with started(pins) as again:
            replace_all(again, AFTER)
            assert flags(again, 0) & 8
            again.unwatch(flow)
            assert not flags(again, 0) & 8
            assert not flags(again, 1) & 8


def flags(plane: DataPlane, index: int) -> int:
    """The flags of a VIP, as the kernel has them."""
    found = plane._maps["vips"].rows()  # noqa: SLF001
    return int(found["flags"][(found["index"] == index) & (found["end"] > GONE)][0])


def test_pins_tell_their_layouts(pins: Path) -> None:
    """What is pinned is read with the layouts that its maker gave it."""
    with started(pins) as plane:
        replace_all(plane, BEFORE)
        with open_pinned(pins / "servers") as servers:
            assert servers.get(1)["port"] == 8080


def handshake(plane: DataPlane, row: int, way: int) -> dict[str, int]:
    """What is remembered there."""
    found = plane._maps["handshakes"].get(row)  # noqa: SLF001
    return {name: found[name][way] for name in ("who", "isn", "first_tsval", "last_tsval")}


def remember(plane: DataPlane, row: int, way: int, number: int) -> dict[str, int]:
    """Enter a handshake as the packet side does."""
    table = plane._maps["handshakes"].view()  # noqa: SLF001
    entry = {"isn": number, "first_tsval": number + 1, "last_tsval": number + 2, "who": number << 32 | 3}
    for name, value in entry.items():
        table[name][row, way] = value
    table["next"][row] = way + 1
    return entry


@pytest.mark.parametrize("rows", [512, 2048])
def test_handshakes_are_found_in_a_table_of_another_size(pins: Path, rows: int) -> None:
    """Wherever the hash of a flow leads then, with what came before the switch and after it."""
    with started(pins) as plane:
        one = remember(plane, 1, 0, 7)
        with started(pins, replace(SMALL, handshake_rows=rows)) as new:
            other = remember(plane, 513, 1, 9)
            new.settle()
            for at in range(1, rows, 1024):
                assert handshake(new, at, 2 if rows == 512 else 0) == one
            places = [(row, way) for row in range(1, rows, 512) for way in range(3)]
            found = [place for place in places if handshake(new, *place) == other]
            assert [row for row, _ in found] == ([1] if rows == 512 else [513, 1537])


@pytest.mark.slow
def test_all_servers_of_512_vips_are_written_in_seconds(pins: Path) -> None:
    """A first start with 256,000 servers has their rows worked out and written within 8 s, and reads them."""
    first, hop = IPv4Address("10.0.0.0"), Hop(None, 7, bytes(6), bytes(6), valid=True)
    vips = tuple(
        replace(vip(0), index=index, address=IPv4Address("192.0.2.0") + index, servers=servers)
        for index in range(512)
        for servers in [tuple(server(number, first + 512 * index + number) for number in range(500))]
    )
    hops: dict[Address, Hop] = {first + number: hop for number in range(512 * 512)}
    with started(pins, replace(SMALL, vip_limit=512)) as plane:
        begun = time.perf_counter()
        wanted = of_model(Model(vips), hops, KEY)
        plane.replace(wanted.values(), links={}, direct=frozenset())
        assert time.perf_counter() - begun < 8
        with started(pins, replace(SMALL, vip_limit=512)) as again:
            assert again.replace(wanted.values(), links={}, direct=frozenset()) == 0
            assert np.count_nonzero(again.present.servers["state"]) == 256_000
