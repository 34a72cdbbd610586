# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from poise.servers.load.estimate import Estimator, Opened
from tests.servers.load.flows import Flows, Table

HOUR = 3600
ROWS = 32768
EARLY = (60, 120, 300)
SERVERS = 4
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


@dataclass(frozen=True)
class Kind:
    """Connections: how long they last and pause between packets, in seconds, and how many begin a second."""

    lasts: Draw
    pauses: Draw
    rate: float


KINDS = {
    "short": Kind(lambda r, n: r.exponential(5.0, n), lambda r, n: r.uniform(0.05, 1.0, n), 4.0),
    "minutes": Kind(lambda r, n: r.exponential(120.0, n), lambda r, n: r.exponential(4.0, n) + 0.1, 2.0),
    "heavy": Kind(
        lambda r, n: np.minimum(5 * (r.pareto(1.2, n) + 1), 2 * HOUR),
        lambda r, n: r.exponential(5.0, n) + 0.1,
        2.5,
    ),
    "idle": Kind(lambda r, n: r.exponential(900.0, n), lambda r, n: r.uniform(30.0, 300.0, n), 0.6),
    "mixed": Kind(
        lambda r, n: np.where(r.random(n) < 0.1, r.exponential(600.0, n), r.exponential(1.0, n)),
        lambda r, n: np.where(r.random(n) < 0.5, r.uniform(20.0, 60.0, n), r.uniform(0.1, 2.0, n)),
        3.5,
    ),
}
CASES = [(name, missed) for missed in (0.05, 0.1) for name in KINDS]


@pytest.fixture(scope="module")
def simulated() -> dict[str, NDArray[np.float64]]:
    """What was estimated and what was open, [second, case]: VIPs of each kind, 5 and 10 % of ends missed."""
    random = np.random.default_rng(20240501)
    columns = []
    for vip, (name, missed) in enumerate(CASES):
        kind = KINDS[name]
        number = random.poisson(kind.rate * HOUR)
        begin = random.uniform(0, HOUR, number)
        columns.append(
            (
                np.full(number, vip),
                random.integers(0, SERVERS, number),
                begin,
                begin + kind.lasts(random, number),
                kind.pauses(random, number),
                random.random(number) < missed,
            )
        )
    flows = Flows(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    placed, opened = flows.history(len(CASES), SERVERS, HOUR)
    table, estimator, servers = (
        Table(flows, random, ROWS),
        Estimator(len(CASES), one_in=1),
        np.arange(SERVERS),
    )
    estimates = np.zeros((HOUR + 1, len(CASES)))
    for second in range(1, HOUR + 1):
        clock = table.advance(second)
        vips = {vip: Opened(servers, placed[second, vip].astype(float)) for vip in range(len(CASES))}
        for vip, numbers in estimator.observe(table.samples, vips, clock).items():
            estimates[second, vip] = numbers.sum()
    return {"estimated": estimates, "open": opened[: HOUR + 1].astype(float)}


@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=[f"{name}, {missed:.0%} missed" for name, missed in CASES]
)
def test_estimates_do_not_drift(simulated: dict[str, NDArray[np.float64]], case: int) -> None:
    """After an hour, the mean of five minutes is within 5 % of what is open, though ends were missed."""
    last = slice(HOUR - 300, HOUR + 1)
    estimated, opened = (simulated[name][last, case].mean() for name in ("estimated", "open"))
    assert abs(estimated / opened - 1) <= 0.05, (estimated, opened)


@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=[f"{name}, {missed:.0%} missed" for name, missed in CASES]
)
@pytest.mark.parametrize("second", EARLY)
def test_first_minutes_are_not_low(simulated: dict[str, NDArray[np.float64]], case: int, second: int) -> None:
    """While little was learnt, silent flows get the benefit of the doubt: -15 to +40 %."""
    estimated, opened = (simulated[name][second, case] for name in ("estimated", "open"))
    noise = 2 * opened**0.5
    assert 0.85 * opened - noise <= estimated <= 1.4 * opened + noise
