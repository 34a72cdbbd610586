# SPDX-License-Identifier: Apache-2.0
"""Servers that work off requests, and a balancer that places them as the packet side does. Simulated."""

import heapq
from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from random import Random

import numpy as np

from poise.servers.care import LoadSource
from poise.servers.load.poll import Heard
from poise.servers.load.report import Report
from poise.servers.load.watched import Counted, Watched
from poise.servers.model import SERVER_IDS, Mode, Policy, Server, State, Vip
from poise.servers.pick import Live, Pool, pick
from poise.servers.schedule import schedule
from poise.servers.standing import Choice


def vip_of(
    number: int, policy: Policy, load: LoadSource | None = None, *, index: int = 0, mode: Mode = Mode.STATEFUL
) -> Vip:
    """A VIP of servers 0, 1, ..."""
    servers = tuple(
        Server(each, f"web{each}", IPv4Address("10.0.0.1") + each, 8080, State.READY, 0.0, declared=True)
        for each in range(number)
    )
    address = IPv4Address("192.0.2.1") + index
    return Vip(index, f"vip{index}", address, 80, policy, servers, mode=mode, load=load or LoadSource())


def choice_of(vip: Vip) -> Choice:
    """All of its servers take connections, by weight."""
    weights = {server.id: server.weight for server in vip.servers}
    return Choice({number: float(weight) for number, weight in weights.items()}, weights)


@dataclass
class Worker:
    """A server with one core: requests are worked off one by one, `speed` seconds of work a second."""

    speed: float = 1.0
    elsewhere: float = 0.0  # which part of the core others use
    queue: deque[float] = field(default_factory=deque)
    busy_since: float = 0.0
    busy: float = 0.0  # seconds in this interval
    latency: float = 0.0  # seconds that the latest requests took, a moving average

    def seconds(self, work: float) -> float:
        """How long that work takes."""
        return work / (self.speed * (1 - self.elsewhere))


class Cluster:
    """Places requests as the packet side does, and has the loads written at each interval."""

    def __init__(self, workers: list[Worker], policy: Policy, load: LoadSource, seed: int = 1) -> None:
        self.workers = workers
        self.vip = vip_of(len(workers), policy, load)
        self.watched = Watched(self.vip, choice_of(self.vip))
        self.connections = np.zeros(SERVER_IDS)
        self.waits: list[float] = []  # seconds from a request's begin to its end
        self._random = Random(seed)  # noqa: S311 - a simulation
        self._lives = {number: Live() for number in range(len(workers))}
        everybody = range(len(workers))
        self._pool = Pool(everybody, everybody, hot_above=self.watched.hot_above)
        self._turn = 0
        self._inside = [0] * len(workers)
        self._ends: list[tuple[float, int, int, float]] = []  # time, number, server, begun
        self._number = 0

    def run(self, rate: float, work: float, seconds: float, warm: float = 10.0) -> None:
        """Have requests come at random, `rate` a second, each of about `work` seconds of work."""
        look, arrival, now = 0.0, self._random.expovariate(rate), 0.0
        while now < seconds:
            now = min(look, arrival, self._ends[0][0] if self._ends else arrival)
            if now == look:
                self._look(now)
                look += self.vip.load.interval
            elif now == arrival:
                self._arrive(now, work)
                arrival += self._random.expovariate(rate)
            else:
                begun = self._end(now, work)
                if begun > warm:
                    self.waits.append(now - begun)

    def quantile(self, part: float) -> float:
        """How long requests took, seconds."""
        return float(np.quantile(self.waits, part))

    def shares(self) -> list[float]:
        """Which part of the requests each server got."""
        whole = self.connections.sum()
        return [float(number / whole) for number in self.connections[: len(self.workers)]]

    def _arrive(self, now: float, work: float) -> None:
        server = self._pick()
        self.connections[server] += 1
        live = self._lives[server]
        self._lives[server] = live._replace(placed=live.placed + 1)
        self._inside[server] += 1
        if self._inside[server] > 1:
            self.workers[server].queue.append(now)
        else:
            self.workers[server].busy_since = now
            self._begin(server, now, now, work)

    def _begin(self, server: int, now: float, came: float, work: float) -> None:
        length = self.workers[server].seconds(self._random.expovariate(1 / work))
        self._number += 1
        heapq.heappush(self._ends, (now + length, self._number, server, came))

    def _end(self, now: float, work: float) -> float:
        _, _, server, begun = heapq.heappop(self._ends)
        worker = self.workers[server]
        worker.latency += (now - begun - worker.latency) / 10
        self._inside[server] -= 1
        if worker.queue:
            self._begin(server, now, worker.queue.popleft(), work)
        else:
            worker.busy += now - worker.busy_since
        return begun

    def _pick(self) -> int:
        flow, random = self._random.getrandbits(64), self._random.getrandbits(64)
        pool = self._pool
        if self.vip.policy is Policy.AWRR and self.watched.awrr:
            pool = Pool(range(len(self.workers)), schedule(self.watched.awrr))
        self._turn += 1
        server = pick(self.vip.policy, pool, self._lives, hash=flow, turn=self._turn, random=random)
        assert server is not None
        return server

    def _look(self, now: float) -> None:
        reports = {}
        for number, worker in enumerate(self.workers):
            if self._inside[number]:
                worker.busy += now - worker.busy_since
                worker.busy_since = now
            cpu = worker.elsewhere + (1 - worker.elsewhere) * worker.busy / self.vip.load.interval
            worker.busy = 0.0
            reports[number] = Heard(Report(cpu, worker.latency * 1000), now)
        inside, none = np.zeros(SERVER_IDS), np.zeros(SERVER_IDS)
        inside[: len(self._inside)] = self._inside
        counted = Counted(self.connections.copy(), none, none, inside, now)
        lives = self.watched.look(counted, reports.__getitem__, now)
        if lives:
            columns = (lives.rows, lives.load, lives.step, lives.latency)
            written = zip(*(column.tolist() for column in columns), strict=True)
            self._lives = {row: Live(load, step, 0, latency) for row, load, step, latency in written}
