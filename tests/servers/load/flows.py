# SPDX-License-Identifier: Apache-2.0
"""Flows for tests, and the table of samples as the packet side would keep it of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poise.servers import samples

ROWS = 65536
_START = 5000.0  # of the monotonic clock
_FINS = samples.CLIENT_FIN | samples.SERVER_FIN


@dataclass
class Flows:
    """Sampled flows, each an element of every array: times in seconds since the start.

    pause: between two packets. missed: whether the packets that end it get lost.
    """

    vip: NDArray[np.int64]
    server: NDArray[np.int64]
    begin: NDArray[np.float64]
    end: NDArray[np.float64]
    pause: NDArray[np.float64]
    missed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.begin)

    def history(self, vips: int, servers: int, until: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many had begun by each second, [second, vip, server], and were open then, [second, vip]."""
        begun = np.zeros((until + 2, vips, servers), np.int64)
        ended = np.zeros((until + 2, vips), np.int64)
        at = np.minimum(np.ceil(self.begin).astype(np.int64), until + 1)
        np.add.at(begun, (at, self.vip, self.server), 1)
        np.add.at(ended, (np.minimum(np.ceil(self.end).astype(np.int64), until + 1), self.vip), 1)
        begun = begun.cumsum(axis=0)
        return begun, begun.sum(axis=2) - ended.cumsum(axis=0)


class Table:
    """Writes the samples second by second."""

    def __init__(self, flows: Flows, random: np.random.Generator, size: int = ROWS) -> None:
        self.samples = np.zeros(size, samples.SAMPLE)
        self._flows = flows
        self._row = random.integers(0, size, len(flows))
        self._fingerprint = random.integers(1, 1 << 32, len(flows)).astype(np.uint32)
        self._order = np.argsort(flows.begin)
        self._entered = 0
        self._at = 0.0
        self._active = np.zeros(0, np.int64)

    def advance(self, at: float) -> float:
        """Write what was seen up to `at`; returns the monotonic clock then."""
        flows = self._flows
        until = int(np.searchsorted(flows.begin[self._order], at, side="right"))
        active = np.concatenate([self._active, self._order[self._entered : until]])
        self._entered = until
        begin, end = flows.begin[active], flows.end[active]
        over = end <= at
        spoken = np.minimum(at, np.nextafter(end, 0)) - begin
        pauses = flows.pause[active]
        # The request comes a round trip after the SYN, if the flow lives so long.
        seen = begin + np.where(spoken > 0.02, np.maximum(np.floor(spoken / pauses) * pauses, 0.02), 0.0)
        ended = over & ~flows.missed[active]
        seen = np.where(ended, end, seen)
        self._at = at
        order = np.argsort(seen)
        order = order[seen[order] > at - 1]
        self._write(active[order], seen[order], ended[order])
        self._active = active[~over]
        return _START + at

    def _write(self, flows: NDArray[np.int64], seen: NDArray[np.float64], ended: NDArray[np.bool_]) -> None:
        """As sample_flow() of samples.h does; `seen` is in order."""
        table, rows = self.samples, self._row[flows]
        known = (table["flags"][rows] != 0) & (table["fingerprint"][rows] == self._fingerprint[flows])
        table["seen"][rows[known]] = _units(seen[known])
        table["flags"][rows[known]] |= np.where(ended[known], _FINS, 0).astype(np.uint32)
        silence = (_units(seen) - table["seen"][rows]).view(np.int32) * samples.UNIT
        fins = table["flags"][rows] & _FINS
        kept = (table["flags"][rows] != 0) & (fins != _FINS) & (silence <= samples.KEPT)
        places = np.flatnonzero(~known & ~kept)
        places = places[np.unique(rows[places], return_index=True)[1]]
        flows, seen, ended, rows = flows[places], seen[places], ended[places], rows[places]
        begin = self._flows.begin[flows]
        begins = begin > self._at - 1
        table["fingerprint"][rows] = self._fingerprint[flows]
        table["vip"][rows] = self._flows.vip[flows]
        table["server"][rows] = self._flows.server[flows]
        table["begun"][rows] = _units(np.where(begins, begin, seen))
        table["seen"][rows] = _units(seen)
        flags = samples.USED | np.where(begins, samples.BEGUN, 0) | np.where(ended, _FINS, 0)
        table["flags"][rows] = flags


def _units(times: NDArray[np.float64]) -> NDArray[np.uint32]:
    return ((times + _START) / samples.UNIT).astype(np.uint64).astype(np.uint32)
