# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import numpy as np

from poise.servers.ends import GONE
from poise.servers.model import SERVER_IDS, Address, Hop, Link, Model, Policy, Server, State, Vip
from poise.servers.plan import Changes, new_servers, plan
from poise.servers.rows import IS_WATCHED, Pool, VipTables, of_model
from poise.servers.tables import Present, Shape, Write
from tests.servers.writes import singles

KEY = bytes(range(16))
SHAPE = Shape(16, 128, 32768)
LINKS = {4: Link(2, (10,)), 5: Link(2, (100, 10))}


def vip(index: int, *numbers: int, address: Address | None = None, cut: tuple[int, ...] = ()) -> Vip:
    """A VIP with these servers."""
    servers = tuple(
        Server(
            number,
            f"web{number}",
            (address or IPv4Address("10.0.0.0")) + 256 * index + number,
            8080,
            State.CUT if number in cut else State.READY,
            0.0,
            declared=True,
        )
        for number in numbers
    )
    return Vip(
        index, f"vip{index}", address or IPv4Address("192.0.2.0") + index, 80, Policy.ROUND_ROBIN, servers
    )


def tables_of(*vips: Vip) -> dict[int, VipTables]:
    """What the tables should hold of them; all servers can be reached."""
    model = Model(vips)
    hop = Hop(None, 7, bytes(6), bytes(6), valid=True)
    return of_model(model, {server.address: hop for _, server in model.servers()}, KEY)


def written(present: Present, changes: Changes) -> list[Write]:
    """The writes of a change, which are carried out."""
    steps = plan(present, changes)
    for step in steps:
        present.note(step)
    return steps


def test_a_content_that_is_there_needs_no_writes() -> None:
    """Applying the same again changes nothing."""
    present, wanted = Present.empty(SHAPE), tables_of(vip(0, 1, 2), vip(1, 1))
    assert written(present, wanted)
    assert plan(present, wanted) == []


def test_a_change_of_servers_goes_to_the_pool_that_is_not_in_use() -> None:
    """New connections see the former pool or the new one, never one that is being written."""
    present = Present.empty(SHAPE)
    numbers = []
    for servers in ((1,), (1, 2), (1,), (1, 2, 3)):
        steps = written(present, tables_of(vip(3, *servers)))
        tables = [step.table for step in steps]
        assert tables.index("maglevs") < tables.index("pools") < tables.index("vips")
        (row,) = np.flatnonzero(present.vips["end"])
        numbers.append(int(present.vips["pool"][row]))
        assert present.pool_of(3) == Pool(servers, (1,) * len(servers), servers)
    assert numbers == [6, 7, 6, 7]


def test_a_pool_that_is_not_in_use_counts_for_nothing() -> None:
    """Its Maglev table may be another one's, if a process was killed between the two: it is written anew."""
    present = Present.empty(SHAPE)
    for servers in ((1,), (1, 2)):
        written(present, tables_of(vip(0, *servers)))
    tables = [step.table for step in plan(present, tables_of(vip(0, 1)))]
    assert tables.count("maglevs") == tables.count("pools") == 1


