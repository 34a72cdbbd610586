# SPDX-License-Identifier: Apache-2.0
"""Steady traffic of a lab's clients, counted at their own sockets by programs in the clients' namespaces."""

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from poise.lab.addresses import IPAddress
from poise.lab.long_lived import LongLivedCounts
from poise.lab.namespaces import LabError, Namespace, end, python
from poise.lab.short_requests import ShortRequestsCounts

Counts = TypeVar("Counts")


class Traffic(Generic[Counts]):
    """A traffic program that runs until it is told to finish; its counts can be read all the while."""

    def __init__(
        self, namespace: Namespace, counts: Callable[..., Counts], module: str, *arguments: object
    ) -> None:
        self._kind = counts
        self._counts = counts()
        self._final = False
        self._ended = False
        self._said = ""
        self._news = threading.Condition()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # the reader closes it
        self._process = namespace.popen(
            python(module, *map(str, arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def counts(self) -> Counts:
        """What it told last, a quarter of a second old at most."""
        with self._news:
            return self._counts

    def wait_until(self, enough: Callable[[Counts], bool], timeout: float) -> Counts:
        """Wait until its counts are enough and return them; raises LabError after `timeout` seconds."""
        with self._news:
            in_time = self._news.wait_for(lambda: self._ended or enough(self._counts), timeout)
            if enough(self._counts):
                return self._counts
        why = f"it ended: {self._said}" if in_time else f"{timeout:g} s passed"
        raise LabError(f"the lab's traffic did not come to what was awaited, since {why} ({self._counts})")

    def finish(self, timeout: float = 30) -> Counts:
        """Have it end: nothing new is asked, missing answers are awaited. Returns the final counts."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with self._news:
            in_time = self._news.wait_for(lambda: self._ended, timeout)
        end(self._process)
        self._reader.join()
        if not self._final:
            why = self._said if in_time else f"it still awaited answers after {timeout:g} s"
            raise LabError(f"the lab's traffic did not finish: {why}")
        return self._counts

    def _read(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as lines:
                for line in lines:
                    told = json.loads(line)
                    with self._news:
                        self._counts = self._kind(**told["counts"])
                        self._final = told["final"]
                        self._news.notify_all()
        with self._news, self._errors:
            self._errors.seek(0)
            self._said = self._errors.read().strip() or "it gave no reason"
            self._ended = True
            self._news.notify_all()


def long_lived(
    namespace: Namespace,
    address: IPAddress,
    port: int,
    *,
    connections: int,
    interval: float = 1.0,
    rate: float = 1000.0,
    timeout: float = 5.0,
) -> Traffic[LongLivedCounts]:
    """Open keep-alive connections, `rate` a second, each of which asks once per `interval` seconds."""
    return Traffic(
        namespace,
        LongLivedCounts,
        "poise.lab.long_lived",
        *(address, port, "--connections", connections, "--interval", interval),
        *("--rate", rate, "--timeout", timeout),
    )


def short_requests(
    namespace: Namespace, address: IPAddress, port: int, *, rate: float, timeout: float = 5.0
) -> Traffic[ShortRequestsCounts]:
    """Send `rate` requests a second, each on a connection of its own."""
    return Traffic(
        namespace,
        ShortRequestsCounts,
        "poise.lab.short_requests",
        *(address, port, "--rate", rate, "--timeout", timeout),
    )
