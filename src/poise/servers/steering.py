# SPDX-License-Identifier: Apache-2.0
"""From readings and reports to the loads by which the packet side places new connections."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from poise.servers.model import Vip
from poise.servers.standing import Choice

Key = tuple[int, int]
"""VIP index, server id."""


class Readings(Protocol):
    """What steering reads from the kernel's tables and writes to them; rows are VIP index × 512 + server id."""

    def traffic(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return struct traffic of these rows, summed over CPUs, as a structured array in their order."""
        ...

    @property
    def open_connections(self) -> NDArray[Any]:
        """struct counted by row (member `open`): connections of stateful VIPs; a view of the kernel's memory."""
        ...

    @property
    def samples(self) -> NDArray[Any]:
        """struct sample: the sampled flows; a view of the kernel's memory."""
        ...

    def set_loads(
        self, rows: NDArray[Any], load: NDArray[Any], step: NDArray[Any], latency: NDArray[Any]
    ) -> None:
        """Write struct live of these rows, `placed` as 0."""
        ...


@dataclass(frozen=True)
class Steered:
    """What standing.choice() takes of a VIP: shares of AWRR by server id, or None, and Prequal's border."""

    awrr: Mapping[int, float] | None = None
    hot_above: int = 0


@dataclass(frozen=True)
class Shown:
    """The load of a server, as shown to operators.

    load: in the unit of its signal, not per weight; None if nothing is known. latency: milliseconds. age:
    seconds since it was measured. estimated: it is not an exact count. fault: a sentence, why there is no
    usable signal, or "" .
    """

    load: float | None = None
    latency: float | None = None
    age: float | None = None
    estimated: bool = False
    fault: str = ""


class Steering:
    """Keeps the loads of all VIPs whose policy looks at loads."""

    def __init__(self, readings: Readings, clock: Callable[[], float] = time.monotonic) -> None:
        """Read and write by `readings`; clock: monotonic seconds, as the kernel's CLOCK_MONOTONIC."""
        self._readings = readings
        self._clock = clock

    def watch(self, vips: Iterable[Vip], choices: Mapping[int, Choice]) -> None:
        """Look at these VIPs from now on; choices: by VIP index, who takes new connections in them.

        To be called after every change of the model or of a choice; what is known of servers that stay is
        kept. May be called from any thread.
        """

    def look(self) -> dict[int, Steered]:
        """Measure, write the loads of VIPs that are due, and return what changed for others, by VIP index.

        To be called as often as the shortest interval of a load source, at least each second.
        """
        return {}

    async def poll(self) -> None:
        """Ask agents and URLs for loads, until cancelled."""

    def shown(self) -> dict[Key, Shown]:
        """Return the load of each server that takes connections in a VIP that is looked at."""
        return {}
