# SPDX-License-Identifier: Apache-2.0
"""The chance that a flow which was silent for a while speaks again, learnt from flows that did or did not.

A product-limit estimate (Kaplan and Meier, "Nonparametric Estimation from Incomplete Observations", JASA
1958) over silences in steps of a second: of the flows that had been silent for so long at one look, how many
had spoken by the next one. Those that never do are over, and their end was missed. Pure.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.servers.samples import Numbers, Rows

STEP: Final = 1.0  # seconds between two looks
_SINGLE: Final = 8  # bins of one step, then four to the octave
BINS: Final = 64

_EDGES: Final = np.concatenate([np.arange(_SINGLE), _SINGLE * 2 ** (np.arange(BINS - _SINGLE + 1) / 4)])
_WIDTHS: Final = np.diff(_EDGES)
_LONGEST: Final = 1 << 17  # seconds; a look-up by the whole second finds the bin
_BIN: Final[NDArray[np.uint8]] = (
    np.searchsorted(_EDGES, np.arange(_LONGEST), side="right").clip(1, BINS) - 1
).astype(np.uint8)

_HALF_LIFE: Final = 3600.0  # seconds after which an observation counts half: applications change
_BELIEF: Final = 2.0  # flows that the belief before any observation is worth, in each bin
_FIRST: Final = 0.1  # how often, by that belief, a flow speaks while it passes through a bin
_FADE: Final = 0.2  # how much less a shorter silence tells of the next longer one, a bin


def bins(silences: Numbers) -> NDArray[np.uint8]:
    """Return the bin of each silence, in seconds."""
    return _BIN[np.minimum(silences, _LONGEST - 1).astype(np.int64)]


class Survival:
    """What was learnt, for several kinds of flows."""

    def __init__(self, kinds: int) -> None:
        """Know nothing of any of `kinds` kinds."""
        self._at_risk = np.zeros((kinds, BINS))
        self._spoke = np.zeros((kinds, BINS))

    def learn(self, places: Rows, spoke: NDArray[np.bool_], elapsed: float) -> None:
        """Take in one step: each flow's kind × BINS + bin of its silence then, and whether it spoke since."""
        fade = 0.5 ** (elapsed / _HALF_LIFE)
        size = int(places.max(initial=0)) + 1
        for counts, seen in ((self._at_risk, places), (self._spoke, places[spoke])):
            new = np.bincount(seen, minlength=size)
            used = counts.reshape(-1)[:size]  # kinds of larger numbers need not fade while they see nothing
            used *= fade
            used += new

    def forget(self, kinds: Rows) -> None:
        """Know nothing of these any longer."""
        self._at_risk[kinds] = self._spoke[kinds] = 0.0

    def chances(self, kinds: Rows) -> Numbers:
        """Return the chance to speak again, of each of these kinds (rows) by the bin of the silence.

        Where a bin has few observations, those of shorter silences decide: what is true of the latest octave
        is believed to hold for the next.
        """
        at_risk, spoke = self._at_risk[kinds].T, self._spoke[kinds].T
        known = np.full(len(kinds), _BELIEF)
        told = known * _FIRST
        passed = np.empty((BINS, len(kinds)))  # -log of the chance to stay silent through a bin
        for number, width in enumerate(_WIDTHS):
            believed = told / known
            a_step = (spoke[number] + _BELIEF * believed) / (at_risk[number] + _BELIEF * width)
            passed[number] = -width * np.log1p(-np.minimum(a_step, 0.999))
            told = told * _FADE + np.minimum(passed[number], 1.0) * at_risk[number] / width
            known = known * _FADE + at_risk[number] / width
        ahead = np.cumsum(passed[::-1], axis=0)[::-1]
        ahead -= passed * ((1 - 1 / _WIDTHS) / 2)[:, None]  # on average, half of a bin's steps are over
        return -np.expm1(-ahead.T)
