# SPDX-License-Identifier: Apache-2.0
"""A controller with real tables, in one of two machines; servers are addresses of the other one."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from poise.config import Config
from poise.kernel import netlink
from poise.servers.apply import DataPlane, Limits
from poise.servers.contents import read
from poise.servers.control import Controller, Revised
from poise.servers.events import Events
from poise.servers.model import Address
from poise.servers.reach import Reach
from poise.servers.store import Store
from poise.servers.tables import Present, Write
from poise.servers.view import View
from poise.servers.wanted import Wishes
from tests.kernel.two_machines import TwoMachines, living_here, seen

KEY = bytes(range(16))
VIP = IPv4Address("192.0.2.10")


def address_of(number: int) -> IPv4Address:
    """Server 1 is at 10.1.0.11, ..."""
    return IPv4Address("10.1.0.10") + number


class RecordedPlane(DataPlane):
    """The real tables; it is remembered what was written into them."""

    def __init__(self, pins: Path) -> None:
        super().__init__(pins, Limits(1024, vip_limit=16), bytes(6))
        self.written: list[Write] = []

    def write(self, plan: Iterable[Write]) -> None:
        """Carry out the steps, and remember them."""
        steps = list(plan)
        self.written += steps
        super().write(steps)


class Room:
    """What a test of the controller needs; this thread lives in `here`."""

    def __init__(self, machines: TwoMachines, path: Path) -> None:
        self.here, self.peer, self.pins = machines.here, machines.peer, machines.pins
        self.path = path
        self._wishes = Wishes()
        self._open = ExitStack()

    def config(self, *vips: dict[str, object], **more: object) -> Config:
        """A configuration of these VIPs."""
        return Config.model_validate({"interfaces": ["eth0"], "vips": list(vips), **more})

    def start(self, config: Config) -> tuple[Controller, RecordedPlane]:
        """A controller as at a start of the daemon, its tables applied; an earlier one has ended."""
        self.end()
        plane = RecordedPlane(self.pins)
        self._open.callback(plane.close)
        store = self._open.enter_context(Store(self.path))
        events = Events()
        reach = Reach({netlink.interface("eth0").index: ()}, plane.present.hops(), events)
        controller = Controller(plane, store, reach, events, KEY)
        self.read(controller, config)
        return controller, plane

    def read(self, controller: Controller, config: Config) -> Revised:
        """Have a controller do as this configuration says."""
        return controller.read(self._wishes.read(config), direct=config.direct, rest=config.id_rest)

    def end(self) -> None:
        """End the process, so to speak: what is pinned and saved stays."""
        self._open.close()

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


def contents(plane: DataPlane) -> Present:
    """What the kernel's tables hold, read afresh."""
    return read(plane._maps)  # noqa: SLF001  not what the plane believes


def pool(plane: DataPlane, index: int = 0) -> tuple[int, ...]:
    """The ids of the servers that take new connections of a VIP, as the kernel's tables have it."""
    found = contents(plane).pool_of(index)
    return found.ids if found else ()


def shown(controller: Controller, key: str) -> dict[object, object]:
    """What is shown of each server under a key, by name."""
    return {server["name"]: server[key] for server in View(controller).servers()}


@contextmanager
def room(directory: Path) -> Iterator[Room]:
    """Two fresh machines."""
    with living_here() as machines:
        found = Room(machines, directory / "servers.db")
        try:
            yield found
        finally:
            found.end()
