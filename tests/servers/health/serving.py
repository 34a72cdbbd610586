# SPDX-License-Identifier: Apache-2.0
"""Servers for health checks, good and bad: real sockets on the loopback interface, one thread each."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

from poise.servers.care import Check
from poise.servers.health.checks import check_once
from poise.servers.health.judge import Result
from poise.servers.health.target import Target

Behaviour = Callable[[socket.socket], None]


@contextmanager
def serving(behave: Behaviour, address: str = "127.0.0.1") -> Iterator[Target]:
    """Take connections one after another, and do with each as told, until the client or the test is done."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        with _thread(listener, lambda: _take(listener, behave)):
            yield target(listener.getsockname()[1], address)


@contextmanager
def answering(answer: Callable[[bytes], list[bytes]], port: int = 0) -> Iterator[Target]:
    """Answer each datagram with so many, until the test is done."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as served:
        served.bind(("127.0.0.1", port))

        def serve() -> None:
            while True:
                question, client = served.recvfrom(65_535)
                if not client:
                    return
                for said in answer(question):
                    served.sendto(said, client)

        with _thread(served, serve):
            yield target(served.getsockname()[1])


def refusing() -> Target:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return target(taken.getsockname()[1])


def target(port: int, address: str = "127.0.0.1") -> Target:
    """A server on the loopback interface."""
    return Target(ip_address(address), port, "shop", "web1")


def once(server: Target, check: Check) -> Result:
    """What one check finds."""
    return asyncio.run(check_once(server, check))


def say(*parts: bytes) -> Behaviour:
    """Read the request, say this, and close."""

    def behave(connection: socket.socket) -> None:
        connection.recv(65_536)
        for part in parts:
            connection.sendall(part)

    return behave


def say_and_wait(*parts: bytes) -> Behaviour:
    """Say this, and then nothing for as long as the client stays."""

    def behave(connection: socket.socket) -> None:
        connection.recv(65_536)
        for part in parts:
            connection.sendall(part)
        while connection.recv(65_536):
            pass

    return behave


def say_for_ever(part: bytes, then: bytes) -> Behaviour:
    """Say the one, and then the other again and again."""

    def behave(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(part)
        while True:
            connection.sendall(then)

    return behave


def _take(listener: socket.socket, behave: Behaviour) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            behave(connection)


@contextmanager
def _thread(served: socket.socket, serve: Callable[[], None]) -> Iterator[None]:
    def run() -> None:
        with suppress(OSError):  # the socket was shut down
            serve()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):  # of UDP it is not connected, and is woken all the same
            served.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        assert not thread.is_alive()
