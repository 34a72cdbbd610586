# SPDX-License-Identifier: Apache-2.0
"""Plans in, kernel state out: the BPF programs and tables of the servers level."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import as_file, files
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal

from poise.errors import PoiseError
from poise.kernel import bpffs, maps, tc, xdp
from poise.kernel.libbpf import Object
from poise.kernel.library import BpfError
from poise.kernel.maps import Map
from poise.kernel.netlink import Interface
from poise.quic import tables as quic
from poise.quic.keys import set_key
from poise.servers.connections import Connections
from poise.servers.model import Model
from poise.servers.tables import Pool, Shape, Tables, Write, address_row

_TABLES = (
    *("vips", "vip_addresses", "servers", "server_addresses", "origins", "pools", "maglevs", "links"),
    *("direct", "direct6", "quic_configs", "traffic", "events"),
)
_HASHES = ("links", "direct", "direct6")  # of which an element can be deleted
_LINK = "link_"


def _open() -> Object:
    with as_file(files("poise.objects") / "balancer.bpf.o") as path:
        return Object(path)


@dataclass(frozen=True)
class Limits:
    """How much the tables hold: rows of each, and flows that a CPU may begin to remember per second.

    Powers of two: handshake_rows and connection_rows.
    """

    handshake_rows: int = 16384
    flow_rows: int = 131072
    flow_rate: int = 10000
    connection_rows: int = 64


class DataPlane:
    """The balancer's BPF object: its tables are pinned, so a new process takes over what runs."""

    def __init__(self, pins: Path, limits: Limits, token: bytes) -> None:
        """Load the programs, with the tables that are pinned in `pins` or new ones.

        token: 6 bytes, by which XDP hands packets to the slow path.
        Raises PoiseError if the pinned tables do not fit this poise, or the kernel refuses something.
        """
        self._pins = pins
        self._object = _open()
        self.adopted = not bpffs.make_directory(pins)
        self._object.set_max_entries("handshakes", limits.handshake_rows)
        self._object.set_max_entries("flows", limits.flow_rows)
        self._object.set_max_entries("connections", limits.connection_rows)
        self._object.pin_maps(pins)
        self._load()
        self._tables: dict[str, Map] = {name: self._object.map(name) for name in _TABLES}
        self.shape = Shape(self._tables["vips"].max_entries, self._tables["origins"].max_entries)
        self._object.map("settings").set(
            0,
            {
                "token": token,
                "handshake_mask": limits.handshake_rows - 1,
                "flow_rate": limits.flow_rate,
                "connection_mask": limits.connection_rows - 1,
                "sample_mask": 63,
            },
        )
        self.connections = Connections(self._object.map("connections"), self._object.program("sweep"))

    def _load(self) -> None:
        try:
            self._object.load()
        except BpfError as error:
            if not self.adopted:
                discard(self._pins)
            elif "mismatch" in error.log:
                raise PoiseError(
                    f"the tables pinned in {self._pins} do not fit: the number of rows was changed, or "
                    "another version of poise made them; `poise down`, then `poise up`, replaces them"
                ) from None
            raise

    def attach(
        self, interface: Interface, mode: Literal["auto", "native", "generic"]
    ) -> tuple[xdp.Mode, str | None]:
        """Let the interface's packets come here; it must have a clsact. See xdp.attach() for the result."""
        pin = self._pins / (_LINK + interface.name)
        result = xdp.attach(self._object.program("balancer"), interface.name, interface.index, mode, pin)
        tc.attach_ingress(self._object.program("slow_path"), interface.index)
        return result

    def read(self) -> Tables:
        """Return what the tables hold."""
        return Tables(
            vips=self._rows("vips"),
            vip_addresses=self._rows("vip_addresses"),
            quic_configs=self._rows("quic_configs"),
            servers=self._rows("servers"),
            server_addresses=self._rows("server_addresses"),
            origins=self._rows("origins"),
            pools={key: _pool(row) for key, row in self._tables["pools"].nonzero()},
            links=dict(self._tables["links"].items()),
            direct=frozenset(_prefixes(self._tables["direct"]))
            | frozenset(_prefixes(self._tables["direct6"])),
        )

    def _rows(self, table: str) -> dict[int, dict[str, Any]]:
        return {key: _without_padding(row) for key, row in self._tables[table].nonzero()}

    def hold_keys(self, model: Model) -> None:
        """Give the kernel the model's keys of QUIC connection ids, and take all others from it.

        Before the plan for the same model. Raises QuicKeyError if this kernel cannot use keys.
        """
        wanted = {row: key for vip in model.vips for row, key in quic.keys(vip).items()}
        for row in range(self._tables["quic_configs"].max_entries):
            set_key(self._object, row, wanted.get(row))

    def write(self, plan: Iterable[Write]) -> None:
        """Carry out the steps of a plan in their order."""
        for step in plan:
            carry_out(step, self._tables)

    def traffic(self, row: int) -> dict[str, int]:
        """Return connections, packets and bytes, over all CPUs, of a row of the servers table."""
        cpus = self._tables["traffic"].get(row)
        return {name: sum(cpu[name] for cpu in cpus) for name in cpus[0]}

    def forget_traffic(self, row: int) -> None:
        """Start a server's traffic from zero."""
        table = self._tables["traffic"]
        table.set(row, [{} for _ in table.get(row)])

    def events(self) -> dict[str, int]:
        """Return how often each event of contract.h happened, over all CPUs, by its lower-case name."""
        counts = dict(self._tables["events"].items())
        return {
            name.removeprefix("EVENT_").lower(): sum(counts[key])
            for name, key in self._object.btf.enum("event").items()
            if key in counts
        }


