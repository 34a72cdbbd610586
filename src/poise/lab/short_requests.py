# SPDX-License-Identifier: Apache-2.0
"""A program that sends short requests at a steady rate, each on a new connection, and counts the answers."""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field

from poise.lab.connection import Address, Connection
from poise.lab.report import arguments, report_until_told_to_stop, tell

REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
TICK = 0.01  # seconds


@dataclass
class ShortRequestsCounts:
    """What the clients of the short requests saw; latencies in ms, from connect() to the whole answer."""

    served: int = 0
    failed: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    reasons: dict[str, int] = field(default_factory=Counter)
    servers: dict[str, int] = field(default_factory=Counter)  # requests that each server answered


def percentile(ordered: list[float], share: float) -> float:
    """The smallest of the ordered values that at least `share` of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


class _ShortRequest:
    def __init__(self, address: Address, counts: ShortRequestsCounts, latencies: list[float]) -> None:
        self._loop = asyncio.get_running_loop()
        self._counts = counts
        self._latencies = latencies
        self.started = self._loop.time()
        self.ended = False
        self._answer_came = False
        self._connection = Connection(address, self._ask, self._answered, self._end)

    def abandon(self) -> None:
        self._connection.close()
        self._end("timed out")

    def _ask(self) -> None:
        self._connection.request(REQUEST)

    def _answered(self, server: str) -> None:
        # The server closes first, so it is the one to keep TIME_WAIT, and the client's ports are free again.
        self._answer_came = True
        self._latencies.append((self._loop.time() - self.started) * 1000)
        self._counts.served += 1
        self._counts.servers[server] += 1

    def _end(self, reason: str) -> None:
        self.ended = True
        if not self._answer_came:
            self._counts.failed += 1
            self._counts.reasons[reason] += 1


async def _run(address: Address, rate: float, patience: float) -> None:
    counts = ShortRequestsCounts()
    latencies: list[float] = []
    waiting: list[_ShortRequest] = []

    def snapshot() -> ShortRequestsCounts:
        latencies.sort()
        counts.p50_ms = percentile(latencies, 0.50)
        counts.p99_ms = percentile(latencies, 0.99)
        counts.max_ms = percentile(latencies, 1.00)
        return counts

    def expire() -> None:
        for request in waiting:
            if not request.ended and loop.time() - request.started > patience:
                request.abandon()
        waiting[:] = [request for request in waiting if not request.ended]

    reporting = asyncio.create_task(report_until_told_to_stop(snapshot))
    loop = asyncio.get_running_loop()
    start = loop.time()
    tick = begun = 0
    while not reporting.done():
        tick += 1
        await asyncio.sleep(start + tick * TICK - loop.time())
        # An open loop: slow answers do not slow the stream down, else they would hide themselves.
        while begun < math.floor(tick * TICK * rate):
            begun += 1
            waiting.append(_ShortRequest(address, counts, latencies))
        expire()
    await reporting
    while waiting:
        await asyncio.sleep(TICK)
        expire()
    tell(snapshot(), final=True)


def main() -> None:
    """Read the command line, then run."""
    parser = arguments("Send short HTTP requests at a steady rate, each on a new connection.")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    given = parser.parse_args()
    asyncio.run(_run(Address(given.host, given.port), given.rate, given.timeout))


if __name__ == "__main__":
    main()
