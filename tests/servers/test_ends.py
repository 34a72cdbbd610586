# SPDX-License-Identifier: Apache-2.0
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers import ends
from poise.servers.ends import GONE, TCP, UDP, Crowded, End
from poise.servers.rows import addresses_of, ipv4

HASH_FACTOR = 0x9E3779B97F4A7C15
ADDRESSES = st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address))
ANY_END = st.builds(End, ADDRESSES, st.integers(1, 65535), st.sampled_from((TCP, UDP)))
ENDS = [End(IPv4Address("10.0.0.0") + number, 80) for number in range(4)]
ENDS += [End(IPv6Address("2001:db8::") + number, 80, UDP) for number in range(4)]


def numbers_of(*wanted: End) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """The numbers of ends, worked out together."""
    return ends.end_numbers(
        np.array([ipv4(end.address) for end in wanted], np.uint32),
        np.array([end.port for end in wanted], np.uint16),
        np.array([end.protocol for end in wanted], np.uint64),
        addresses_of([end.address for end in wanted])["word"],
    )


@given(ANY_END)
def test_rows_are_those_of_the_program(end: End) -> None:
    """The first row for an end is the one that find_end() of tables.h computes with its shifts."""
    number = end.number()
    product = number * HASH_FACTOR % 2**64
    assert ends.probed_rows(number, 1024)[:2] == [product >> 54, ((product >> 54) + 1) % 1024]
    assert ends.first_rows(np.array([number], np.uint64), 8192).tolist() == [product >> 51]


@given(ANY_END, ANY_END)
def test_other_ends_have_other_numbers(one: End, other: End) -> None:
    """Protocol and family count, and no number is that of a row that was left."""
    assert (one.number() == other.number()) == (one == other)
    assert min(one.number(), other.number()) > GONE


@given(st.lists(ANY_END.filter(lambda end: end.address != IPv6Address(0)), max_size=5))
def test_many_numbers_are_those_of_each(wanted: list[End]) -> None:
    """Worked out together, ends have the numbers that each has."""
    assert numbers_of(*wanted).tolist() == [end.number() for end in wanted]


@given(st.lists(st.sets(st.sampled_from(ENDS)), max_size=8))
def test_ends_are_found_and_stay_where_they_are(history: list[set[End]]) -> None:
    """Each end is found and never moves, no row changes its end in one go, no mark stays without need."""
    table = np.zeros(8, np.uint64)
    for wanted in history:
        numbers = numbers_of(*wanted)
        before = table
        places = ends.place(before, numbers)
        table = np.where(before > GONE, np.uint64(GONE), before)
        table[places] = numbers
        marks = np.flatnonzero(table == GONE)
        table[marks] = np.where(ends.is_passed(table, marks), GONE, 0)
        found = {end for end in ENDS if find(table, end.number()) is not None}
        assert found == wanted
        stayed = ends.find(before, numbers)
        assert all(was in (-1, now) for was, now in zip(stayed, places, strict=True))
        for mark in np.flatnonzero(table == GONE):
            unmarked = table.copy()
            unmarked[mark] = 0
            assert any(find(unmarked, int(number)) is None for number in numbers)


def find(table: np.ndarray[tuple[int, ...], np.dtype[np.uint64]], number: int) -> int | None:
    """What find_end() of tables.h finds."""
    for row in ends.probed_rows(number, len(table)):
        if not table[row]:
            return None
        if table[row] == number:
            return row
    return None


def test_too_many_ends_for_their_rows_are_refused() -> None:
    """When no row is left where an end would be found, that is said."""
    wanted = [End(IPv4Address("10.0.0.1"), 80)] + [End(IPv4Address(address), 80) for address in range(8)]
    table = np.zeros(8, np.uint64)
    table[:] = numbers_of(*wanted[1:])
    with pytest.raises(Crowded, match=r"^no place is left for 10\.0\.0\.1 port 80 in the tables: there are"):
        ends.place(table, numbers_of(wanted[0]))


@pytest.mark.slow
def test_all_servers_of_all_vips_find_a_place() -> None:
    """512 VIPs with 512 servers fit into their rows, even if the addresses follow one another."""
    addresses = np.arange(512 * 512, dtype=np.uint32) + int(IPv4Address("10.0.0.0"))
    size = len(addresses)
    numbers = ends.end_numbers(addresses, np.full(size, 8080, np.uint16), TCP, np.zeros((size, 4), np.uint32))
    places = ends.place(np.zeros(4 * size, np.uint64), numbers)
    assert len(np.unique(places)) == size
