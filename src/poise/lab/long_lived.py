# SPDX-License-Identifier: Apache-2.0
"""A program that keeps many connections open, each asking once per interval, and counts those that break."""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field

from poise.lab.connection import Address, Connection
from poise.lab.report import arguments, report_until_told_to_stop, tell

REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"
TICK = 0.01  # seconds; connections whose turn falls into one tick are asked together
OTHER_SERVER = "answered by another server"


@dataclass
class LongLivedCounts:
    """What the sockets of the long-lived connections saw.

    A connection is opened when its first answer has come, which also tells its server; `not_opened` counts
    those that ended before. It is broken when it is reset, closed, answered late (timed out) or by another
    server. Then it is counted once and not opened again.
    """

    opened: int = 0
    not_opened: int = 0
    broken: int = 0
    answers: int = 0
    reasons: dict[str, int] = field(default_factory=Counter)
    servers: dict[str, int] = field(default_factory=Counter)  # open and unbroken connections of each server


class _LongLived:
    def __init__(self, address: Address, counts: LongLivedCounts, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._counts = counts
        self._patience = patience
        self._server: str | None = None
        self._asked: float | None = self._loop.time()  # when the outstanding question was asked
        self.ended = False
        self._connection = Connection(address, self._ask, self._answered, self._end)

    @property
    def waits(self) -> bool:
        return self._asked is not None and not self.ended

    def turn(self) -> None:
        """Ask again, unless the last answer is still missing."""
        if not self.ended and self._asked is None:
            self._ask()

    def expire(self) -> None:
        if self.waits and self._asked is not None and self._loop.time() - self._asked > self._patience:
            self._break("timed out")

    def close(self) -> None:
        self.ended = True
        self._connection.close()

    def _ask(self) -> None:
        self._asked = self._loop.time()
        self._connection.request(REQUEST)

    def _answered(self, server: str) -> None:
        self._asked = None
        self._counts.answers += 1
        if self._server is None:
            self._server = server
            self._counts.opened += 1
            self._counts.servers[server] += 1
        elif server != self._server:
            self._break(OTHER_SERVER)

    def _break(self, reason: str) -> None:
        self._connection.close()
        self._end(reason)

    def _end(self, reason: str) -> None:
        self.ended = True
        self._counts.reasons[reason] += 1
        if self._server is None:
            self._counts.not_opened += 1
        else:
            self._counts.broken += 1
            self._counts.servers[self._server] -= 1


async def _run(address: Address, number: int, interval: float, rate: float, patience: float) -> None:
    counts = LongLivedCounts()
    connections: list[_LongLived] = []
    slots: list[list[_LongLived]] = [[] for _ in range(max(1, round(interval / TICK)))]
    reporting = asyncio.create_task(report_until_told_to_stop(lambda: counts))
    loop = asyncio.get_running_loop()
    start = loop.time()
    tick = 0
    while not reporting.done():
        tick += 1
        await asyncio.sleep(start + tick * TICK - loop.time())
        while len(connections) < min(number, math.ceil(tick * TICK * rate)):
            connection = _LongLived(address, counts, patience)
            # The turns are spread evenly over the interval, however fast the connections are opened.
            slots[len(connections) % len(slots)].append(connection)
            connections.append(connection)
        for connection in slots[tick % len(slots)]:
            connection.turn()
            connection.expire()
    await reporting
    # An answer that is still missing may be late or may never come: it counts only once that is known.
    while any(connection.waits for connection in connections):
        await asyncio.sleep(TICK)
        for connection in connections:
            connection.expire()
    for connection in connections:
        connection.close()
    tell(counts, final=True)


def main() -> None:
    """Read the command line, then run."""
    parser = arguments("Keep many HTTP connections open and count those that break.")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument(
        "--interval", type=float, default=1.0, help="seconds between two requests of a connection"
    )
    parser.add_argument("--rate", type=float, default=1000.0, help="connections opened a second")
    given = parser.parse_args()
    address = Address(given.host, given.port)
    asyncio.run(_run(address, given.connections, given.interval, given.rate, given.timeout))


if __name__ == "__main__":
    main()
