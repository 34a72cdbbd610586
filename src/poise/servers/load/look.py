# SPDX-License-Identifier: Apache-2.0
"""One look at the sampled flows, and what changed since the one before. Pure."""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.servers.load.survival import BINS, bins
from poise.servers.model import SERVER_IDS
from poise.servers.samples import BEGUN, KEPT, OVER, UNIT, USED, Rows, Samples, ages, rows, units

SHIFT: Final = SERVER_IDS.bit_length() - 1  # from a row to its VIP: shifts are ten times as fast as divisions
_TICK: Final = 0.01  # seconds, of the kernel's coarse clock


class Look:
    """The sampled flows at one moment: all rows by member, and of some VIPs those that are not over."""

    def __init__(self, samples: Samples, vips: Iterable[int], clock: float) -> None:
        self.clock = clock
        self.fingerprints, self.begins, self.seen, flags = (
            samples[member].astype(np.uint32) for member in ("fingerprint", "begun", "seen", "flags")
        )
        self.rows = rows(samples)
        wanted = np.zeros(1 << 16, np.bool_)
        wanted[list(vips)] = True
        self.used = (flags & USED) != 0
        self.starts = (flags & BEGUN) != 0
        self.over = (flags & OVER) != 0
        goes_on = self.used & ~self.over
        recent = np.uint32(units(clock)) - self.seen <= int(KEPT / UNIT)
        self.kept = int((recent & goes_on).sum())  # of all VIPs
        self.places = np.flatnonzero(goes_on & wanted[samples["vip"]])
        self.row = self.rows[self.places]
        seen = self.seen[self.places]
        self.begun = self.starts[self.places]
        # Only the first packets came, within a tick of the kernel's coarse clock: perhaps nothing but a SYN.
        self.unspoken = (seen - self.begins[self.places]) <= 1
        self.silence = ages(seen, clock)
        self.place = (2 * (self.row >> SHIFT) + self.unspoken) * BINS + bins(self.silence)
        over = self.rows[self.over] >> SHIFT
        self.ended = np.bincount(over, minlength=SERVER_IDS)

    def same(self, former: "Look") -> NDArray[np.bool_]:
        """Whether each row has the flow that it had."""
        same: NDArray[np.bool_] = former.used & (self.fingerprints == former.fingerprints)
        same &= self.rows == former.rows
        same &= self.begins == former.begins
        return same

    def outcomes(self, former: "Look", same: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.bool_]]:
        """Return the kind and silence of flows that were not over, and whether they spoke or ended since."""
        known = same[former.places]
        at = former.places[known]
        return former.place[known], (self.seen[at] != former.seen[at]) | self.over[at]

    def vips_begun(self, fresh: NDArray[np.bool_], elapsed: float) -> Rows:
        """Return the VIP of each flow that began since."""
        at = np.flatnonzero(fresh & self.used & self.starts)
        at = at[ages(self.begins[at], self.clock) <= elapsed + 2 * _TICK]
        return self.rows[at] >> SHIFT

    def taken(self, former: "Look", same: NDArray[np.bool_]) -> float:
        """Return of which part of the rows that another flow may take that has happened since."""
        free = former.over
        return float((free & ~same).sum()) / max(int(free.sum()), 1)
