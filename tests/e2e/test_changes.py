# SPDX-License-Identifier: Apache-2.0
"""Servers come and go by command while connection after connection is placed."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Final, Literal

import pytest

from poise.lab.balancer import Balancer
from poise.lab.namespaces import end
from poise.lab.network import ServersLab
from poise.lab.nginx import Nginx
from tests.e2e.configuring import reconfigure
from tests.e2e.counters import placed
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.root

SERVERS = 5
AFTER_EACH = 100  # new connections, before the next change
LEAST_READY = 2
WITHIN = 60.0  # seconds, of what takes some hundredths where nothing else runs

POLICIES: Final = ("round-robin", "maglev", "power-of-two", "least-loaded")
QUIET: Final = ("drain", "maint", "remove")  # changes after which open connections go on

Change = Literal["drain", "maint", "ready", "remove", "add", "cut"]


@contextmanager
def flood(lab: ServersLab) -> Iterator[None]:
    """Open connection after connection, each for one request, a few at a time."""
    process = lab.clients[0].popen(
        [
            *("wrk", "--threads", "1", "--connections", "2", "--duration", "1h"),
            *("--header", "Connection: close", f"http://{lab.vip}:{lab.port}/"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        end(process)


class Operator:
    """Changes the servers at random, though never so that fewer than a few are ready.

    out: how many connections each server had when the command that took it out returned. made: what kinds
    of changes there were.
    """

    def __init__(self, lab: ServersLab, balancer: Balancer, changes: tuple[Change, ...]) -> None:
        """Make these changes, and those that take them back."""
        self.out: dict[str, int] = {}
        self.made: set[Change] = set()
        self._client = balancer.client
        self._servers = lab.servers
        self._changes = changes
        self._removed: set[str] = set()
        self._random = Random(0)  # noqa: S311  the same changes in each run

    def change(self) -> None:
        """Make one change; returns when its command does."""
        ready = [server for server in self._servers if server.name not in self.out]
        gone = [server for server in self._servers if server.name in self.out]
        if gone and (len(ready) <= LEAST_READY or self._random.random() < len(gone) / SERVERS):
            self._bring_back(self._random.choice(gone))
        else:
            self._take_out(self._random.choice(ready), self._random.choice(self._changes))

    def _take_out(self, server: Nginx, change: Change) -> None:
        if change == "drain" or change == "maint":  # noqa: PLR1714  which mypy does not follow
            told = self._client.set_state(server.name, change)
        else:
            told = self._client.remove(server.name, now=change == "cut")
            self._removed.add(server.name)
        self.out[server.name] = told["connections"]
        self.made.add(change)

    def _bring_back(self, server: Nginx) -> None:
        # From the moment that the command is given it may get connections.
        del self.out[server.name]
        if server.name in self._removed:
            self._removed.discard(server.name)
            self._client.add(server.address, server.port)
            self.made.add("add")
        else:
            self._client.set_state(server.name, "ready")
            self.made.add("ready")


def misplaced(balancer: Balancer, out: dict[str, int]) -> dict[str, int]:
    """Wait for some new connections, and return how many of them servers got that are out."""
    counts = placed(balancer)
    enough = sum(counts.values()) + AFTER_EACH

    def are_enough() -> bool:
        nonlocal counts
        counts = placed(balancer)
        return sum(counts.values()) >= enough

    wait_until(are_enough, WITHIN)
    return {name: counts[name] - before for name, before in out.items() if counts[name] != before}


@pytest.mark.parametrize(
    ("mode", "policies", "changes", "number"),
    [
        ("stateless", POLICIES, QUIET, 40),
        pytest.param("stateless", POLICIES, QUIET, 100, marks=pytest.mark.slow),
        *(
            pytest.param("stateless", (policy,), QUIET, 100, marks=pytest.mark.slow)
            for policy in ("weighted-round-robin", "maglev", "power-of-two", "least-loaded")
        ),
        pytest.param(
            "stateful", ("round-robin", "least-loaded"), (*QUIET, "cut"), 100, marks=pytest.mark.slow
        ),
    ],
)
def test_no_connection_goes_to_a_server_once_it_is_out(
    mode: str, policies: tuple[str, ...], changes: tuple[Change, ...], number: int
) -> None:
    """When a command that drains or removes a server has returned, not one new connection goes there.

    Whatever the policy, also when poise.yaml is read again meanwhile.
    """
    with ServersLab(SERVERS, clients=1) as lab:
        balancer = lab.start_balancer(mode=mode, policy=policies[0])
        operator = Operator(lab, balancer, changes)
        with flood(lab):
            for policy in policies:
                reconfigure(balancer, vips=[lab.vip_settings(mode=mode, policy=policy)])
                balancer.client.reload()
                for _ in range(number // len(policies)):
                    operator.change()
                    assert misplaced(balancer, operator.out) == {}
        assert operator.made == {*changes, "ready", "add"}
        counts = placed(balancer)
        assert sum(counts.values()) >= number * AFTER_EACH
        assert min(counts.values()) > 0
