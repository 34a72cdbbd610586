# SPDX-License-Identifier: Apache-2.0
import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers import decide, ends, maglev, reconcile, tables
from poise.servers.ends import GONE, TCP, UDP, Crowded, End, Row
from poise.servers.model import (
    SERVER_IDS,
    Address,
    Hop,
    Layout,
    Link,
    Mode,
    Model,
    Policy,
    Protocol,
    Server,
    State,
    Vip,
)
from poise.servers.tables import CUT, DRAIN, READY, Pool, Shape, Tables, Write, address_row
from tests.servers.models import find, wanted, wanted_vip

CONTRACT = Path(__file__).parents[2] / "bpf" / "poise" / "contract.h"
KEY = bytes(range(16))
SHAPE = Shape(vip_rows=1024, origin_rows=8192)
HASH_FACTOR = 0x9E3779B97F4A7C15
ADDRESSES = st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address))
ANY_END = st.builds(End, ADDRESSES, st.integers(1, 65535), st.sampled_from((TCP, UDP)))


def hop(number: int, *, valid: bool = True, tags: tuple[int, ...] = (), mtu: int = 0) -> Hop:
    """The way to a server."""
    address = wanted(number).address
    macs = (bytes([2, 0, 0, 0, 0, number]), bytes.fromhex("020000000100"))
    return Hop(address, 7, *macs, valid=valid, tags=tags, mtu=mtu)


def model_of(*numbers: int) -> Model:
    """VIP 1 with these servers."""
    return reconcile.reconcile(Model(), [wanted_vip(1, *map(wanted, numbers))], 0, 1)


def desired(
    model: Model,
    hops: Mapping[Address, Hop],
    present: Tables | None = None,
    links: Mapping[int, Link] | None = None,
) -> Tables:
    """The content of the kernel's tables for a model, after an earlier content."""
    before = present or Tables()
    return tables.desired(model, hops, frozenset(), links or {}, key=KEY, present=before, shape=SHAPE)


@given(ANY_END)
def test_rows_are_those_of_the_program(end: End) -> None:
    """The first row for an end is the one that find_end() of tables.h computes with its shifts."""
    number = end.number()
    product = number * HASH_FACTOR % 2**64
    assert ends.probed_rows(number, 1024)[:2] == [product >> 54, ((product >> 54) + 1) % 1024]
    assert ends.probed_rows(number, 8192)[0] == product >> 51


@given(ANY_END, ANY_END)
def test_other_ends_have_other_numbers(one: End, other: End) -> None:
    """Protocol and family count, and no number is that of a row that was left."""
    assert (one.number() == other.number()) == (one == other)
    assert min(one.number(), other.number()) > GONE


def enum(name: str) -> dict[str, int]:
    """The enumerators of contract.h; those that no type of a map refers to are not in the object's BTF."""
    (body,) = re.findall(rf"^enum {name} {{\n(.*?)^}};", CONTRACT.read_text(), re.MULTILINE | re.DOTALL)
    numbers: dict[str, int] = {}
    for enumerator, number in re.findall(r"^\t([A-Z0-9_]+)(?: = (\d+))?,", body, re.MULTILINE):
        numbers[enumerator] = int(number) if number else len(numbers)
    return numbers


def test_numbers_are_those_of_the_contract() -> None:
    """What Python writes by number means the same to the program."""
    assert enum("server_state") == {
        "SERVER_NONE": 0,
        "SERVER_READY": READY,
        "SERVER_DRAIN": DRAIN,
        "SERVER_CUT": CUT,
    }
    for name, prefix, numbers in (
        ("policy", "POLICY_", {Policy(policy): number for policy, number in tables.POLICIES.items()}),
        ("mode", "MODE_", {Mode(mode): number for mode, number in tables.MODES.items()}),
        ("layout", "LAYOUT_", {Layout(layout): number for layout, number in tables.LAYOUTS.items()}),
    ):
        assert enum(name) == {
            prefix + value.value.upper().replace("-", "_"): number for value, number in numbers.items()
        }
    assert enum("vip_flags") == {
        "VIP_ASKS_DIRECT": tables.ASKS_DIRECT,
        "VIP_ASKS_LINKS": tables.ASKS_LINKS,
        "VIP_IS_QUIC": tables.IS_QUIC,
    }
    assert (enum("limits")["MAGLEV_ROWS"], enum("limits")["SERVER_IDS"]) == (maglev.ROWS, SERVER_IDS)


