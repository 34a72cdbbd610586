# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from poise.servers.load.estimate import Estimator, Opened
from tests.servers.load.flows import Flows, Table

HOUR = 3600
ROWS = 65536
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

# Durations in seconds, the pause between packets, and connections a second of those that are sampled.
KINDS: dict[str, tuple[Draw, Draw, float]] = {
    "short": (lambda r, n: r.exponential(2.0, n), lambda r, n: r.uniform(0.05, 1.0, n), 8.0),
    "minutes": (lambda r, n: r.exponential(120.0, n), lambda r, n: r.exponential(4.0, n) + 0.1, 3.0),
    "heavy": (
        lambda r, n: np.minimum(r.pareto(1.2, n) + 0.5, 7200),
        lambda r, n: r.exponential(5.0, n) + 0.1,
        8.0,
    ),
    "idle": (lambda r, n: r.exponential(900.0, n), lambda r, n: r.uniform(30.0, 300.0, n), 1.0),
    "mixed": (
        lambda r, n: np.where(r.random(n) < 0.1, r.exponential(600.0, n), r.exponential(1.0, n)),
        lambda r, n: np.where(r.random(n) < 0.5, r.uniform(20.0, 60.0, n), r.uniform(0.1, 2.0, n)),
        6.0,
    ),
}


def test_report() -> None:
    random = np.random.default_rng(7)
    parts = []
    cases = [(kind, loss) for loss in (0.05, 0.1) for kind in KINDS]
    for vip, (kind, loss) in enumerate(cases):
        durations, pauses, rate = KINDS[kind]
        number = random.poisson(rate * HOUR)
        begin = random.uniform(0, HOUR, number)
        parts.append(
            (
                np.full(number, vip),
                random.integers(0, 4, number),
                begin,
                begin + durations(random, number),
                pauses(random, number),
                random.random(number) < loss,
            )
        )
    flows = Flows(*(np.concatenate(column) for column in zip(*parts)))
    table = Table(flows, random, ROWS)
    estimator = Estimator(16, 1)
    import time

    begun, opened = flows.history(len(cases), 4, HOUR)
    t0 = time.perf_counter()
    spent = 0
    for second in range(1, HOUR + 1):
        clock = table.advance(second)
        t = time.perf_counter()
        got = estimator.observe(
            table.samples,
            {v: Opened(np.arange(4), begun[second, v].astype(float)) for v in range(len(cases))},
            clock,
        )
        spent += time.perf_counter() - t
        if second in (30, 60, 120, 300, 600, 1200, 1800, 2700, 3600):
            print(
                second, *(f"{c[0]}{c[1]}:{got[v].sum():.0f}/{opened[second, v]}" for v, c in enumerate(cases))
            )
    print(spent, time.perf_counter() - t0)
