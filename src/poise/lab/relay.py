# SPDX-License-Identifier: Apache-2.0
"""A long wire: a program that carries IP packets between two namespaces and delays them.

It owns one TUN device in each of the two namespaces. Packets keep their order, and each direction has its own
queue. With IFF_VNET_HDR the kernel hands over up to 64 KB of one TCP stream at once and cuts it into frames
behind the relay, where a device cannot do so itself; without it, Python would be the bottleneck.
"""

import argparse
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from poise.lab.addresses import IPInterface, adding
from poise.lab.namespaces import LabError, Namespace, entered, python

DEVICE = "wan"
# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 0x01, 0x02, 0x04
_LARGEST = 65536 + 10  # an IP packet and the virtio-net header before it
_BATCH = 64


class Direction:
    """The packets on their way from one TUN device to the other."""

    def __init__(self, source: int, sink: int, delay: float, limit: int | None) -> None:
        self._source = source
        self._sink = sink
        self._delay = delay
        self._limit = limit  # octets
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0

    @property
    def due(self) -> float | None:
        """When the next packet is due on the clock of time.monotonic, None if there is none."""
        return self._queue[0][0] if self._queue else None

    def take(self) -> None:
        """Take what the source has, at most a batch; drop what does not fit into the queue."""
        for _ in range(_BATCH):
            try:
                packet = os.read(self._source, _LARGEST)
            except BlockingIOError:
                return
            if self._limit is None or self._queued + len(packet) <= self._limit:
                self._queue.append((time.monotonic() + self._delay, packet))
                self._queued += len(packet)

    def give(self) -> None:
        """Send on all packets that are due."""
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            packet = self._queue.popleft()[1]
            self._queued -= len(packet)
            with suppress(OSError):  # as on any wire, what the other end cannot take is lost
                os.write(self._sink, packet)


def carry(a: int, b: int, delay: float, limit: int | None) -> None:
    """Carry packets between two TUN devices until stdin ends."""
    directions = {a: Direction(a, b, delay, limit), b: Direction(b, a, delay, limit)}
    stdin = sys.stdin.fileno()
    while True:
        dues = [direction.due for direction in directions.values() if direction.due is not None]
        # select, not epoll: it waits by the microsecond.
        ready = select.select(
            [a, b, stdin], (), (), max(0.0, min(dues) - time.monotonic()) if dues else None
        )[0]
        if stdin in ready:
            return
        for fd, direction in directions.items():
            if fd in ready:
                direction.take()
            direction.give()


def attach(namespace: Path) -> int:
    """Open the TUN device `wan` of a namespace, non-blocking."""
    with entered(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), flags))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6)
    return fd


def join(
    a: tuple[Namespace, IPInterface],
    b: tuple[Namespace, IPInterface],
    *,
    delay: float,
    limit: int | None = None,
) -> None:
    """Join two namespaces by a wire with a one-way `delay` in seconds; each gets a device `wan` as its end.

    `limit`: octets that may be under way in each direction, what exceeds it is lost; None: no limit.
    """
    for namespace, address in (a, b):
        namespace.ip(
            f"tuntap add dev {DEVICE} mode tun vnet_hdr",
            adding(address, DEVICE),
            # Else a burst of TCP's slow start overflows the queue before the relay comes to read it.
            f"link set {DEVICE} txqueuelen 20000 up",
        )
    argv = python("poise.lab.relay", str(a[0].path), str(b[0].path), str(delay), str(limit or 0))
    process = a[0].popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if process.stdout is not None:
        with process.stdout as ready:
            if not ready.readline():
                raise LabError(f"the relay between {a[0].name} and {b[0].name} did not start")


def main() -> None:
    """Read the command line, then carry."""
    parser = argparse.ArgumentParser(description="Carry IP packets between two namespaces, with a delay.")
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("delay", type=float, help="seconds, one way")
    parser.add_argument("limit", type=int, help="octets under way in a direction, 0 for any number")
    given = parser.parse_args()
    ends = attach(given.a), attach(given.b)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry(*ends, given.delay, given.limit or None)


if __name__ == "__main__":
    main()
