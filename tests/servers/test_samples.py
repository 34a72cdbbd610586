# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers import samples
from poise.servers.model import SERVER_IDS

NOW = 5000.0
ROW = 3 * SERVER_IDS + 7


def table(*flows: tuple[int, int, float, int]) -> samples.Samples:
    """A table with these flows: VIP, server, seconds of silence, flags."""
    result = np.zeros(1024, samples.SAMPLE)
    for place, (vip, server, silence, flags) in enumerate(flows):
        seen = samples.units(NOW - silence)
        result[place] = (1, vip, server, seen, seen, flags)
    return result


def test_flows_of_a_server_are_counted() -> None:
    """Flows that were seen within the time and are not over count; the newest one tells the silence."""
    flows = table(
        (3, 7, 5.0, samples.USED | samples.BEGUN),
        (3, 7, 20.0, samples.USED),
        (3, 7, 120.0, samples.USED),
        (3, 7, 1.0, samples.USED | samples.RESET),
        (3, 7, 1.0, samples.USED | samples.SERVER_FIN),
        (3, 7, 1.0, 0),
        (3, 8, 1.0, samples.USED),
        (4, 7, 1.0, samples.USED),
    )
    found = samples.flows_seen(flows, {ROW: 60.0, ROW + 1: 0.5}, NOW)
    assert {row: round(number) for row, (number, _) in found.items()} == {ROW: 2, ROW + 1: 0}
    assert [silence for _, silence in found.values()] == pytest.approx([5.0, 1.0], abs=0.01)


def test_a_server_without_flows_has_none() -> None:
    """Nothing was ever seen of it."""
    assert samples.flows_seen(table(), {ROW: 60.0}, NOW) == {ROW: (0.0, None)}


@given(st.floats(0, 1e6), st.floats(0, 1e9))
def test_ages_survive_the_wrap_of_the_clock(age: float, clock: float) -> None:
    """The age is right to a unit or two whenever the machine was booted; what is newer than now is new."""
    seen = np.array([samples.units(clock + age)], np.uint32)
    assert samples.ages(seen, clock + 2 * age)[0] == pytest.approx(age, abs=3 * samples.UNIT)
    assert samples.ages(seen, clock)[0] == 0


@given(st.integers(1, 65536), st.data())
def test_crowded_tables_hide_flows(size: int, data: st.DataObject) -> None:
    """There are never fewer flows than rows with one, and hardly more while few rows are taken."""
    flows = data.draw(st.integers(0, size))
    estimate = samples.crowded(flows, size)
    assert estimate >= min(flows, size - 1) * (1 - 1e-9)
    if flows <= size / 100:
        assert estimate <= flows * 1.01
