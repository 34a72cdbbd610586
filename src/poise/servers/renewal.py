# SPDX-License-Identifier: Apache-2.0
"""Taking over the tables of an earlier poise: as they are, or into new ones of another size or layout.

New tables are pinned in `next` and filled there while the earlier programs still run with the former ones.
The directory is renamed to `switched` right before the first interface gets the new programs; once all have
them, what came into the former tables meanwhile follows, and the new ones take their places. Whoever finds
`next` throws it away, whoever finds `switched` ends that work.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from poise.kernel import bpffs
from poise.kernel.btf import Bytes
from poise.kernel.libbpf import Object
from poise.kernel.maps import Map, open_pinned
from poise.kernel.records import converted
from poise.servers import carrying, contents, ends
from poise.servers.ends import GONE
from poise.servers.rows import VIP, Records
from poise.servers.tables import RECORDS, Present, Shape

NEXT: Final = "next"
SWITCHED: Final = "switched"
_ENDS: Final = ("vips", "origins")
# Which tables are made anew if one of these is: rows of VIPs are named by number in those of origins, and the
# settings tell how many rows the other two have.
_FOLLOWS: Final = {"vips": ("origins",), "origins": ("vips",), "settings": ("handshakes", "connections")}


class Renewal:
    """Which tables of an object are those that are pinned, and which are new."""

    def __init__(self, balancer: Object, pins: Path) -> None:
        """Look at what is pinned; the object has its sizes, and is not loaded yet."""
        self._object = balancer
        self._pins = pins
        self._open = ExitStack()
        self.names = balancer.map_names()
        _end_switch(pins)
        _remove(pins / NEXT)
        self._is_first = not any((pins / name).exists() for name in self.names)
        pinned = {name: self._pinned(name) for name in self.names}
        usable = {name: found for name, found in pinned.items() if found and self._fits(name, found)}
        fresh = {name for name in self.names if name not in usable}
        for name, others in _FOLLOWS.items():
            if fresh & set(others):
                usable.pop(name, None)
        for name, found in usable.items():
            balancer.use_map(name, found.fd)
        self._fresh = [name for name in self.names if name not in usable]
        self._former = {name: found for name, found in pinned.items() if found and name in self._fresh}
        self._carried: dict[str, carrying.Carried] = {}
        self._vips: Records = np.zeros(0, VIP)

    def _pinned(self, name: str) -> Map | None:
        path = self._pins / name
        return self._open.enter_context(open_pinned(path)) if path.exists() else None

    def _fits(self, name: str, found: Map) -> bool:
        """Whether the object can use a pinned table: sizes, flags and members are the same."""
        wanted, key, value = self._object.wanted_map(name)
        layouts = ((key, found.key), (value, found.value))
        return (
            found.info is not None
            and found.info.is_like(wanted)
            and all(isinstance(there, Bytes) or mine is None or mine == there for mine, there in layouts)
        )

    def maps(self) -> dict[str, Map]:
        """Return the maps of the loaded object by their names, but those whose values Python cannot read."""
        readable = (name for name in self.names if self._object.wanted_map(name)[2] is not None)
        return {name: self._object.map(name) for name in readable}

    @property
    def carries(self) -> frozenset[str]:
        """The tables of which flows may be remembered in a former one only."""
        return frozenset(self._former).intersection(carrying.REMEMBERED)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be done by `settle`."""
        return self._is_first or not self._fresh

    def load(self) -> None:
        """Load the programs, and pin the new tables."""
        self._object.load()
        directory = self._pins if self._is_first else self._pins / NEXT
        if self._fresh:
            directory.mkdir(exist_ok=True)
        for name in self._fresh:
            self._object.pin_map(name, directory / name)

    def carry_over(self, maps: Mapping[str, Map]) -> Present:
        """Fill the new tables with what the former ones hold; returns what is in those that Python writes."""
        if "vips" in self._former or (self._pins / "vips").exists():
            self._vips = converted(self._former.get("vips", maps["vips"]).rows(), VIP, partly=True)
        self._bring(carrying.carry, maps)
        if not any(name in self._fresh for name in contents.NAMES):
            return contents.read(maps)
        before = {name: self._former.get(name, maps[name]) for name in contents.NAMES}
        present = fitted(contents.read(before), contents.shape_of(maps))
        for write in contents.contents_of(present):
            if write.table in self._fresh or (write.table == "direct" and "direct6" in self._fresh):
                contents.carry_out(write, maps)
        return present

    def _bring(self, bring: Callable[..., carrying.Carried], maps: Mapping[str, Map]) -> None:
        # What changes with each packet as close to the switch as can be.
        order = [name for name in carrying.REMEMBERED if name in self._former]
        for name in reversed(order) if bring is carrying.carry else order:
            carried = self._carried.get(name)
            self._carried[name] = bring(name, self._former[name], maps[name], carried, self._vips)

    def switch(self, maps: Mapping[str, Map], replace_programs: Callable[[], None]) -> None:
        """Have all programs replaced at once, and the new ones find what the former ones have just noted."""
        if not (self._pins / NEXT).exists():
            return
        self._bring(carrying.carry, maps)
        (self._pins / NEXT).rename(self._pins / SWITCHED)
        replace_programs()
        self._bring(carrying.follow, maps)

    def settle(self, maps: Mapping[str, Map]) -> None:
        """Have what came into the former tables meanwhile follow, and put the new ones in their places.

        When no program uses the former ones any more.
        """
        self._bring(carrying.follow, maps)
        self._carried, self._former, self._fresh = {}, {}, []
        _take_places(self._pins)
        for path in bpffs.pins_in(self._pins):
            if path.name not in self.names and bpffs.is_map(path):
                path.unlink()
        self._open.close()


