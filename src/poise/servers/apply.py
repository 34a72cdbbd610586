# SPDX-License-Identifier: Apache-2.0
"""Plans in, kernel state out: the BPF programs and tables of the servers level."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import numpy as np

from poise.kernel import bpffs, grace, maps, tc, xdp
from poise.kernel.libbpf import Object
from poise.kernel.netlink import Interface
from poise.quic import tables as quic
from poise.quic.keys import set_key
from poise.servers.connections import Connections
from poise.servers.contents import carry_out, read, shape_of
from poise.servers.ends import GONE
from poise.servers.limits import Limits
from poise.servers.model import Link, Vip
from poise.servers.plan import Changes, new_servers, plan
from poise.servers.readings import Readings
from poise.servers.renewal import NEXT, SWITCHED, Renewal
from poise.servers.rows import IS_WATCHED, VipTables
from poise.servers.tables import Network, Write
from poise.servers.watching import Flow, Watched, Watches

__all__ = ["DataPlane", "Limits", "attached", "detach", "discard", "stop"]

_LINK = "link_"


def _open() -> Object:
    with as_file(files("poise.objects") / "balancer.bpf.o") as path:
        return Object(path)


class DataPlane:
    """The balancer's BPF object: its tables are pinned, so a new process takes over what runs.

    adopted: whether there were pinned tables. shape: how large the tables are. present: what they hold,
    kept in step with each write. readings: what was counted and sampled. connections: of stateful VIPs.
    """

    def __init__(self, pins: Path, limits: Limits, token: bytes) -> None:
        """Load the programs, with the tables that are pinned in `pins` or new ones.

        token: 6 bytes, by which XDP hands packets to the slow path. Pinned tables of another size or layout
        are made anew; what they hold is carried over, now and once more by `settle`. Raises PoiseError if the
        kernel refuses something.
        """
        self._pins = pins
        self._object = _open()
        limits.configure(self._object)
        self.adopted = not bpffs.make_directory(pins)
        self._renewal = Renewal(self._object, pins)
        try:
            self._renewal.load()
        except Exception:
            if not self.adopted:
                discard(pins)
            raise
        self._maps = self._renewal.maps()
        self._settings = partial(limits.settings, token)
        self._maps["settings"].set(0, self._settings(renewing="connections" in self._renewal.carries))
        self.shape = shape_of(self._maps)
        self.present = self._renewal.carry_over(self._maps)
        self.readings = Readings(self._maps)
        self.connections = Connections(self._maps["connections"], self._object.program("sweep"))
        self._watches = Watches(self._maps["watches"], self._set_watched)
        self.present.watched = self._watches.watched_vips()
        self._keys: dict[int, bytes | None] = {}

    def close(self) -> None:
        """Let go of the programs and tables; what is pinned stays."""
        self._object.close()

    def attach(
        self, interface: Interface, mode: Literal["auto", "native", "generic"]
    ) -> tuple[xdp.Mode, str | None]:
        """Let the interface's packets come here; it must have a clsact. See xdp.attach() for the result.

        The programs of an earlier poise on it are replaced without a gap.
        """
        self._switch()
        pin = self._pins / (_LINK + interface.name)
        result = xdp.attach(self._object.program("balancer"), interface.name, interface.index, mode, pin)
        tc.attach_ingress(self._object.program("slow_path"), interface.index)
        return result

    def _switch(self) -> None:
        program = self._object.program("balancer")
        pins = [self._pins / (_LINK + name) for name, ifindex in attached(self._pins).items() if ifindex]
        self._renewal.switch(self._maps, lambda: xdp.replace(program, pins))

    def settle(self) -> None:
        """End an upgrade, once all interfaces are attached: what came into former tables follows."""
        if not self._renewal.is_complete:
            self._switch()
            grace.wait()  # for programs that still write into the former tables
            self._renewal.settle(self._maps)
            self._maps["settings"].set(0, self._settings())

    def apply(
        self,
        changes: Changes,
        *,
        links: Mapping[int, Link] | None = None,
        direct: frozenset[Network] | None = None,
    ) -> int:
        """Have the tables hold this of these VIPs; returns how many rows were written, once all are in force.

        links, direct: all of them, None if they stay; the VIPs' flags must agree with them (rows.flags_for).
        Nothing is written if it raises Crowded. After any other error, `apply` may be called again.
        """
        steps = plan(self.present, changes, links=links, direct=direct)
        self.readings.forget(new_servers(self.present, changes))
        self.write(steps)
        if steps:
            grace.wait()
        return sum(len(step.keys) for step in steps)

    def replace(
        self, wanted: Iterable[VipTables], *, links: Mapping[int, Link], direct: frozenset[Network]
    ) -> int:
        """Have the tables hold these VIPs and no others, whatever an earlier process left; see `apply`."""
        changes: dict[int, VipTables | None] = dict.fromkeys(self.present.indices())
        changes.update((tables.index, tables) for tables in wanted)
        return self.apply(changes, links=links, direct=direct)

    def write(self, steps: Iterable[Write]) -> None:
        """Carry out the steps of a plan in their order."""
        try:
            for step in steps:
                carry_out(step, self._maps)
                self.present.note(step)
        except Exception:
            watched = self.present.watched
            self.present = read(self._maps)
            self.present.watched = watched
            raise

    def hold_keys(self, vips: Iterable[Vip]) -> None:
        """Give the kernel the keys of QUIC connection ids of these VIPs, and take all others from it.

        Before the tables of the same VIPs are applied. Raises QuicKeyError if this kernel cannot use keys.
        """
        wanted = {row: key for vip in vips for row, key in quic.keys(vip).items()}
        for row in range(self._maps["quic_configs"].max_entries):
            key = wanted.get(row)
            if row not in self._keys or self._keys[row] != key:
                set_key(self._object, row, key)
                self._keys[row] = key

    def watch(self, flow: Flow) -> None:
        """Have the next packet of a flow told by `watched`. Raises PoiseError for too many watches."""
        self._watches.begin(flow)

    def watched(self, flow: Flow) -> Watched | None:
        """Return where the first packet since `watch` went and why; None if none has come."""
        return self._watches.read(flow)

    def unwatch(self, flow: Flow) -> None:
        """End a watch; harmless if there is none."""
        self._watches.end(flow)

    def _set_watched(self, vip: int, watched: bool) -> None:  # noqa: FBT001  what Watches calls
        """Set or clear the flag by which the packet side knows that a VIP has watches."""
        (self.present.watched.add if watched else self.present.watched.discard)(vip)
        vips = self.present.vips
        rows = np.flatnonzero((vips["index"] == vip) & (vips["end"] > GONE))
        records = vips[rows]
        records["flags"] = records["flags"] & ~np.uint32(IS_WATCHED) | (IS_WATCHED if watched else 0)
        if len(rows):
            self.write([Write("vips", rows, records)])

    def traffic(self, row: int) -> dict[str, int]:
        """Return what a row of the servers table got, over all CPUs: the members of struct traffic."""
        (sums,) = self._maps["traffic"].sums(row, 1)
        return {name: int(sums[name]) for name in sums.dtype.names if name != "zero"}

    def events(self) -> dict[str, int]:
        """Return how often each event of contract.h happened, over all CPUs, by its lower-case name."""
        counts = self._maps["events"].sums().tolist()
        return {
            name.removeprefix("EVENT_").lower(): counts[key]
            for name, key in self._object.btf.enum("event").items()
            if key < len(counts)
        }


def attached(pins: Path) -> dict[str, int]:
    """Return the interfaces (name and ifindex, 0 if gone) that a poise with these pins is attached to."""
    links = (path for path in bpffs.pins_in(pins) if path.name.startswith(_LINK))
    return {path.name.removeprefix(_LINK): xdp.interface_of(path) for path in links}


def stop(pins: Path) -> None:
    """Have what clients send for the VIPs discarded; what servers send still reaches them."""
    for directory in (pins, pins / SWITCHED):
        pin = directory / "servers"
        if pin.exists():
            with maps.open_pinned(pin) as servers:
                found = servers.rows()
                servers.clear(np.flatnonzero(found.view(np.uint8).reshape(len(found), -1).any(axis=1)))


def detach(pins: Path, interface: str, ifindex: int) -> None:
    """Let go of an interface that `attached` returned."""
    xdp.detach(pins / (_LINK + interface))
    if ifindex:
        tc.detach_ingress(ifindex)


def discard(pins: Path) -> None:
    """Remove the tables, and with them what is left of the programs."""
    with closing(_open()) as balancer:
        names = balancer.map_names()
        for directory in (NEXT, SWITCHED):
            bpffs.remove_pins(pins / directory, names)
        bpffs.remove_pins(pins, names)
