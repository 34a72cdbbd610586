# SPDX-License-Identifier: Apache-2.0
"""The agent's process: measure, serve, and end on SIGTERM or SIGINT."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from poise.agent.measure import Meter
from poise.agent.probe import Probe
from poise.agent.serve import Load, Server
from poise.agent.sockets import Address, established
from poise.endpoints import read_end, write_end
from poise.errors import PoiseError

_COUNTED_FOR: Final = 0.1  # seconds that a count of connections is told again
_OF_OTHERS: Final = 0o077


def main(
    listen: str = "127.0.0.1:9110",
    service: str | None = None,
    probe: str | None = None,
    token_file: Path | None = None,
) -> None:
    """Serve GET /load and GET /metrics at `listen` until SIGTERM or SIGINT; says on stderr when it does.

    listen, service: ADDRESS:PORT, of IPv6 [ADDRESS]:PORT. service: whose established connections are counted.
    probe: URL whose answers are timed. token_file: holds what callers must send as a bearer token. Raises
    PoiseError.
    """
    address, port = _end("--listen", listen, least=0)
    counter = _Counter(*_end("--service", service)) if service else None
    prober = Probe(probe) if probe else None
    token = _token(token_file) if token_file else None
    meter = Meter()

    def load() -> Load:
        return {
            "cpu": round(meter.cpu, 4),
            "run_queue": round(meter.run_queue, 4),
            "in_flight": counter.count() if counter else None,
            "latency_ms": prober.latency if prober else None,
        }

    with _listening(address, port, load, token) as server:
        stop = threading.Event()
        for run in (meter.run, *((prober.run,) if prober else ())):
            threading.Thread(target=run, args=(stop,), daemon=True).start()
        with _ended_by_signals(server):
            at = write_end(address, server.server_address[1])
            print(f"poise agent: serving http://{at}/load", file=sys.stderr, flush=True)  # noqa: T201
            server.serve_forever(poll_interval=0.2)
        stop.set()


def _end(option: str, text: str, least: int = 1) -> tuple[Address, int]:
    try:
        address, port = read_end(text)
    except ValueError as error:
        raise PoiseError(f"{option} {text}: {error}; write ADDRESS:PORT, of IPv6 [ADDRESS]:PORT") from None
    if not least <= port <= 65535:
        raise PoiseError(f"{option} {text}: a port is a number from {least} to 65535")
    return address, port


def _token(path: Path) -> str:
    """Return the token in a file that nobody else may read."""
    try:
        with path.open() as file:
            if os.fstat(file.fileno()).st_mode & _OF_OTHERS:
                raise PoiseError(f"{path} holds a token that others may read: chmod 600 {path}")
            token = file.read(4097).strip()
    except UnicodeDecodeError:
        raise PoiseError(f"{path} holds no token: it is not text") from None
    except OSError as error:
        raise PoiseError(f"{path} cannot be read: {error.strerror}") from None
    if not token or len(token) > 4096 or not token.isprintable() or " " in token:
        raise PoiseError(f"{path} holds no token: write one word into it, of at most 4,096 characters")
    return token


class _Counter:
    """Counts established connections, though not for each of many askers."""

    def __init__(self, address: Address, port: int) -> None:
        self._end = (address, port)
        self._lock = threading.Lock()
        self._at, self._count = 0.0, established(address, port)

    def count(self) -> int:
        with self._lock:
            if time.monotonic() - self._at > _COUNTED_FOR:
                self._count, self._at = established(*self._end), time.monotonic()
            return self._count


@contextmanager
def _listening(address: Address, port: int, load: Callable[[], Load], token: str | None) -> Iterator[Server]:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        server = Server((str(address), port), family, load, token)
    except OSError as error:
        where = write_end(address, port)
        raise PoiseError(f"the agent cannot listen at {where}: {error.strerror}") from None
    with server:
        yield server


@contextmanager
def _ended_by_signals(server: Server) -> Iterator[None]:
    def end(*_: object) -> None:
        # shutdown() waits for serve_forever(), which this very thread runs
        threading.Thread(target=server.shutdown).start()

    former = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
