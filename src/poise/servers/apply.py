# SPDX-License-Identifier: Apache-2.0
"""Plans in, kernel state out: the BPF programs and tables of the servers level."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from poise.errors import PoiseError
from poise.kernel import bpffs, grace, maps, tc, xdp
from poise.kernel.libbpf import Object
from poise.kernel.library import BpfError
from poise.kernel.netlink import Interface
from poise.quic import tables as quic
from poise.quic.keys import set_key
from poise.servers import plan, renewal
from poise.servers.connections import Connections
from poise.servers.contents import carry_out, read
from poise.servers.model import Link, Model, Vip
from poise.servers.plan import Changes
from poise.servers.readings import Readings
from poise.servers.rows import VipTables
from poise.servers.tables import Network, Present, Shape, Write
from poise.servers.watching import Flow, Watched, Watches

_LINK = "link_"


@dataclass(frozen=True)
class Limits:
    """How much the tables hold: rows of each, and flows that a CPU may begin to remember per second.

    Powers of two: handshake_rows, connection_rows and vip_limit (VIPs, 16 to 512). sample_mask: a power of
    two less one; every flow whose hash has none of these bits is sampled.
    """

    handshake_rows: int = 16384
    flow_rows: int = 131072
    flow_rate: int = 10000
    connection_rows: int = 64
    vip_limit: int = 64
    sample_mask: int = 63


class DataPlane:
    """The balancer's BPF object: its tables are pinned, so a new process takes over what runs."""

    def __init__(self, pins: Path, limits: Limits, token: bytes, object_file: Path | None = None) -> None:
        """Load the programs, with the tables that are pinned in `pins` or new ones.

        token: 6 bytes, by which XDP hands packets to the slow path. object_file: instead of the installed
        one. Pinned tables of another size or layout are made anew; what they remember is carried over, now
        and once more by `settle`. Raises PoiseError if the kernel refuses something.
        """

    adopted: bool
    """Whether there were pinned tables."""
    shape: Shape
    present: Present
    """What the tables hold, kept in step with `apply`."""
    readings: Readings
    connections: Connections

    def attach(
        self, interface: Interface, mode: Literal["auto", "native", "generic"]
    ) -> tuple[xdp.Mode, str | None]:
        """Let the interface's packets come here; it must have a clsact. See xdp.attach() for the result.

        Another poise's programs on it are replaced without a gap.
        """

    def settle(self) -> None:
        """End an upgrade, once all interfaces are attached: what came into the former tables meanwhile follows."""

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

    def replace(
        self,
        wanted: Iterable[VipTables],
        *,
        links: Mapping[int, Link],
        direct: frozenset[Network],
    ) -> int:
        """Have the tables hold these VIPs and no others, whatever an earlier process left there; see `apply`."""

    def hold_keys(self, vips: Iterable[Vip]) -> None:
        """Give the kernel the keys of QUIC connection ids of these VIPs, and take all others from it.

        Before the tables of the same VIPs are applied. Raises QuicKeyError if this kernel cannot use keys.
        """

    def watch(self, flow: Flow) -> None:
        """Have the next packet of a flow told by `watched`. Raises PoiseError if there are too many watches."""

    def watched(self, flow: Flow) -> Watched | None:
        """Return where the first packet since `watch` went and why; None if none has come."""

    def unwatch(self, flow: Flow) -> None:
        """End a watch; harmless if there is none."""

    def traffic(self, row: int) -> dict[str, int]:
        """Return what a row of the servers table got, over all CPUs: the members of struct traffic."""

    def events(self) -> dict[str, int]:
        """Return how often each event of contract.h happened, over all CPUs, by its lower-case name."""
