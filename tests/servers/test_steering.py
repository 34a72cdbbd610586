# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from poise.servers import samples
from poise.servers.care import LoadKind, LoadSource
from poise.servers.load.level import HOT_ABOVE
from poise.servers.model import SERVER_IDS, Mode, Policy
from poise.servers.pick import Live, Pool, pick
from poise.servers.schedule import schedule
from poise.servers.standing import Choice, choice
from poise.servers.steering import BY_LOAD, Steering
from tests.servers.load.cluster import choice_of, vip_of

TRAFFIC = np.dtype(
    [(name, "u8") for name in ("connections", "packets", "bytes", "repeats", "answers", "resets")]
)
LIVE = np.dtype([(name, "u4") for name in ("load", "step", "placed", "latency")])
AGENT = LoadSource(LoadKind.AGENT, stale=3.0)


class Tables:
    """What the kernel's tables hold, in this process's memory, and a clock."""

    def __init__(self, vips: int = 2) -> None:
        rows = vips * SERVER_IDS
        self.counters = np.zeros(rows, TRAFFIC)
        self.lives = np.zeros(rows, LIVE)
        self.open_connections = np.zeros(rows, np.uint32)
        self.samples = np.zeros(65536, samples.SAMPLE)
        self.now = 1000.0

    def traffic(self, vips: Collection[int] | None = None) -> NDArray[Any]:
        """All counters."""
        assert vips is not None
        return self.counters.copy()

    def set_loads(
        self, rows: NDArray[Any], load: NDArray[Any], step: NDArray[Any], latency: NDArray[Any]
    ) -> None:
        """Write them."""
        for name, numbers in (("load", load), ("step", step), ("latency", latency), ("placed", 0)):
            self.lives[name][rows] = numbers

    def clock(self) -> float:
        """The time."""
        return self.now


def lives_of(tables: Tables, vip: int = 0) -> dict[int, Live]:
    """The lives of a VIP by server id."""
    rows = tables.lives[vip * SERVER_IDS : (vip + 1) * SERVER_IDS]
    return {number: Live(*row.tolist()) for number, row in enumerate(rows)}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([Policy.LEAST_LOADED, Policy.AWRR, Policy.POWER_OF_TWO, Policy.PREQUAL]),
    st.sets(st.integers(0, 7), min_size=1),
    st.lists(st.integers(0, 1000), min_size=8, max_size=8),
    st.integers(0, (1 << 64) - 1),
)
def test_only_active_servers_are_picked(
    policy: Policy, active: set[int], opened: list[int], random: int
) -> None:
    """However idle the others are, no policy picks a server that takes no connections."""
    tables = Tables()
    vip = vip_of(8, policy)
    weights = dict.fromkeys(sorted(active), 1)
    chosen = Choice(dict.fromkeys(weights, 1.0), weights)
    tables.open_connections[:8] = opened
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: chosen})
    steered = steering.look().get(0)
    shares = steered.awrr if steered and steered.awrr else chosen.shares
    assert shares.keys() == active
    pool = Pool(tuple(weights), schedule(shares), hot_above=steered.hot_above if steered else 0)
    lives = lives_of(tables)
    for turn in range(20):
        assert pick(policy, pool, lives, turn=turn, random=random) in active
    inactive = [number for number in range(SERVER_IDS) if number not in active]
    assert not tables.lives["load"][inactive].any()


def test_least_loaded_fills_up_to_the_same_level() -> None:
    """Connections placed between two looks count at once: they fill up the emptiest until all are level."""
    tables = Tables()
    vip = vip_of(3, Policy.LEAST_LOADED)
    tables.open_connections[:3] = [30, 20, 10]
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    steering.look()
    lives, pool, got = lives_of(tables), Pool(range(3), range(3)), [30, 20, 10]
    for turn in range(30):
        server = pick(Policy.LEAST_LOADED, pool, lives, turn=turn)
        assert server is not None
        lives[server] = lives[server]._replace(placed=lives[server].placed + 1)
        got[server] += 1
    assert got == [30, 30, 30]


@pytest.mark.parametrize("policy", [Policy.LEAST_LOADED, Policy.POWER_OF_TWO, Policy.PREQUAL])
def test_a_newcomer_is_as_the_others_until_it_is_measured(policy: Policy) -> None:
    """A server that joins does not get everything, as one with no load and no step would."""
    tables = Tables()
    vip = vip_of(3, policy)
    tables.open_connections[:3] = [300, 310, 0]
    steering = Steering(tables, tables.clock)
    two = {0: 1, 1: 1}
    steering.watch([vip], {0: Choice(dict.fromkeys(two, 1.0), two)})
    steering.look()
    steering.watch([vip], {0: choice_of(vip)})
    lives, got = lives_of(tables), [0, 0, 0]
    pool = Pool(range(3), range(3), hot_above=HOT_ABOVE if policy is Policy.PREQUAL else 0)
    for turn in range(300):
        server = pick(policy, pool, lives, turn=turn, random=hash((turn, 0.5)) & ((1 << 64) - 1))
        assert server is not None
        lives[server] = lives[server]._replace(placed=lives[server].placed + 1)
        got[server] += 1
    assert got[2] < 150


