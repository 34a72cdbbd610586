# SPDX-License-Identifier: Apache-2.0
"""Two machines on one link, and the test living in one of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager

import anyio

from poise.kernel.watch import Event, Overrun, watch
from poise.lab.namespaces import Lab, Namespace


class TwoMachines(Lab):
    """`here` is 10.1.0.1/24 on its eth0, `peer` 10.1.0.2/24 on its own."""

    def build(self) -> None:
        """Make both machines and join them."""
        self.here = self.namespace("here")
        self.peer = self.namespace("peer")
        self.link(self.here, "eth0", self.peer, "eth0")
        self.here.ip("address add 10.1.0.1/24 dev eth0")
        self.peer.ip("address add 10.1.0.2/24 dev eth0")


@contextmanager
def living_here() -> Iterator[TwoMachines]:
    """Let this thread live in the first of two fresh machines."""
    with TwoMachines() as machines, machines.here.enter():
        yield machines


def mac_of(machine: Namespace, interface: str = "eth0") -> bytes:
    """The MAC of an interface, as iproute2 has it."""
    (link,) = json.loads(machine.run(["ip", "-json", "link", "show", interface]))
    return bytes.fromhex(link["address"].replace(":", ""))


def neighbours_of(machine: Namespace) -> str:
    """The machine's neighbour entries with their flags, as iproute2 prints them."""
    return machine.run(["ip", "-details", "-4", "neighbour", "show"])


def seen(act: Callable[[], object], wanted: Callable[[Event], bool], seconds: float = 20) -> Event:
    """The first wanted event that `watch` tells of after `act`; raises TimeoutError if there is none."""

    async def look() -> Event:
        with anyio.fail_after(seconds):
            async with aclosing(watch()) as events:
                assert await anext(events) == Overrun()
                act()
                async for event in events:
                    if wanted(event):
                        return event
        raise AssertionError("watch() ended by itself")

    return anyio.run(look)
