# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest

from poise.servers.care import LoadKind, LoadSource
from poise.servers.model import Policy
from tests.servers.load.cluster import Cluster, Worker

WORK = 0.007  # seconds of a request
SECONDS = 30.0
CPU = LoadSource(LoadKind.AGENT, interval=1.0)
CONNECTIONS = LoadSource(LoadKind.CONNECTIONS, interval=1.0)

each_policy = pytest.mark.parametrize("policy", [Policy.LEAST_LOADED, Policy.POWER_OF_TWO])
each_source = pytest.mark.parametrize("source", [CPU, CONNECTIONS], ids=["cpu", "connections"])


def run(workers: list[Worker], policy: Policy, source: LoadSource, rate: float) -> Cluster:
    """A cluster after its run."""
    cluster = Cluster(workers, policy, source)
    cluster.run(rate, WORK, SECONDS)
    return cluster


def equal() -> list[Worker]:
    """Eight servers."""
    return [Worker() for _ in range(8)]


def one_slow() -> list[Worker]:
    """Eight servers of which one is half as fast."""
    return [Worker(speed=0.5), *(Worker() for _ in range(7))]


def one_busy() -> list[Worker]:
    """Eight servers of which one does something else half of the time."""
    return [Worker(elsewhere=0.5), *(Worker() for _ in range(7))]


@each_policy
@each_source
@pytest.mark.parametrize(
    ("workers", "rate"), [(equal, 800.0), (one_slow, 675.0), (one_busy, 675.0)], ids=["equal", "slow", "busy"]
)
def test_stale_loads_are_not_worse_than_a_hash(
    policy: Policy, source: LoadSource, workers: Callable[[], list[Worker]], rate: float
) -> None:
    """With loads up to a second old, 140 times a request, the slowest 1 % take no longer than by hash."""
    blind = run(workers(), Policy.HASH, source, rate)
    assert run(workers(), policy, source, rate).quantile(0.99) <= blind.quantile(0.99)


@pytest.mark.parametrize(
    ("workers", "rate"), [(equal, 800.0), (one_slow, 675.0), (one_busy, 675.0)], ids=["equal", "slow", "busy"]
)
def test_stale_latencies_are_not_worse_than_a_hash(workers: Callable[[], list[Worker]], rate: float) -> None:
    """Latencies that are up to a second old draw no herd: the slowest 1 % take no longer than by hash."""
    blind = run(workers(), Policy.HASH, CPU, rate)
    assert run(workers(), Policy.PREQUAL, CPU, rate).quantile(0.99) <= blind.quantile(0.99)


@each_policy
def test_external_loads_of_short_connections_are_evened_out(policy: Policy) -> None:
    """Of two servers of which one is four times as fast, that gets far more than half."""
    cluster = run([Worker(), Worker(speed=0.25)], policy, CPU, 125.0)
    assert 0.7 <= cluster.shares()[0] <= 0.9


@each_source
def test_awrr_takes_load_off_a_slow_server(source: LoadSource) -> None:
    """AWRR does not even out, but a slow server's part is less than that of others, and waits are shorter."""
    cluster = run(one_slow(), Policy.AWRR, source, 675.0)
    assert cluster.shares()[0] < 0.8 / 8
    assert cluster.quantile(0.99) < run(one_slow(), Policy.HASH, source, 675.0).quantile(0.99)
