# SPDX-License-Identifier: Apache-2.0
"""The sampled flows that the packet side keeps (struct sample of contract.h), and counts of them.

Pure: on numpy's structured arrays, with the time handed in.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from poise.servers.model import SERVER_IDS

Samples = NDArray[np.void]
"""Rows of `SAMPLE`."""

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]

SAMPLE: Final = np.dtype(
    [("fingerprint", "u4"), ("vip", "u2"), ("server", "u2"), ("begun", "u4"), ("seen", "u4"), ("flags", "u4")]
)
USED: Final = 1
BEGUN: Final = 2  # its SYN was seen
CLIENT_FIN: Final = 4
SERVER_FIN: Final = 8
RESET: Final = 16
OVER: Final = CLIENT_FIN | SERVER_FIN | RESET  # a connection of which one side is closed is as good as over

ONE_IN: Final = 64  # of how many flows one is sampled; a power of two
UNIT: Final = (1 << 20) / 1e9  # seconds, of `begun` and `seen`
KEPT: Final = (1 << 16) * UNIT  # SAMPLE_KEPT: a flow that was silent for longer may lose its row to another


def units(clock: float) -> int:
    """Return the time of `time.monotonic()` as `begun` and `seen` have it."""
    return int(clock / UNIT) & 0xFFFFFFFF


def ages(times: NDArray[np.uint32], clock: float) -> Numbers:
    """Return how many seconds ago each of some `begun` or `seen` was; they wrap after 52 days."""
    past = (np.uint32(units(clock)) - times).view(np.int32)
    return np.maximum(past, 0) * UNIT  # a packet may have come since the clock was read


def rows(samples: Samples) -> Rows:
    """Return the server row of each flow: VIP index × 512 + server id."""
    result = samples["vip"].astype(np.int64)
    result *= SERVER_IDS
    result += samples["server"]
    return result


def flows_seen(
    samples: Samples, within: Mapping[int, float], clock: float
) -> dict[int, tuple[float, float | None]]:
    """Return about how many flows of some servers, all of whose flows are sampled, are going on.

    within: by server row, the last seconds in which a flow must have been seen. The other number is how many
    seconds ago one of the server's flows was seen last, or None if there is none.
    """
    flows = samples[(samples["flags"] & (USED | OVER)) == USED]
    of_row, silences = rows(flows), ages(flows["seen"].astype(np.uint32), clock)
    order = np.argsort(of_row, kind="stable")
    of_row, silences = of_row[order], silences[order]
    found = {}
    for row, seconds in within.items():
        first, end = np.searchsorted(of_row, [row, row + 1])
        theirs = silences[first:end]
        number = crowded(float((theirs <= seconds).sum()), len(samples))
        found[row] = number, float(theirs.min()) if len(theirs) else None
    return found


def crowded(flows: float, size: int) -> float:
    """Return how many flows there were to have left so many in a table of `size` rows without chains.

    Of n flows, size × (1 - exp(-n/size)) rows hold one (linear counting: Whang et al., "A Linear-Time
    Probabilistic Counting Algorithm for Database Applications", TODS 1990, section 2).
    """
    full = min(flows, size - 1.0) / size
    return float(-size * np.log1p(-full))