def _end_switch(pins: Path) -> None:
    """End the work of an earlier process that was killed while it switched to new tables."""
    with ExitStack() as stack:
        vips = np.zeros(0, VIP)
        if (pins / "vips").exists():
            vips = converted(stack.enter_context(open_pinned(pins / "vips")).rows(), VIP, partly=True)
        for path in bpffs.pins_in(pins / SWITCHED):
            if path.name in carrying.REMEMBERED and (pins / path.name).exists():
                former, fresh = (stack.enter_context(open_pinned(pin)) for pin in (pins / path.name, path))
                carrying.follow(path.name, former, fresh, None, vips)
    _take_places(pins)


def _take_places(pins: Path) -> None:
    for path in bpffs.pins_in(pins / SWITCHED):
        path.replace(pins / path.name)
    if (pins / SWITCHED).exists():
        (pins / SWITCHED).rmdir()


def _remove(directory: Path) -> None:
    for path in bpffs.pins_in(directory):
        path.unlink()
    if directory.exists():
        directory.rmdir()


def fitted(before: Present, shape: Shape) -> Present:
    """Return a content in tables of another size; what does not fit them is left out. Raises Crowded."""
    found = Present.empty(shape)
    for name in RECORDS:
        if name not in _ENDS:
            former: Records = getattr(before, name)
            rows = min(len(former), len(getattr(found, name)))
            getattr(found, name)[:rows] = former[:rows]
    vips = before.vips[(before.vips["end"] > GONE) & (before.vips["index"] < shape.vip_limit)]
    places = ends.place(found.vips["end"], vips["end"])
    found.vips[places] = vips
    moved = dict(zip(ends.find(before.vips["end"], vips["end"]).tolist(), places.tolist(), strict=True))
    live = before.origins[(before.origins["end"] > GONE) & np.isin(before.origins["vip_row"], list(moved))]
    live = live[live["vip"] < shape.vip_limit]
    live["vip_row"] = [moved[row] for row in live["vip_row"].tolist()]
    found.origins[ends.place(found.origins["end"], live["end"])] = live
    in_use = set(vips["pool"].tolist())
    found.pools = {number: pool for number, pool in before.pools.items() if number in in_use}
    found.links, found.direct = before.links, before.direct
    return found
