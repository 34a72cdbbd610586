# SPDX-License-Identifier: Apache-2.0
"""What the packet side has measured, as numpy arrays, and the loads that it places connections by."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from poise.kernel.maps import Map
from poise.servers.model import SERVER_IDS
from poise.servers.rows import Records


class Readings:
    """Arrays by row of the servers table: VIP index x 512 + server id."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        """Read and write these: traffic, turns, lives, open_connections and samples."""
        self._traffic = maps["traffic"]
        self._turns = maps["turns"]
        self.lives: Records = maps["lives"].view()
        """Of struct live, as it is at each moment: load, step, placed, latency."""
        self.open_connections: NDArray[np.uint32] = maps["open_connections"].view()["open"]
        """Connections of stateful VIPs, as they are at each moment."""
        self.samples: Records = maps["samples"].view()
        """Of struct sample, as they are at each moment: copy what must not change meanwhile."""

    def traffic(self, vips: Collection[int] | None = None) -> Records:
        """Return what each server got since it was new, over all CPUs: [rows] of struct traffic.

        vips: the indices of those to be read, None for all; the rows of the others may be zero.
        """
        rows = self._traffic.max_entries
        if vips is None or 2 * len(vips) * SERVER_IDS > rows:  # less than many small reads
            return self._traffic.sums(0, rows)
        found = np.zeros(rows, self._traffic.dtype)
        for vip in vips:
            first = vip * SERVER_IDS
            found[first : first + SERVER_IDS] = self._traffic.sums(first, SERVER_IDS)
        return found

    def turn(self, vip: int) -> int:
        """Return the number of the turn that the next new connection of a VIP takes."""
        turn: int = self._turns.get(vip)
        return turn

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Start the traffic and the loads of these rows from zero."""
        if len(rows):
            self._traffic.clear(rows)
            self.lives[rows] = np.zeros(1, self.lives.dtype)

    def set_loads(
        self,
        rows: NDArray[np.intp],
        load: NDArray[np.uint32],
        step: NDArray[np.uint32],
        latency: NDArray[np.uint32] | int = 0,
    ) -> None:
        """Tell the packet side how loaded servers are; the connections placed since count from zero.

        load, step, latency: as in struct live, all per weight.
        """
        lives = self.lives
        lives["load"][rows] = load
        lives["step"][rows] = step
        lives["latency"][rows] = latency
        lives["placed"][rows] = 0
