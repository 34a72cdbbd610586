# SPDX-License-Identifier: Apache-2.0
"""A transfer through poise is as fast as over the same path where the kernel forwards instead.

Both ends send at the rate of a link, as hosts do. Without one, a transfer between namespaces is as fast as
the processors copy, and XDP on a veth copies each packet once more, which XDP on a NIC does not: there the
path without poise has an XDP program too, which only passes packets on. See
docs/decisions/007-goodput-over-links-of-a-rate.md.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from poise.lab import bulk, faults, relay
from poise.lab.addresses import IPAddress
from poise.lab.namespaces import Namespace
from poise.lab.network import ServersLab
from poise.lab.xdp_pass import pass_everything

pytestmark = [pytest.mark.root, pytest.mark.slow]

RUNS = 9  # of each path, in turn; single ones on a lossy path vary by a factor of two
SERIES = 3  # what poise costs, it costs in each of them; what others do on the machine, it does not
KEPT = 0.95
ONE_WAY = 0.020  # seconds
LOSS = 0.01
RATE = 500  # Mbit/s
SLOW_RATE = 200  # what the relay, written in Python, carries with ease, and what losses leave of a link
FILE = "large"

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Path:
    """From a client to a server, with poise between or without."""

    client: Namespace
    address: IPAddress
    port: int
    octets: int


def _pace(lab: ServersLab, client: Namespace, device: str, rate: int) -> Namespace:
    """Give both ends of the path the queue and the rate of a link; returns the client."""
    (server,) = lab.servers
    for host, its in ((client, device), (server.namespace, "eth0")):
        limit = ["rate", f"{rate}mbit", "burst", "64kb", "latency", "50ms"]
        host.run(["tc", "qdisc", "add", "dev", its, "root", "tbf", *limit])
    return client


def _near(_: ExitStack, lab: ServersLab) -> Namespace:
    return _pace(lab, lab.clients[0], "eth0", RATE)


def _lossy(stack: ExitStack, lab: ServersLab) -> Namespace:
    (server,) = lab.servers
    stack.enter_context(faults.drop_random(lab.clients[0], LOSS, f"tcp sport {lab.port}"))
    stack.enter_context(faults.drop_random(server.namespace, LOSS, f"tcp dport {server.port}"))
    return _pace(lab, lab.clients[0], "eth0", SLOW_RATE)


def _far(_: ExitStack, lab: ServersLab) -> Namespace:
    return _pace(lab, lab.add_far_client(ONE_WAY), relay.DEVICE, SLOW_RATE)


def _no_rate(_: ExitStack, lab: ServersLab) -> Namespace:
    """Only a queue, which holds a sender back where a veth would discard what exceeds its ring."""
    (client,), (server,) = lab.clients, lab.servers
    for host in (client, server.namespace):
        host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "pfifo", "limit", "1000"])
    return client


WIRES = {"no loss": (_near, 100), "1 % loss": (_lossy, 50), "40 ms": (_far, 50), "no rate": (_no_rate, 200)}


@pytest.fixture(params=list(WIRES.values()), ids=list(WIRES))
def paths(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """The same network twice: in the first the kernel forwards, in the second poise does."""
    wire, megabytes = request.param
    octets = megabytes * MEGABYTE
    with ExitStack() as stack:
        without, balanced = (
            stack.enter_context(ServersLab(1, clients=1, files={FILE: octets})) for _ in range(2)
        )
        clients = [wire(stack, lab) for lab in (without, balanced)]
        if wire is _no_rate:
            for interface in ("clients", "servers"):
                pass_everything(without.router, interface)
        balanced.start_balancer()
        (server,) = without.servers
        yield (
            Path(clients[0], server.address, server.port, octets),
            Path(clients[1], balanced.vip, balanced.port, octets),
        )


def _download(path: Path) -> bulk.Goodput:
    return bulk.download(path.client, path.address, path.port, FILE)


def _upload(path: Path) -> bulk.Goodput:
    return bulk.upload(path.client, path.address, path.port, path.octets)


@pytest.mark.parametrize("transfer", [_download, _upload], ids=["download", "upload"])
def test_a_transfer_is_as_fast_as_without_poise(
    paths: tuple[Path, Path], transfer: Callable[[Path], bulk.Goodput]
) -> None:
    """The median goodput through poise is at least 95 % of that of the same path without it."""
    medians = []
    for _ in range(SERIES):
        runs = [[transfer(path).mbit_per_s for path in paths] for _ in range(RUNS)]
        without, balanced = (statistics.median(path) for path in zip(*runs, strict=True))
        medians.append(f"{balanced:.0f} Mbit/s with poise, {without:.0f} without")
        if balanced >= KEPT * without:
            break
    else:
        pytest.fail("; ".join(medians))
    print(medians[-1])  # noqa: T201  for `pytest -rP`
