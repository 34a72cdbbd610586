# SPDX-License-Identifier: Apache-2.0
"""How loaded this machine is: read from /proc as any user may."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INTERVAL: Final = 0.1  # seconds between two readings
_KEPT: Final = 10  # readings that a load is the mean of: a second's
_STAT: Final = Path("/proc/stat")
_IDLE: Final = (3, 4)  # idle and iowait, of the numbers in a line of proc(5)'s stat


@dataclass(frozen=True)
class Reading:
    """The state of the processor at one moment: ticks since the boot, and how many tasks run or want to."""

    busy: int
    total: int
    runnable: int


def read(text: str) -> Reading:
    """Return what a text as that of /proc/stat says."""
    lines = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
    ticks = [int(number) for number in lines["cpu"].split()[:8]]  # those of guests are in user's already
    total = sum(ticks)
    # The one that reads runs as well.
    return Reading(total - sum(ticks[at] for at in _IDLE), total, max(int(lines["procs_running"]) - 1, 0))


class Meter:
    """Reads ten times a second, and gives the means of the last second."""

    def __init__(self, source: Callable[[], str] = _STAT.read_text) -> None:
        """Read from /proc/stat, or what returns a text like it."""
        self._source = source
        self._readings: deque[Reading] = deque(maxlen=_KEPT + 1)
        self.read()

    def read(self) -> None:
        """Take a reading."""
        self._readings.append(read(self._source()))

    def run(self, stop: threading.Event) -> None:
        """Take readings until told to stop."""
        due = time.monotonic()
        while not stop.wait(max(due - time.monotonic(), 0.0)):
            self.read()
            due = max(due + INTERVAL, time.monotonic())

    @property
    def cpu(self) -> float:
        """Which part of the processors was busy, 0 to 1."""
        readings = list(self._readings)
        total = readings[-1].total - readings[0].total
        return min(max((readings[-1].busy - readings[0].busy) / total, 0.0), 1.0) if total > 0 else 0.0

    @property
    def run_queue(self) -> float:
        """How many tasks ran or waited for a processor, for each of them."""
        readings = list(self._readings)
        return sum(each.runnable for each in readings) / len(readings) / (os.cpu_count() or 1)