def test_one_vip_is_changed_without_the_others() -> None:
    """What is written for a change of one VIP is about that one."""
    present = Present.empty(SHAPE)
    written(present, tables_of(vip(0, 1, 2), vip(1, 1, 2), vip(2, 1)))
    steps = written(present, tables_of(vip(1, 2, 3)))
    assert {int(key) // SERVER_IDS for step in steps if step.table == "servers" for key in step.keys} == {1}
    assert {int(key) // 2 for step in steps if step.table == "pools" for key in step.keys} == {1}
    assert all(set(step.values["vip"].tolist()) <= {0, 1} for step in steps if step.table == "origins")
    assert present.indices() == {0, 1, 2}
    assert plan(present, tables_of(vip(0, 1, 2), vip(1, 2, 3), vip(2, 1))) == []


def test_a_vip_that_goes_leaves_nothing() -> None:
    """All of its rows are cleared, its servers' ends before its own."""
    present = Present.empty(SHAPE)
    written(present, tables_of(vip(0, 1), vip(1, 1, 2)))
    tables = [step.table for step in written(present, {1: None})]
    assert tables.index("origins") < tables.index("vips") < tables.index("servers")
    assert present.indices() == {0}
    assert not np.any(present.servers["state"][SERVER_IDS : 2 * SERVER_IDS])
    assert np.count_nonzero(present.origins["end"] > GONE) == 1


def test_a_server_that_moves_to_another_vip_is_never_without_one() -> None:
    """Its end is written once, from one VIP to the other."""
    present = Present.empty(SHAPE)
    one, other = vip(0, 1, 2), vip(1, 1)
    written(present, tables_of(one, other))
    moved = replace(other, servers=(*other.servers, replace(one.servers[1], id=5)))
    steps = list(singles(written(present, tables_of(replace(one, servers=one.servers[:1]), moved))))
    (write,) = [step for step in steps if step.table == "origins"]
    assert (write.values["vip"].tolist(), write.values["server"].tolist()) == ([1], [5])


def test_a_server_that_is_cut_yields_to_another_vip_and_comes_back() -> None:
    """Packets of a server that was cut from one VIP and is in another are for the other one, while it is."""
    present = Present.empty(SHAPE)
    one = vip(0, 1, 2)
    taken = replace(vip(1), servers=(replace(one.servers[1], id=7),))
    cut = replace(one, servers=(one.servers[0], replace(one.servers[1], state=State.CUT)))
    written(present, tables_of(cut))
    for changes, owner in (({}, (0, 1)), (tables_of(taken), (1, 0)), ({1: None}, (0, 1))):
        written(present, changes)
        found = present.origins[(present.origins["end"] > GONE) & (present.origins["server"] != 1)]
        assert [(int(row["vip"]), int(row["cut"])) for row in found] == [owner]
    written(present, tables_of(taken))
    assert plan(present, tables_of(cut)) == []


def test_a_row_counts_afresh_for_another_server() -> None:
    """Rows that get another server, or their first one, are named; those of a server that changed are not."""
    present = Present.empty(SHAPE)
    before = tables_of(vip(1, 1, 2))
    assert new_servers(present, before).tolist() == [SERVER_IDS + 1, SERVER_IDS + 2]
    written(present, before)
    other = vip(1, 1, 2, 3)
    servers = (other.servers[0], replace(other.servers[1], port=8081), other.servers[2])
    changes = tables_of(replace(other, servers=servers))
    assert new_servers(present, changes).tolist() == [SERVER_IDS + 2, SERVER_IDS + 3]
    assert new_servers(present, {1: None}).tolist() == []


def test_addresses_of_ipv6_come_before_what_is_found_by_them() -> None:
    """The program compares them as soon as it has found an end."""
    wanted = tables_of(vip(1, 1, address=IPv6Address("2001:db8::")))
    steps = [step.table for step in plan(Present.empty(SHAPE), wanted)]
    assert steps.index("vip_addresses") < steps.index("vips")
    assert steps.index("server_addresses") < min(steps.index("servers"), steps.index("origins"))


def test_links_come_before_those_who_ask_and_go_after() -> None:
    """Where an interface of the routing table has tags, replies find it there."""
    present = Present.empty(SHAPE)
    steps = plan(present, tables_of(vip(0, 1)), links=LINKS)
    tables = [step.table for step in steps]
    assert tables.index("links") < tables.index("vips")
    for step in steps:
        present.note(step)
    assert present.links[5] == {"ifindex": 2, "tags": 2, "tag": (100, 10)}
    assert plan(present, {}) == []
    assert [step.keys for step in plan(present, {}, links={})] == [[4, 5]]


def test_a_watch_is_no_part_of_what_is_wanted() -> None:
    """The flag of a VIP that is watched stays, whatever is applied."""
    present = Present.empty(SHAPE)
    present.watched = {0}
    written(present, tables_of(vip(0, 1), vip(1, 1)))
    live = present.vips[present.vips["end"] > GONE]
    assert dict(zip(live["index"].tolist(), live["flags"].tolist(), strict=True)) == {0: IS_WATCHED, 1: 0}