def test_new_connections_go_to_servers_that_are_ready_and_reached() -> None:
    """A pool has the ready servers whose hop is valid; the others keep their rows for old connections."""
    model = model_of(1, 2, 3, 4, 5, 6)
    for name, state in (("web2", State.DRAIN), ("web3", State.REMOVED), ("web4", State.CUT)):
        server = decide.find_server(model.vips[0], name)
        servers = tuple(replace(old, state=state) if old == server else old for old in model.vips[0].servers)
        model = decide.replace_vip(model, replace(model.vips[0], servers=servers))
    hops = {wanted(number).address: hop(number, valid=number != 5) for number in range(1, 6)}
    content = desired(model, hops)
    assert content.pools == {0: Pool((0,), (1,))}
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
    one, two = Pool((0,), (1,)), Pool((0, 1), (1, 1))
    assert pools == [(0, {0: one}), (1, {0: one, 1: two}), (0, {0: one, 1: two})]


def test_a_pool_and_its_maglev_table_are_written_together() -> None:
    """Whoever is hashed meets the servers that take turns, in proportion to their weights."""
    model = model_of(1, 2)
    heavy, light = model.vips[0].servers
    model = decide.replace_vip(model, replace(model.vips[0], servers=(replace(heavy, weight=3), light)))
    content = desired(model, {wanted(number).address: hop(number) for number in (1, 2)})
    assert content.pools == {0: Pool((0, 1), (3, 1))}
    steps = tables.plan(Tables(), content)
    at = steps.index(Write("pools", 0, content.pools[0]))
    assert steps[at - 1] == Write("maglevs", 0, maglev.table({0: 3, 1: 1}))
    assert [step.table for step in steps].count("maglevs") == 1


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
    content = desired(reconcile.reconcile(Model(), vips, 0, 1), {})
    assert sorted(content.servers) == [0, SERVER_IDS]
    assert sorted(content.pools) == [0, 2]


def _vip(index: int, address: Address, *servers: Server, protocol: Protocol = Protocol.TCP) -> Vip:
    return Vip(index, "vip", address, 80, Policy.ROUND_ROBIN, servers, protocol)


def _server(address: Address) -> Server:
    return Server(3, "web", address, 8080, State.READY, 0.0, declared=True)


def test_addresses_of_ipv6_have_tables_of_their_own() -> None:
    """A row of IPv6 holds no address; it is where the program looks for it, by index and by server row."""
    vip, server = IPv6Address("2001:db8::1"), IPv6Address("2001:db8:1::2")
    content = desired(Model((_vip(2, vip, _server(server)),)), {})
    row = 2 * SERVER_IDS + 3
    assert content.vip_addresses == {2: address_row(vip)}
    assert content.server_addresses == {row: address_row(server)}
    assert [vip["address"] for vip in content.vips.values()] == [0]
    assert content.servers[row]["address"] == 0
    assert address_row(vip) == {"word": (0x20010DB8, 0, 0, 1)}
    steps = [step.table for step in tables.plan(Tables(), content)]
    assert steps.index("vip_addresses") < steps.index("vips")
    assert steps.index("server_addresses") < min(steps.index("servers"), steps.index("origins"))


def test_vips_of_one_address_and_port_differ_by_protocol() -> None:
    """TCP and UDP of one end are two VIPs, and QUIC is UDP with a flag."""
    address, servers = (
        IPv4Address("192.0.2.1"),
        [_server(IPv4Address(f"10.0.0.{number}")) for number in (1, 2)],
    )
    kinds = (Protocol.TCP, Protocol.QUIC)
    vips = [_vip(index, address, servers[index], protocol=kind) for index, kind in enumerate(kinds)]
    rows = sorted(desired(Model(tuple(vips)), {}).vips.values(), key=lambda row: row["index"])
    assert [(row["protocol"], row["flags"]) for row in rows] == [(TCP, 0), (UDP, tables.IS_QUIC)]


