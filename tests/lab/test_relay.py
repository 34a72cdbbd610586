# SPDX-License-Identifier: Apache-2.0
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from poise.lab.bulk import download
from poise.lab.network import ServersLab
from poise.lab.relay import Direction

DELAY = 0.05


@contextmanager
def wire(delay: float, limit: int | None) -> Iterator[tuple[socket.socket, socket.socket, Direction]]:
    """A direction with a socket pair in place of each device: packet in, packet out."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    near, source = socket.socketpair(socket.AF_UNIX, kind)
    sink, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, source, sink, far:
        yield near, far, Direction(source.fileno(), sink.fileno(), delay, limit)


def test_packets_come_out_in_order_and_not_before_their_time() -> None:
    """A wire delays every packet by its delay and never reorders."""
    packets = [b"%d" % number for number in range(50)]
    received: list[bytes] = []
    with wire(DELAY, None) as (near, far, direction):
        start = time.monotonic()
        for packet in packets:
            near.send(packet)
        direction.take()
        direction.give()
        with pytest.raises(BlockingIOError):
            far.recv(100)
        while due := direction.due:
            assert due >= start + DELAY
            time.sleep(max(0.0, due - time.monotonic()))
            direction.give()
        assert time.monotonic() - start >= DELAY
        received.extend(far.recv(100) for _ in packets)
    assert received == packets


def test_what_exceeds_the_queue_is_lost() -> None:
    """A wire with a limit carries no more octets at once than that."""
    with wire(0, 250) as (near, far, direction):
        for number in range(5):
            near.send(b"%d" % number * 100)
        direction.take()
        direction.give()
        assert [far.recv(200)[:1] for _ in range(2)] == [b"0", b"1"]
        with pytest.raises(BlockingIOError):
            far.recv(200)
        near.send(b"5")
        direction.take()
        direction.give()
        assert far.recv(200) == b"5"


@pytest.mark.root
def test_a_far_client_sees_the_round_trip_that_was_asked_for() -> None:
    """The kernel's own smallest round trip over the wire is twice the delay, with at most a few ms on top."""
    with ServersLab(1, clients=0) as lab:
        far = lab.add_far_client(DELAY)
        times = []
        for _ in range(5):
            start = time.monotonic()
            with far.enter():
                socket.create_connection((str(lab.servers[0].address), 80), timeout=5).close()
            times.append(time.monotonic() - start)
        assert 2 * DELAY <= min(times) < 2 * DELAY + 0.02


@pytest.mark.root
def test_a_transfer_over_the_wire_arrives_whole() -> None:
    """Large segments cross the wire undamaged: the kernel verifies every checksum behind it."""
    with ServersLab(1, clients=0, files={"some": 20_000_000}) as lab:
        far = lab.add_far_client(0.005)
        assert download(far, lab.servers[0].address, 80, "some").octets == 20_000_000
        counters = far.counters()
        assert counters["TcpInCsumErrors"] == 0
