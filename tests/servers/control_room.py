# SPDX-License-Identifier: Apache-2.0
"""A controller with real tables, in one of two machines; servers are addresses of the other one."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from poise.config import Config
from poise.kernel import netlink
from poise.lab.namespaces import Namespace
from poise.servers.apply import DataPlane, Limits
from poise.servers.control import Controller
from poise.servers.model import Address
from poise.servers.tables import Pool, Tables, Write
from tests.kernel.two_machines import living_here, seen

KEY = bytes(range(16))
VIP = IPv4Address("192.0.2.10")


def address_of(number: int) -> IPv4Address:
    """Server 1 is at 10.1.0.11, ..."""
    return IPv4Address("10.1.0.10") + number


class RecordedPlane(DataPlane):
    """The real tables; it is remembered what was written into them."""

    def __init__(self, pins: Path) -> None:
        super().__init__(pins, Limits(1024), bytes(6))
        self.written: list[Write] = []

    def write(self, plan: Iterable[Write]) -> None:
        """Carry out the steps, and remember them."""
        steps = list(plan)
        self.written += steps
        super().write(steps)


@dataclass
class Room:
    """What a test of the controller needs; this thread lives in `here`."""

    here: Namespace
    peer: Namespace
    pins: Path
    path: Path

    def config(self, *vips: dict[str, object], **more: object) -> Config:
        """A configuration of these VIPs."""
        return Config.model_validate({"interfaces": ["eth0"], "vips": list(vips), **more})

    def start(self, config: Config) -> tuple[Controller, RecordedPlane]:
        """A controller as at a start of the daemon, its tables applied."""
        plane = RecordedPlane(self.pins)
        controller = Controller(config, self.path, KEY, plane, {netlink.interface("eth0").index: ()})
        controller.refresh()
        return controller, plane

    def bring(self, *numbers: int) -> None:
        """Have these servers there, and known here as neighbours."""
        ifindex = netlink.interface("eth0").index
        for number in numbers:
            address = address_of(number)
            self.peer.ip(f"address add {address}/24 dev eth0")
            seen(partial(netlink.keep_fresh, ifindex, address), partial(is_resolved, address=address))


def is_resolved(event: netlink.Event, address: Address) -> bool:
    """Whether the event tells that a server's neighbour is known now."""
    return (
        isinstance(event, netlink.NeighbourChange)
        and event.neighbour.address == address
        and event.neighbour.valid
        and not event.gone
    )


def vip(*numbers: int, port: int = 80) -> dict[str, object]:
    """A VIP with these servers, web1 and so on."""
    servers = [
        {"name": f"web{number}", "address": str(address_of(number)), "port": 8080} for number in numbers
    ]
    return {"name": f"vip{port}", "address": str(VIP), "port": port, "servers": servers}


def pool(tables: Tables, index: int = 0) -> tuple[int, ...]:
    """The ids of the servers that take new connections of a VIP."""
    (number,) = (row["pool"] for row in tables.vips.values() if row["index"] == index)
    return tables.pools.get(number, Pool()).ids


@contextmanager
def room(directory: Path) -> Iterator[Room]:
    """Two fresh machines."""
    with living_here() as machines:
        yield Room(machines.here, machines.peer, machines.pins, directory / "servers.json")
