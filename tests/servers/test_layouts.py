# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers import layouts
from poise.servers.layouts import Clock
from poise.servers.model import SERVER_IDS, Layout

OF_THE_PAPER = st.sampled_from((Layout.MSB, Layout.LSB))
WORDS = st.integers(0, 0xFFFFFFFF)
HASHES = st.integers(0, (1 << 64) - 1)
IDS = st.integers(0, SERVER_IDS - 1)
CLOCKS = st.builds(Clock, st.tuples(WORDS, WORDS), st.integers(0, 1))


@given(layout=OF_THE_PAPER, clock=CLOCKS, tsval=WORDS, flow=HASHES, server=IDS)
def test_what_was_just_stamped_is_restored_exactly(
    layout: Layout, clock: Clock, tsval: int, flow: int, server: int
) -> None:
    """Whatever was known of a server's clock before, its latest TSval names it and comes back to the bit."""
    seen, clock = layouts.stamp(layout, clock, tsval, flow, server)
    assert 0 <= seen <= 0xFFFFFFFF
    assert layouts.server_of(layout, seen, flow) == server
    assert layouts.restore(layout, clock, seen) == tsval


@given(clock=CLOCKS, tsval=WORDS, until_next_half=st.integers(1, 1 << 16), later=WORDS, flow=HASHES)
def test_msb_restores_across_one_change_of_the_upper_half(
    *, clock: Clock, tsval: int, until_next_half: int, later: int, flow: int
) -> None:
    """An echo is exact while the upper half of its server's clock has changed once at most."""
    seen, clock = layouts.stamp(Layout.MSB, clock, tsval, flow, 1)
    changed = tsval + until_next_half & 0xFFFFFFFF
    _, clock = layouts.stamp(Layout.MSB, clock, changed, flow, 1)
    _, clock = layouts.stamp(Layout.MSB, clock, changed & ~0xFFFF | later & 0xFFFF, flow, 1)
    assert layouts.restore(Layout.MSB, clock, seen) == tsval


@given(clock=CLOCKS, tsval=WORDS, steps=st.integers(0, 1 << 15), flow=HASHES)
def test_lsb_restores_what_is_less_than_half_a_period_old(
    clock: Clock, tsval: int, steps: int, flow: int
) -> None:
    """An echo is exact while its server's clock has gone on by 32.8 s of 1 ms at most."""
    seen, clock = layouts.stamp(Layout.LSB, clock, tsval, flow, 1)
    _, clock = layouts.stamp(Layout.LSB, clock, tsval + steps & 0xFFFFFFFF, flow, 1)
    assert layouts.restore(Layout.LSB, clock, seen) == tsval


@pytest.mark.parametrize("layout", [Layout.MSB, Layout.LSB])
def test_a_cookie_beyond_the_ids_names_no_server(layout: Layout) -> None:
    """The wider cookie could name more servers than a VIP can have."""
    shift = 16 if layout is Layout.MSB else 0
    assert layouts.server_of(layout, 511 << shift, 0) == 511
    assert layouts.server_of(layout, 512 << shift, 0) is None
    assert layouts.server_of(layout, 0x7FFF << shift, 0) is None
