# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers.load.level import HOT_ABOVE, Level, Measured, Noise, Scale, level

loads = st.lists(st.floats(0, 1e15), min_size=1, max_size=20)


def measured(
    load: list[float], placed: list[float], opened: float, since: list[float] | None = None, gain: float = 1.0
) -> Measured:
    """Of servers of weight 1."""
    numbers = [
        np.array(each, float) for each in (load, [1.0] * len(load), placed, since or [0.0] * len(load))
    ]
    return Measured(numbers[0], numbers[1], numbers[2], numbers[3], opened, gain)


def test_the_step_of_long_connections_is_the_load_of_one() -> None:
    """They outlive the interval: loads stay nearly as they are, and one more adds what each has."""
    result = level(measured([30.0, 10.0], [1, 1], 4000))
    assert result.step == pytest.approx([40 / 4000] * 2, rel=1e-3)
    assert result.load == pytest.approx([30, 10], rel=1e-2)


def test_the_step_of_short_connections_is_the_load_of_one_placed() -> None:
    """All end within the interval: what they did not cause is left, the step is per placement."""
    result = level(measured([0.9, 0.4], [4000, 4000], 5))
    assert result.step == pytest.approx([1.3 / 8000] * 2)
    assert result.load[0] - result.load[1] == pytest.approx(0.5)


def test_connections_since_the_report_are_added() -> None:
    """What was placed after a load was measured counts as if it had been placed after it was written."""
    before = level(measured([10.0, 10.0], [5, 5], 20))
    after = level(measured([10.0, 10.0], [5, 5], 20, since=[3, 0]))
    assert after.load - before.load == pytest.approx([3 * before.step[0], 0])


def test_connections_that_do_not_end_are_not_foreseen_to() -> None:
    """Where it is known that none ended, many new ones take nothing off a load."""
    growing = replace(measured([40.0, 20.0], [0, 20], 60), ended=0.0)
    result = level(growing)
    assert result.load.tolist() == [40, 20]
    assert result.step.tolist() == [1, 1]


def test_idle_servers_get_connections_in_turn() -> None:
    """With no load at all, each connection still counts."""
    result = level(measured([0.0, 0.0], [0, 0], 0))
    assert (result.step > 0).all()


@given(loads, st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1))
def test_all_loads_can_be_written(load: list[float], placed: float, opened: float, gain: float) -> None:
    """Whatever is measured, loads and steps are whole numbers of 32 bits in the order of the measures."""
    result = level(measured(load, [placed] * len(load), opened, gain=gain))
    assert np.isfinite(result.load).all()
    written, step = Scale()(result)
    assert (step >= 1).all()
    assert written.min() == 0
    order = np.argsort(load, kind="stable")
    assert (np.diff(written[order].astype(np.int64)) >= -1).all()


@given(loads)
def test_the_border_is_where_it_always_is(load: list[float]) -> None:
    """A load at the border is written as HOT_ABOVE, those above as more, those below as no more."""
    numbers = np.array(load)
    border = float(np.median(numbers))
    written, _ = Scale()(Level(numbers, np.ones(len(load))), border)
    assert (written[numbers <= border] <= HOT_ABOVE).all()
    assert (written[numbers >= border] >= HOT_ABOVE).all()


def test_the_factor_stays_while_it_can() -> None:
    """Loads of two looks can be compared, unless they differ by orders of magnitude."""
    scale = Scale()
    first, _ = scale(Level(np.array([0.0, 100.0]), np.ones(2)))
    second, _ = scale(Level(np.array([0.0, 300.0]), np.ones(2)))
    assert second[1] == 3 * first[1]
    third, _ = scale(Level(np.array([0.0, 1e12]), np.ones(2)))
    assert third[1] <= HOT_ABOVE


def test_chance_is_answered_gently_and_a_trend_is_not() -> None:
    """Loads that go up and down lower the gain; loads that move on do not."""
    chance, trend = Noise(), Noise()
    random = np.random.default_rng(1)
    former = [random.poisson(3, 8).astype(float) for _ in range(2)]
    gain = steady = 0.0
    for step in range(50):
        load = random.poisson(3, 8).astype(float)
        gain = chance.gain(former[0], former[1], load, 800)
        former = [former[1], load]
        moving = np.full(8, 100.0 + step)
        steady = trend.gain(moving - 2, moving - 1, moving, 800)
    assert gain < 0.1
    assert steady == 1.0
