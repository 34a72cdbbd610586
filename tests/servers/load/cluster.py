# SPDX-License-Identifier: Apache-2.0
"""Servers that work off requests, and a balancer that places them as the packet side does. Simulated."""

import heapq
from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from random import Random

import numpy as np

from poise.servers.care import LoadKind, LoadSource
from poise.servers.load.poll import Heard
from poise.servers.load.report import Report
from poise.servers.load.watched import Counted, Lives, Watched
from poise.servers.model import SERVER_IDS, Mode, Policy, Server, State, Vip
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

    def seconds(self, work: float) -> float:
        """How long that work takes."""
        return work / (self.speed * (1 - self.elsewhere))


class Cluster:
    """Places requests by the loads in effect, or by hash, and has the loads written at each interval."""

    def __init__(self, workers: list[Worker], policy: Policy, load: LoadSource, seed: int = 1) -> None:
        self.workers = workers
        self.random = Random(seed)
        self.vip = vip_of(len(workers), policy, load)
        self.watched = Watched(self.vip, choice_of(self.vip))
        size = len(workers)
        self.load, self.step, self.placed = [0] * size, [0] * size, [0] * size
        self.connections = np.zeros(SERVER_IDS)
        self.inside = [0] * size
        self.heard: dict[int, Heard] = {}
        self.waits: list[float] = []
        self.imbalance: list[float] = []

    def run(self, rate: float, work: float, seconds: float, warm: float = 5.0) -> None:
        """Have requests come at random, `rate` a second, each of about `work` seconds of work."""
        now, look, number = 0.0, 0.0, 0
        events: list[tuple[float, int, int, float]] = []  # ends: time, number, server, begun
        arrival = self.random.expovariate(rate)
        while now < seconds:
            if look <= arrival and (not events or look <= events[0][0]):
                now = look
                self._look(now)
                look += self.vip.load.interval
            elif events and events[0][0] <= arrival:
                now, _, server, begun = heapq.heappop(events)
                self.inside[server] -= 1
                worker = self.workers[server]
                if now > warm:
                    self.waits.append(now - begun)
                if worker.queue:
                    came = worker.queue.popleft()
                    number += 1
                    length = worker.seconds(self.random.expovariate(1 / work))
                    heapq.heappush(events, (now + length, number, server, came))
                else:
                    worker.busy += now - worker.busy_since
            else:
                now = arrival
                arrival += self.random.expovariate(rate)
                server = self._pick()
                self.placed[server] += 1
                self.connections[server] += 1
                self.inside[server] += 1
                worker = self.workers[server]
                if self.inside[server] > 1:
                    worker.queue.append(now)
                else:
                    worker.busy_since = now
                    number += 1
                    length = worker.seconds(self.random.expovariate(1 / work))
                    heapq.heappush(events, (now + length, number, server, now))
                if now > warm:
                    self.imbalance.append(max(self.inside) / (sum(self.inside) / len(self.inside)) - 1)

    def _pick(self) -> int:
        size = len(self.workers)
        policy = self.vip.policy
        if policy is Policy.HASH:
            return self.random.randrange(size)
        candidates: list[int] = list(range(size))
        if policy is Policy.POWER_OF_TWO:
            candidates = [self.random.randrange(size), self.random.randrange(size)]
        elif policy is Policy.AWRR:
            shares = self.watched.awrr or dict.fromkeys(range(size), 1.0)
            return self.random.choices(list(shares), list(shares.values()))[0]
        first = self.random.randrange(size)
        return min(candidates, key=lambda each: (self.load[each] + self.placed[each] * self.step[each], (each - first) % size))

    def _look(self, now: float) -> None:
        interval = self.vip.load.interval
        for number, worker in enumerate(self.workers):
            if self.inside[number]:
                worker.busy += now - worker.busy_since
                worker.busy_since = now
            cpu = worker.elsewhere + (1 - worker.elsewhere) * worker.busy / interval
            worker.busy = 0.0
            self.heard[number] = Heard(Report(cpu), now)
        counted = Counted(self.connections.copy(), np.zeros(SERVER_IDS), np.zeros(SERVER_IDS), self._inside(), now)
        lives = self.watched.look(counted, self.heard.__getitem__, now)
        if lives:
            self._write(lives)

    def _inside(self) -> np.ndarray:
        result = np.zeros(SERVER_IDS)
        result[: len(self.inside)] = self.inside
        return result

    def _write(self, lives: Lives) -> None:
        for row, load, step in zip(lives.rows.tolist(), lives.load.tolist(), lives.step.tolist(), strict=True):
            self.load[row], self.step[row], self.placed[row] = load, step, 0