def carry_out(step: Write, tables: Mapping[str, Map]) -> None:
    """Write one value into the kernel's tables, or clear it."""
    table, key, value = step
    match table:
        case "direct":
            table, key = _prefix(key)
        case "pools":
            value = {
                "size": len(value.ids),
                "turns": len(value.ids),
                "ids": value.ids,
                "weights": bytes(value.weights),
                "schedule": value.ids,
            }
        case "maglevs":
            value = {"ids": value}
    if value is None and table in _HASHES:
        tables[table].delete(key)
    else:
        tables[table].set(key, value or {})


def _prefix(network: IPv4Network | IPv6Network) -> tuple[str, dict[str, Any]]:
    """Return the table that a `direct:` prefix belongs in, and its key there."""
    if network.version == 4:
        return "direct", {"length": network.prefixlen, "address": int(network.network_address)}
    return "direct6", {"length": network.prefixlen, "address": address_row(network.network_address)}


def _prefixes(table: Map) -> Iterator[IPv4Network | IPv6Network]:
    for prefix, _ in table.items():  # noqa: PERF102  a map, not a dict
        address = prefix["address"]
        if isinstance(address, dict):
            packed = b"".join(word.to_bytes(4, "big") for word in address["word"])
            yield IPv6Network((packed, prefix["length"]))
        else:
            yield IPv4Network((address, prefix["length"]))


def _pool(row: dict[str, Any]) -> Pool:
    return Pool(row["ids"][: row["size"]], tuple(row["weights"][: row["size"]]))


def _without_padding(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "zero"}


def attached(pins: Path) -> dict[str, int]:
    """Return the interfaces (name and ifindex, 0 if gone) that a poise with these pins is attached to."""
    links = (path for path in bpffs.pins_in(pins) if path.name.startswith(_LINK))
    return {path.name.removeprefix(_LINK): xdp.interface_of(path) for path in links}


def stop(pins: Path) -> None:
    """Have what clients send for the VIPs discarded; what servers send still reaches them."""
    pin = pins / "servers"
    if not pin.exists():
        return
    with maps.open_pinned(pin) as servers:
        servers.update([(row, b"") for row, _ in servers.nonzero()])


def detach(pins: Path, interface: str, ifindex: int) -> None:
    """Let go of an interface that `attached` returned."""
    xdp.detach(pins / (_LINK + interface))
    if ifindex:
        tc.detach_ingress(ifindex)


def discard(pins: Path) -> None:
    """Remove the tables, and with them what is left of the programs."""
    with closing(_open()) as balancer:
        bpffs.remove_pins(pins, balancer.map_names())
