# SPDX-License-Identifier: Apache-2.0
"""How fast one client address can open connection after connection, and whether that rate lasts."""

import re
import signal
import subprocess
import time
from dataclasses import dataclass

from poise.lab.addresses import IPAddress, in_url
from poise.lab.namespaces import LabError, Namespace, end

_COUNTER = "TcpActiveOpens"
_PERIOD = 0.02  # seconds between two looks at the counter
_ERRORS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_STATUS_ERRORS = re.compile(r"Non-2xx or 3xx responses: (\d+)")


@dataclass(frozen=True)
class ConnectionRate:
    """Connections a second in each step, and what wrk could not complete.

    `timeouts` are requests that took over 2 s, among them those whose SYN had to be sent again.
    """

    rates: tuple[float, ...]
    requests: int
    connect_errors: int
    read_errors: int
    write_errors: int
    timeouts: int
    status_errors: int


def connection_rate(
    namespace: Namespace,
    address: IPAddress,
    port: int,
    *,
    total: int = 500_000,
    step: int = 100_000,
    parallel: int = 64,
    timeout: float = 300,
) -> ConnectionRate:
    """Send one request on each of `total` new connections, `parallel` at a time, as fast as wrk can.

    The kernel counts the connections (TcpActiveOpens of the client's namespace, which is to have no other
    traffic). Raises LabError if they take longer than `timeout` seconds.
    """
    process = namespace.popen(
        [
            *("wrk", "--threads", "2", "--connections", str(parallel), "--duration", f"{timeout:.0f}s"),
            *("--header", "Connection: close", f"http://{in_url(address)}:{port}/"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    start = now = time.monotonic()
    before = namespace.counters()[_COUNTER]
    rates: list[float] = []
    opened, step_opened, step_start = 0, 0, start
    while opened < total:
        if now - start > timeout or _ended_within(process, _PERIOD):
            break
        now = time.monotonic()
        opened = namespace.counters()[_COUNTER] - before
        if opened >= step * (len(rates) + 1):
            rates.append((opened - step_opened) / (now - step_start))
            step_opened, step_start = opened, now
    process.send_signal(signal.SIGINT)  # wrk then sums up
    said = process.communicate(timeout=10)[0]
    end(process)
    if opened < total:
        raise LabError(f"only {opened} of {total} connections in {now - start:.0f} s; wrk says: {said}")
    requests = re.search(r"(\d+) requests in", said)
    if requests is None:
        raise LabError(f"wrk did not sum up: {said}")
    errors = _ERRORS.search(said)
    connect, read, write, late = map(int, errors.groups()) if errors else (0, 0, 0, 0)
    status = _STATUS_ERRORS.search(said)
    return ConnectionRate(
        rates=tuple(rates),
        requests=int(requests[1]),
        connect_errors=connect,
        read_errors=read,
        write_errors=write,
        timeouts=late,
        status_errors=int(status[1]) if status else 0,
    )


def _ended_within(process: "subprocess.Popen[str]", seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