def test_a_servers_row_has_the_tags_and_the_mtu_of_its_way() -> None:
    """What is not known of the MTU limits nothing; of a server that cannot be sent to nothing is kept."""
    hops = {
        wanted(1).address: hop(1, tags=(100, 10), mtu=1500),
        wanted(2).address: hop(2, tags=(7,)),
        wanted(3).address: hop(3, mtu=100_000),
    }
    rows = desired(model_of(1, 2, 3, 4), hops).servers.values()
    assert [(row["tags"], row["tag"], row["mtu"]) for row in rows] == [
        (2, (100, 10), 1500),
        (1, (7, 0), 65535),
        (0, (0, 0), 65535),
        (0, (0, 0), 0),
    ]


def test_links_have_rows_and_vips_ask_for_them() -> None:
    """Where an interface of the routing table has tags, replies look there."""
    links = {4: Link(2, (10,)), 5: Link(2, (100, 10))}
    content = desired(model_of(1), {}, links=links)
    assert content.links == {
        4: {"ifindex": 2, "tags": 1, "tag": (10, 0)},
        5: {"ifindex": 2, "tags": 2, "tag": (100, 10)},
    }
    assert [row["flags"] for row in content.vips.values()] == [tables.ASKS_LINKS]
    steps = [step.table for step in tables.plan(Tables(), content)]
    assert steps.index("links") < steps.index("vips")
    after = desired(model_of(1), {}, content)
    assert [step for step in tables.plan(content, after) if step.table == "links"] == [
        Write("links", 4, None),
        Write("links", 5, None),
    ]


def test_direct_prefixes_of_both_families_are_asked_for() -> None:
    """A VIP whose replies may be for a prefix has its flag, of whichever family the prefix is."""
    prefixes = frozenset({IPv6Network("2001:db8:d::/48")})
    content = tables.desired(model_of(1), {}, prefixes, {}, key=KEY, present=Tables(), shape=SHAPE)
    assert content.direct == prefixes
    assert [row["flags"] for row in content.vips.values()] == [tables.ASKS_DIRECT]


ENDS = [End(IPv4Address("10.0.0.0") + number, 80) for number in range(4)]
ENDS += [End(IPv6Address("2001:db8::") + number, 80, UDP) for number in range(4)]


def _rows(wanted_ends: set[End]) -> dict[End, Row]:
    return {end: {"end": end.number()} for end in wanted_ends}


@given(st.lists(st.sets(st.sampled_from(ENDS)), max_size=8))
def test_ends_are_found_and_stay_where_they_are(history: list[set[End]]) -> None:
    """Each end is found and never moves, no row changes its end in one go, no mark stays without need."""
    table: dict[int, Row] = {}
    for wanted_ends in history:
        before, table = table, ends.place(_rows(wanted_ends), table, rows=8)
        numbers = {end.number() for end in wanted_ends}
        assert {end for end in ENDS if find(table, end, rows=8)} == wanted_ends
        for number in before.keys() & table.keys():
            former, now = before[number]["end"], table[number]["end"]
            assert now in (former, GONE) or former == GONE
            assert former not in numbers or now == former
        for mark in [number for number, row in table.items() if row["end"] == GONE]:
            unmarked = {number: row for number, row in table.items() if number != mark}
            assert any(find(unmarked, end, rows=8) is None for end in wanted_ends)


def test_too_many_ends_for_their_rows_are_refused() -> None:
    """When no row is left where an end would be found, that is said."""
    wanted_ends = {End(IPv4Address(address), 80): {"end": address + 2} for address in range(9)}
    with pytest.raises(Crowded, match=r"^no place is left for 0\.0\.0\.8 port 80: there are too many$"):
        ends.place(wanted_ends, {}, rows=8)
