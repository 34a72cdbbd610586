# SPDX-License-Identifier: Apache-2.0
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import as_file, files
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import numpy as np
import pytest

from poise.kernel.btf import Struct
from poise.kernel.libbpf import Object
from poise.servers import maglev, rows
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
from poise.servers.rows import CUT, DRAIN, READY, Pool, VipTables, desired, of_model
from poise.servers.standing import Choice

CONTRACT = Path(__file__).parents[2] / "bpf" / "poise" / "contract.h"
KEY = bytes(range(16))
FIRST = IPv4Address("10.0.0.0")


def hop(*, valid: bool = True, tags: tuple[int, ...] = (), mtu: int = 0) -> Hop:
    """The way to a server."""
    macs = (bytes.fromhex("020000000002"), bytes.fromhex("020000000100"))
    return Hop(None, 7, *macs, valid=valid, tags=tags, mtu=mtu)


def server(number: int, state: State = State.READY, address: Address | None = None) -> Server:
    """Server 1 has the id 1 and is at 10.0.0.1."""
    return Server(number, f"web{number}", address or FIRST + number, 8080, state, 0.0, declared=True)


def vip_of(*servers: Server, **more: object) -> Vip:
    """VIP 2 with these servers."""
    vip = Vip(2, "vip", IPv4Address("192.0.2.1"), 80, Policy.ROUND_ROBIN, servers)
    return replace(vip, **more)  # type: ignore[arg-type]  # members of Vip


def tables_of(vip: Vip, hops: Mapping[Address, Hop]) -> VipTables:
    """What the tables should hold of it."""
    return of_model(Model((vip,)), hops, KEY)[vip.index]


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
    assert {f"MODE_{mode.value.upper()}": number for mode, number in rows.MODES.items()} == enum("mode")
    assert {f"LAYOUT_{layout.value.upper()}": number for layout, number in rows.LAYOUTS.items()} == enum(
        "layout"
    )
    assert enum("policy") == {
        "POLICY_TURN": rows.POLICIES[Policy.ROUND_ROBIN],
        "POLICY_HASH": rows.POLICIES[Policy.HASH],
        "POLICY_MAGLEV": rows.POLICIES[Policy.MAGLEV],
        "POLICY_TWO": rows.POLICIES[Policy.POWER_OF_TWO],
        "POLICY_LEAST": rows.POLICIES[Policy.LEAST_LOADED],
        "POLICY_PREQUAL": rows.POLICIES[Policy.PREQUAL],
    }
    assert rows.POLICIES[Policy.WEIGHTED_ROUND_ROBIN] == rows.POLICIES[Policy.AWRR] == 0
    assert enum("vip_flags") == {
        "VIP_ASKS_DIRECT": rows.ASKS_DIRECT,
        "VIP_ASKS_LINKS": rows.ASKS_LINKS,
        "VIP_IS_QUIC": rows.IS_QUIC,
        "VIP_IS_WATCHED": rows.IS_WATCHED,
    }
    limits = enum("limits")
    assert (limits["MAGLEV_ROWS"], limits["SERVER_IDS"]) == (maglev.ROWS, SERVER_IDS)


def test_members_are_those_of_the_contract() -> None:
    """Each record has just the members of the struct that it is brought into."""
    with as_file(files("poise.objects") / "balancer.bpf.o") as path:
        balancer = Object(path)
    layouts = {
        "vips": rows.VIP,
        "servers": rows.SERVER,
        "origins": rows.ORIGIN,
        "quic_configs": rows.QUIC_CONFIG,
    }
    for name, dtype in layouts.items():
        _, _, value = balancer.wanted_map(name)
        assert isinstance(value, Struct)
        assert set(dtype.names or ()) == value.members.keys() - {"zero"}
    balancer.close()


def test_new_connections_go_to_servers_that_are_ready_and_reached() -> None:
    """A pool has the ready servers whose hop is valid; the others keep their rows for old connections."""
    states = (State.READY, State.DRAIN, State.REMOVED, State.CUT, State.READY, State.READY, State.MAINT)
    servers = [server(number, state) for number, state in enumerate(states)]
    hops: dict[Address, Hop] = {FIRST + number: hop(valid=number != 4) for number in (0, 1, 2, 3, 4, 6)}
    tables = tables_of(vip_of(*servers), hops)
    assert tables.pool == Pool((0,), (1,), (0,))
    assert tables.servers["state"][:8].tolist() == [READY, DRAIN, DRAIN, CUT, READY, READY, DRAIN, 0]
    assert tables.servers["ifindex"][:8].tolist() == [7, 7, 7, 0, 7, 0, 7, 0]
    assert tables.origins["cut"].sum() == 1


