# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from importlib.resources import as_file, files
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.kernel.libbpf import Object
from poise.servers import decide, tables
from poise.servers.model import SERVER_IDS, Hop, Model, Policy, State
from poise.servers.tables import CUT, DRAIN, GONE, READY, End, Row, Shape, Tables
from tests.servers.models import find, wanted, wanted_vip

KEY = bytes(range(16))
SHAPE = Shape(vip_rows=4096, origin_rows=32768)
HASH_FACTOR = 0x9E3779B97F4A7C15


def hop(number: int, *, valid: bool = True) -> Hop:
    """The way to a server."""
    address = wanted(number).address
    return Hop(address, 7, bytes([2, 0, 0, 0, 0, number]), bytes.fromhex("020000000100"), valid=valid)


def model_of(*numbers: int) -> Model:
    """VIP 1 with these servers."""
    return decide.reconcile(Model(), [wanted_vip(1, *map(wanted, numbers))], 0, 1)


def desired(model: Model, hops: dict[IPv4Address, Hop], present: Tables | None = None) -> Tables:
    """The content of the kernel's tables for a model, after an earlier content."""
    return tables.desired(model, hops, frozenset(), key=KEY, present=present or Tables(), shape=SHAPE)


@given(st.integers(0, 2**32 - 1), st.integers(1, 65535))
def test_rows_are_those_of_the_program(address: int, port: int) -> None:
    """The first row for an end is the one that find_end() of tables.h computes with its shifts."""
    end = End(address, port)
    product = end.number() * HASH_FACTOR % 2**64
    assert tables.probed_rows(end, 4096)[:2] == [product >> 52, ((product >> 52) + 1) % 4096]
    assert tables.probed_rows(end, 32768)[0] == product >> 49


def test_numbers_are_those_of_the_contract() -> None:
    """States, policies and the mark of a row that was left mean the same to Python and to the program."""
    with as_file(files("poise.objects") / "balancer.bpf.o") as path:
        states, policies = (Object(path).btf.enum(name) for name in ("server_state", "policy"))
    assert states == {"SERVER_NONE": 0, "SERVER_READY": READY, "SERVER_DRAIN": DRAIN, "SERVER_CUT": CUT}
    assert policies == {
        "POLICY_ROUND_ROBIN": tables.POLICIES[Policy.ROUND_ROBIN],
        "POLICY_HASH": tables.POLICIES[Policy.HASH],
    }
    assert GONE.number() == 1


def test_new_connections_go_to_servers_that_are_ready_and_reached() -> None:
    """A pool has the ready servers whose hop is valid; the others keep their rows for old connections."""
    model = model_of(1, 2, 3, 4, 5, 6)
    for name, state in (("web2", State.DRAIN), ("web3", State.REMOVED), ("web4", State.CUT)):
        server = decide.find_server(model.vips[0], name)
        servers = tuple(replace(old, state=state) if old == server else old for old in model.vips[0].servers)
        model = decide.replace_vip(model, replace(model.vips[0], servers=servers))
    hops = {wanted(number).address: hop(number, valid=number != 5) for number in range(1, 6)}
    content = desired(model, hops)
    assert content.pools == {0: (0,)}
    assert [row["state"] for row in content.servers.values()] == [READY, DRAIN, DRAIN, CUT, READY, READY]
    assert [row["ifindex"] for row in content.servers.values()] == [7, 7, 7, 0, 7, 0]
    assert [row["cut"] for row in content.origins.values()].count(1) == 1


def test_a_change_of_servers_goes_to_the_pool_that_is_not_in_use() -> None:
    """New connections see the former pool or the new one, never one that is being written."""
    hops = {wanted(number).address: hop(number) for number in (1, 2)}
    before = desired(model_of(1), hops)
    after = desired(model_of(1, 2), hops, before)
    back = desired(model_of(1), hops, after)
    pools = [(next(iter(content.vips.values()))["pool"], content.pools) for content in (before, after, back)]
    assert pools == [(0, {0: (0,)}), (1, {0: (0,), 1: (0, 1)}), (0, {0: (0,), 1: (0, 1)})]


def test_a_content_that_is_there_needs_no_writes() -> None:
    """Applying the same model again changes nothing."""
    hops = {wanted(number).address: hop(number) for number in (1, 2)}
    content = desired(model_of(1, 2), hops)
    assert desired(model_of(1, 2), hops, content) == content
    assert tables.plan(content, content) == []


def test_a_row_counts_afresh_for_another_server() -> None:
    """Rows that get another server, or their first one, are named; those of a server that changed are not."""
    hops = {wanted(number).address: hop(number) for number in (1, 2, 3)}
    before = desired(model_of(1, 2), hops)
    after = desired(model_of(1, 3), hops)
    assert tables.new_servers(Tables(), before) == [0, 1]
    assert tables.new_servers(before, after) == [1]
    assert tables.new_servers(before, desired(model_of(1, 2), {})) == []


def test_every_vip_has_its_own_rows() -> None:
    """Servers of different VIPs with the same id do not meet."""
    vips = [wanted_vip(1, wanted(1)), wanted_vip(2, wanted(2))]
    content = desired(decide.reconcile(Model(), vips, 0, 1), {})
    assert sorted(content.servers) == [0, SERVER_IDS]
    assert sorted(content.pools) == [0, 2]


ENDS = {End(0x0A000000 + number, 80) for number in range(8)}


@given(st.lists(st.sets(st.sampled_from(sorted(ENDS))), max_size=8))
def test_ends_are_found_and_stay_where_they_are(history: list[set[End]]) -> None:
    """Each end is found and never moves, no row changes its end in one go, no mark stays without need."""
    table: dict[int, Row] = {}
    for ends in history:
        before, table = table, tables.place({end: {"end": end._asdict()} for end in ends}, table, rows=8)
        assert {end for end in ENDS if find(table, end, rows=8)} == ends
        for number in before.keys() & table.keys():
            former, now = tables.end_in(before[number]), tables.end_in(table[number])
            assert now in (former, GONE) or former == GONE
            assert former not in ends or now == former
        for mark in [number for number, row in table.items() if tables.end_in(row) == GONE]:
            unmarked = {number: row for number, row in table.items() if number != mark}
            assert any(find(unmarked, end, rows=8) is None for end in ends)


def test_too_many_ends_for_their_rows_are_refused() -> None:
    """When no row is left where an end would be found, that is said."""
    ends = [End(address, 80) for address in range(9)]
    rows = {end: {"end": end._asdict()} for end in ends}
    with pytest.raises(tables.Crowded, match=r"^no place is left for 0\.0\.0\.8:80: there are too many$"):
        tables.place(rows, {}, rows=8)