def test_loads_are_in_proportion_to_shares() -> None:
    """A server of weight 2 with twice the connections is as loaded as one of weight 1, by half a step."""
    tables = Tables()
    vip = vip_of(2, Policy.LEAST_LOADED)
    vip = replace(vip, servers=(replace(vip.servers[0], weight=2), vip.servers[1]))
    tables.open_connections[:2] = [200, 100]
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    steering.look()
    lives = lives_of(tables)
    assert lives[0].load == lives[1].load
    assert lives[1].step == 2 * lives[0].step > 0


def test_prequals_border_stays() -> None:
    """The border of hot servers is told once; loads are written around it, so that both change together."""
    tables = Tables()
    vip = vip_of(8, Policy.PREQUAL)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    for second, opened in enumerate(([1, 2, 3, 4, 5, 6, 7, 8], [80, 70, 60, 50, 40, 30, 20, 10])):
        tables.open_connections[:8] = opened
        news = steering.look()
        expected = {} if second else {0: HOT_ABOVE}
        assert {vip: steered.hot_above for vip, steered in news.items()} == expected
        hot = [number for number in range(8) if tables.lives["load"][number] > HOT_ABOVE]
        assert sorted(opened[number] for number in hot) == sorted(opened)[6:]
        tables.now += 1


def test_awrr_tells_shares_when_they_change() -> None:
    """A server with three times the load of others gets less, and what hardly changes is not told again."""
    tables = Tables()
    vip = vip_of(4, Policy.AWRR)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    tables.open_connections[:4] = [300, 100, 100, 100]
    steered = steering.look()[0]
    assert steered.awrr
    assert steered.awrr[0] == pytest.approx(steered.awrr[1] / 3)
    assert choice(vip, {}, steered.awrr).shares == {}
    tables.now += 1
    assert steering.look() == {}
    tables.now += 0.5  # not due yet
    tables.open_connections[:4] = 100
    assert steering.look() == {}


def test_only_policies_by_load_are_watched() -> None:
    """Of other VIPs, and of those that hash each packet, nothing is written."""
    tables = Tables(8)
    vips = [vip_of(2, policy, index=number) for number, policy in enumerate(set(Policy) - BY_LOAD)]
    vips.append(vip_of(2, Policy.LEAST_LOADED, index=7, mode=Mode.COOKIELESS))
    steering = Steering(tables, tables.clock)
    steering.watch(vips, {vip.index: choice_of(vip) for vip in vips})
    assert steering.look() == {}
    assert not tables.lives["step"].any()
    assert steering.shown() == {}


def hear(steering: Steering, loads: dict[int, float], at: float) -> None:
    """Have servers of VIP 0 report."""
    from poise.servers.load.poll import Heard  # noqa: PLC0415
    from poise.servers.load.report import Report  # noqa: PLC0415

    for number, load in loads.items():
        steering._poller._heard[0, number] = Heard(Report(load, 5.0), at)  # noqa: SLF001 - as if by HTTP


def test_a_stale_report_counts_as_the_mean() -> None:
    """A server whose report is stale counts with the mean of the others, and a sentence says why."""
    tables = Tables()
    vip = vip_of(3, Policy.LEAST_LOADED, AGENT)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    hear(steering, {0: 0.2, 1: 0.6}, tables.now)
    hear(steering, {2: 0.0}, tables.now - 12)
    steering.look()
    loads = tables.lives["load"][:3].astype(float)
    assert loads[2] - loads[0] == pytest.approx(loads[1] - loads[2], abs=2)
    assert tables.lives["latency"][:3].tolist() == [5000, 5000, 0]
    shown = steering.shown()[0, 2]
    assert shown.fault == "its last report is 12.0 s old, and does not count after 3 s"
    assert shown.load is None


@pytest.mark.parametrize("got", [0, 90])
def test_a_server_whose_report_is_stale_gets_what_the_others_get(got: int) -> None:
    """Neither few nor many connections before, nor those placed since its last report, count against it."""
    tables = Tables()
    vip = vip_of(3, Policy.LEAST_LOADED, AGENT)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    hear(steering, {0: 0.5, 1: 0.5, 2: 0.5}, tables.now)
    steering.look()
    for _ in range(10):
        tables.now += 1
        tables.counters["connections"][:3] += np.array([30, 30, got], np.uint64)
        hear(steering, {0: 0.5, 1: 0.5}, tables.now)
        steering.look()
    assert tables.lives["load"][:3].tolist() == pytest.approx([tables.lives["load"][0]] * 3, abs=2)


