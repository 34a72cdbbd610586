# SPDX-License-Identifier: Apache-2.0
"""Servers come and go under 2,000 open connections: with poise, and with a plain hash in its place."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

from poise.cli.output import Output, print_table, show
from poise.demo.narrator import Narrator
from poise.errors import PoiseError
from poise.lab.balancer import Balancer
from poise.lab.long_lived import LongLivedCounts
from poise.lab.network import ServersLab
from poise.lab.short_requests import ShortRequestsCounts
from poise.lab.traffic import Traffic, long_lived, short_requests

SERVERS = 8
FIRST_SERVERS = 6
CONNECTIONS = 2000
SHORT_REQUESTS = 300  # a second
OPEN_WITHIN = 20.0  # seconds
PAUSE = 2.0  # seconds after each step; each connection asks once a second
GLANCE = 0.25  # seconds between two updates of what is shown

Step = tuple[str, Callable[[Balancer, ServersLab], Any]]


def _add(name: str) -> Callable[[Balancer, ServersLab], Any]:
    def step(balancer: Balancer, lab: ServersLab) -> None:
        server = lab.server(name)
        balancer.client.add(server.address, server.port, name=name)

    return step


STEPS: tuple[Step, ...] = (
    ("web7 is added", _add("web7")),
    ("web8 is added", _add("web8")),
    ("web2 is drained", lambda balancer, _: balancer.client.drain("web2")),
    ("web3 is removed", lambda balancer, _: balancer.client.remove("web3")),
    ("web2 is removed", lambda balancer, _: balancer.client.remove("web2")),
    ("web3 is back", _add("web3")),
)


@dataclass(frozen=True)
class Outcome:
    """What the clients of one round saw."""

    long_lived: LongLivedCounts
    short: ShortRequestsCounts

    def numbers(self) -> dict[str, float]:
        """For programs."""
        return {
            "opened": self.long_lived.opened,
            "broken": self.long_lived.broken,
            "requests": self.short.served,
            "failed_requests": self.short.failed,
            "p99_ms": round(self.short.p99_ms, 2),
        }


def main(output: Output) -> int:
    """Run the demo and return the exit code, 130 after Ctrl-C.

    Raises PoiseError if it cannot run, or if poise broke a connection.
    """
    try:
        with Narrator(stderr=output != "table") as narrator:
            poise, plain = _both_rounds(narrator)
    except KeyboardInterrupt:
        return 130
    report(output, poise, plain)
    return 0


def report(output: Output, poise: Outcome, plain: Outcome) -> None:
    """Print both outcomes; raises PoiseError if poise broke a connection."""
    numbers = {"poise": poise.numbers(), "hash": plain.numbers()}
    show(output, numbers, lambda: _print(poise, plain))
    if poise.long_lived.broken:
        raise PoiseError(
            f"poise broke {poise.long_lived.broken} of {poise.long_lived.opened} connections: "
            f"{_reasons(poise.long_lived.reasons)}"
        )


def _both_rounds(narrator: Narrator) -> tuple[Outcome, Outcome]:
    if shutil.which("nginx") is None:
        raise PoiseError("the demo needs nginx: install it, on Debian with `apt-get install nginx-light`")
    with ServersLab(SERVERS, clients=2) as lab:
        narrator.say(
            f"{SERVERS} nginx servers, a balancer and its clients run on this machine, each in a network "
            f"namespace of its own. {CONNECTIONS:,} connections stay open and ask once a second, and "
            f"{SHORT_REQUESTS} requests a second use new ones, while servers are added, drained and removed."
        )
        narrator.title("1. poise: a cookie in each connection's own packets names its server")
        poise = _round(lab, "stateless", narrator)
        narrator.title("2. For comparison: the same program, but it picks servers by a plain hash")
        return poise, _round(lab, "cookieless", narrator)


def _round(lab: ServersLab, mode: str, narrator: Narrator) -> Outcome:
    balancer = lab.start_balancer(lab.servers[:FIRST_SERVERS], mode=mode)
    connections = long_lived(lab.clients[0], lab.vip, lab.port, connections=CONNECTIONS)
    requests = short_requests(lab.clients[1], lab.vip, lab.port, rate=SHORT_REQUESTS)
    start = time.monotonic()
    connections.wait_until(lambda counts: counts.opened >= CONNECTIONS, OPEN_WITHIN)
    narrator.say(f"   {_clock(start)}  {CONNECTIONS:,} connections are open on web1 to web{FIRST_SERVERS}")
    _watch(narrator, connections, requests)
    for what, step in STEPS:
        broken, failed = connections.counts.broken, requests.counts.failed
        step(balancer, lab)
        when = _clock(start)
        _watch(narrator, connections, requests)
        breaks = _count(connections.counts.broken - broken, "connection", "breaks")
        fails = _count(requests.counts.failed - failed, "request", "fails")
        narrator.say(f"   {when}  {what}: {breaks}, {fails}")
    outcome = Outcome(connections.finish(), requests.finish())
    balancer.undo()
    return outcome


def _watch(
    narrator: Narrator, connections: Traffic[LongLivedCounts], requests: Traffic[ShortRequestsCounts]
) -> None:
    until = time.monotonic() + PAUSE
    while time.monotonic() < until:
        long, short = connections.counts, requests.counts
        narrator.show(
            f"{long.opened - long.broken:,} connections open, [red]{long.broken:,} broken[/red], "
            f"{short.served:,} short requests served, {short.failed:,} failed"
        )
        time.sleep(GLANCE)


def _clock(start: float) -> str:
    return f"{time.monotonic() - start:4.1f} s"


def _count(number: int, noun: str, verb: str) -> str:
    match number:
        case 0:
            return f"no {noun} {verb}"
        case 1:
            return f"1 {noun} {verb}"
        case _:
            return f"{number:,} {noun}s {verb.removesuffix('s')}"


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))


def _print(poise: Outcome, plain: Outcome) -> None:
    rows = [
        {
            "servers picked by": name,
            "connections opened": outcome.long_lived.opened,
            "broken": outcome.long_lived.broken,
            "short requests served": outcome.short.served,
            "failed": outcome.short.failed,
            "p99 in ms": outcome.short.p99_ms,
        }
        for name, outcome in (("poise", poise), ("a plain hash", plain))
    ]
    print_table(list(rows[0]), rows)
    if plain.long_lived.broken:
        reasons = _reasons(plain.long_lived.reasons)
        typer.echo(
            f"\nWhat broke with the plain hash: {reasons}. Everything was counted at the clients' sockets."
        )