def test_of_servers_at_one_end_the_one_that_is_not_cut_counts() -> None:
    """Packets of a server that was cut, and is back under another id, are the new one's."""
    servers = [server(0), server(1, State.CUT, FIRST), server(2, State.CUT)]
    origins = tables_of(vip_of(*servers), {FIRST: hop()}).origins
    assert sorted(zip(origins["server"].tolist(), origins["cut"].tolist(), strict=True)) == [(0, 0), (2, 1)]


def test_addresses_of_ipv6_have_tables_of_their_own() -> None:
    """A row of IPv6 holds no address; it is where the program looks for it, by index and by server row."""
    address = IPv6Address("2001:db8:1::2")
    tables = tables_of(vip_of(server(3, address=address), address=IPv6Address("2001:db8::1")), {})
    assert tables.address["word"].tolist() == [[0x20010DB8, 0, 0, 1]]
    assert tables.server_addresses["word"][3].tolist() == [0x20010DB8, 0x10000, 0, 2]
    assert (tables.vip["address"][0], tables.servers["address"][3]) == (0, 0)
    assert rows.address_row(IPv6Address("2001:db8::1")) == {"word": (0x20010DB8, 0, 0, 1)}


def test_quic_is_udp_with_a_flag() -> None:
    """TCP and UDP of one end are two VIPs, and QUIC is UDP with a flag."""
    vips = [tables_of(vip_of(protocol=protocol), {}).vip for protocol in (Protocol.TCP, Protocol.QUIC)]
    assert [(vip["protocol"][0], vip["flags"][0]) for vip in vips] == [(6, 0), (17, rows.IS_QUIC)]
    assert vips[0]["end"] != vips[1]["end"]


def test_a_servers_row_has_the_tags_and_the_mtu_of_its_way() -> None:
    """What is not known of the MTU limits nothing; of a server that cannot be sent to nothing is kept."""
    hops: dict[Address, Hop] = {
        FIRST: hop(tags=(100, 10), mtu=1500),
        FIRST + 1: hop(tags=(7,)),
        FIRST + 2: hop(mtu=100_000),
    }
    found = tables_of(vip_of(*map(server, range(4))), hops).servers[:4]
    assert found["tags"].tolist() == [2, 1, 0, 0]
    assert found["tag"].tolist() == [[100, 10], [7, 0], [0, 0], [0, 0]]
    assert found["mtu"].tolist() == [1500, 65535, 65535, 0]


def test_vips_ask_for_links_and_prefixes_of_either_family() -> None:
    """A VIP has the flags of what there is to be asked for."""
    prefixes = frozenset({IPv6Network("2001:db8:d::/48")})
    assert rows.flags_for(prefixes, {}) == rows.ASKS_DIRECT
    assert rows.flags_for((), {4: Link(2, (10,))}) == rows.ASKS_LINKS
    tables = desired(vip_of(mode=Mode.STATEFUL, layout=Layout.LOW), Choice(), {}, KEY, rows.ASKS_LINKS)
    assert (tables.vip["flags"][0], tables.vip["mode"][0]) == (rows.ASKS_LINKS, 1)


def test_turns_follow_shares() -> None:
    """Each server that takes connections is in the schedule as often as its share."""
    choice = Choice({1: 2.0, 4: 1.0}, {1: 2, 4: 1}, hot_above=9)
    tables = desired(vip_of(server(1), server(4)), choice, {FIRST + 1: hop(), FIRST + 4: hop()}, KEY)
    assert (tables.pool.ids, tables.pool.weights) == ((1, 4), (2, 1))
    assert sorted(tables.pool.turns) == [1, 1, 4]
    assert tables.vip["hot_above"][0] == 9
    assert tables == desired(vip_of(server(1), server(4)), choice, {FIRST + 1: hop(), FIRST + 4: hop()}, KEY)
    assert tables != desired(vip_of(server(1)), choice, {FIRST + 1: hop()}, KEY)


@pytest.mark.slow
def test_a_vip_with_500_servers_is_worked_out_at_once() -> None:
    """A change of one VIP takes some milliseconds, however many servers it has."""
    vip = vip_of(*map(server, range(500)))
    hops = {each.address: hop() for each in vip.servers}
    choice = Choice(dict.fromkeys(range(500), 1.0), dict.fromkeys(range(500), 1))
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        assert np.count_nonzero(desired(vip, choice, hops, KEY).servers["state"]) == 500
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.015