@pytest.mark.parametrize("policy", [Policy.LEAST_LOADED, Policy.POWER_OF_TWO])
def test_without_reports_own_counters_decide(policy: Policy) -> None:
    """If fewer than half of the reports are fresh, the connections that poise counts take their place."""
    tables = Tables()
    vip = vip_of(3, policy, AGENT)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    hear(steering, {0: 0.1}, tables.now)
    tables.open_connections[:3] = [30, 10, 20]
    steering.look()
    assert np.argsort(tables.lives["load"][:3]).tolist() == [1, 2, 0]
    assert steering.shown()[0, 1].fault == "it has not reported its load yet"


def test_without_reports_awrr_goes_by_weight() -> None:
    """If fewer than half of the reports are fresh, AWRR has no shares, which is weighted round robin."""
    tables = Tables()
    vip = vip_of(3, Policy.AWRR, AGENT)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    hear(steering, {0: 0.1, 1: 0.3, 2: 0.2}, tables.now)
    assert steering.look()[0].awrr
    tables.now += 5
    hear(steering, {0: 0.1}, tables.now)
    assert steering.look()[0].awrr is None


def test_packets_and_bytes_are_rates() -> None:
    """Of counters, what counts is how much they rise a second."""
    tables = Tables()
    vip = vip_of(2, Policy.LEAST_LOADED, LoadSource(LoadKind.BYTES))
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    tables.counters["bytes"][:2] = [10**12, 0]
    steering.look()
    tables.now += 1
    tables.counters["bytes"][:2] += np.array([1000, 3000], np.uint64)
    steering.look()
    assert [steering.shown()[0, number].load for number in (0, 1)] == [1000, 3000]
    assert tables.lives["load"][0] < tables.lives["load"][1]


def test_stateless_vips_go_by_estimates() -> None:
    """Without a table of connections, estimates from samples are shown as such."""
    tables = Tables()
    vip = vip_of(2, Policy.LEAST_LOADED, mode=Mode.STATELESS)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    for second in range(1, 20):
        tables.now += 1
        first = 20 * second
        rows = tables.samples[first : first + 20]
        rows["fingerprint"], rows["server"] = np.arange(first, first + 20), [0] * 15 + [1] * 5
        rows["begun"] = samples.units(tables.now - 0.5)
        rows["flags"] = samples.USED | samples.BEGUN
        tables.samples["seen"][: first + 20] = samples.units(tables.now)
        tables.counters["connections"][:2] += np.array([15 * 64, 5 * 64], np.uint64)
        steering.look()
    shown = steering.shown()
    assert shown[0, 0].load == pytest.approx(15 * 19 * 64, rel=0.1)
    assert shown[0, 1].load == pytest.approx(5 * 19 * 64, rel=0.1)
    assert shown[0, 0].estimated


def test_a_change_of_servers_keeps_what_is_known() -> None:
    """A server that joins does not make the others start anew, and one that leaves is shown no longer."""
    tables = Tables()
    vip = vip_of(3, Policy.LEAST_LOADED, AGENT)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: Choice({0: 1.0, 1: 1.0}, {0: 1, 1: 1})})
    hear(steering, {0: 0.5, 1: 0.5}, tables.now)
    steering.look()
    steering.watch([vip], {0: Choice({1: 1.0, 2: 1.0}, {1: 1, 2: 1})})
    assert steering.shown().keys() == {(0, 1), (0, 2)}
    assert steering.shown()[0, 2].fault == "it has not reported its load yet"
    tables.now += 1
    steering.look()
    assert steering.shown()[0, 1].load == 0.5


@pytest.mark.parametrize("mode", [Mode.STATEFUL, Mode.STATELESS])
@pytest.mark.parametrize("policy", [Policy.LEAST_LOADED, Policy.AWRR])
def test_a_look_at_500_servers_is_quick(policy: Policy, mode: Mode) -> None:
    """A look at a VIP of 500 servers takes less than 3 ms of processor time, estimates included."""
    tables = Tables()
    vip = vip_of(500, policy, LoadSource(interval=0.1), mode=mode)
    tables.samples["flags"][::10] = samples.USED | samples.BEGUN
    tables.samples["server"] = np.arange(len(tables.samples)) % 500
    tables.open_connections[:500] = np.random.default_rng(1).integers(0, 1000, 500)
    steering = Steering(tables, tables.clock)
    steering.watch([vip], {0: choice_of(vip)})
    steering.look()
    spent = []
    for _ in range(20):
        tables.now += 1
        begun = time.thread_time()
        steering.look()
        spent.append(time.thread_time() - begun)
    assert min(spent) < 0.003, spent
