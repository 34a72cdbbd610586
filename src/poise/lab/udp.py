# SPDX-License-Identifier: Apache-2.0
"""UDP in the lab: servers that say who they are, and clients that ask from many sockets at once."""

import errno
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from poise.lab.addresses import IPAddress, socket_family
from poise.lab.namespaces import LabError, Namespace, end, python
from poise.lab.nginx import Nginx
from poise.lab.udp_server import BUFFER, FILL, LARGEST, SO_NO_CHECK, SO_RCVBUFFORCE, answer

_END = b";"  # of what tells a question from all others; the rest is padding
# A veth with NAPI holds 256 frames (VETH_RING_SIZE) and loses the rest of a burst: hence batches.
_FRAMES = 128
_FRAGMENT = 1200  # octets, roughly
_PAUSE = 0.05  # seconds that a batch without answers holds up the next


class UdpServer:
    """A program beside an nginx, under its name and on its address, that answers `NAME:` and what it got.

    As a context manager. `checksums`: whether its datagrams have one; without, only over IPv4.
    """

    def __init__(self, server: Nginx, port: int, *, checksums: bool = True) -> None:
        self.name = server.name
        self.address = server.address
        self.port = port
        self._namespace = server.namespace
        self._options = [] if checksums else ["--no-checksums"]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and return once it listens; raises LabError if it does not."""
        command = python("poise.lab.udp_server", self.name, str(self.address), str(self.port), *self._options)
        self._process = self._namespace.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if self._process.stdout is not None:
            with self._process.stdout as output:
                if output.readline() != "ready\n":
                    said = output.read().strip().rpartition("\n")[2]
                    raise LabError(f"the UDP server of {self.name} did not start: {said}")

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended: the kernel then answers that the port is unreachable."""
        if self._process is not None:
            end(self._process)


class UdpClients:
    """Sockets of a client, each with a port of its own, that stay open: a flow each. As a context manager.

    `checksums`: whether their datagrams have one; without, only over IPv4.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: IPAddress,
        port: int,
        number: int,
        *,
        checksums: bool = True,
    ) -> None:
        self._rounds = 0
        self._sockets: list[socket.socket] = []
        with namespace.enter():
            try:
                for _ in range(number):
                    self._sockets.append(_connect(address, port, checksums=checksums))
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets."""
        for opened in self._sockets:
            opened.close()

    def names(self) -> list[tuple[str, int]]:
        """The address and port of each socket."""
        return [opened.getsockname()[:2] for opened in self._sockets]

    def ask(self, *, size: int = 0, answer_size: int = 0, timeout: float = 2) -> list[str | None]:
        """Send a datagram on each socket, and return which server answered it, None where none did.

        `size`: octets of the question, if that is more than it needs. `answer_size`: octets of the answer, at
        least 80; 0: it repeats the whole question. A question that a router found too big is sent again; an
        answer that was too big is lost, as the server's kernel does not tell its program. Raises LabError if
        an answer is not what its server should have said.
        """
        self._rounds += 1
        questions = [self._question(number, size, answer_size) for number in range(len(self._sockets))]
        servers: list[str | None] = [None] * len(questions)
        asked = _Asked()
        batch = max(1, _FRAMES // (1 + max(size, answer_size) // _FRAGMENT))
        for start in range(0, len(questions), batch):
            for number in range(start, min(start + batch, len(questions))):
                asked.ask(number, self._sockets[number], questions[number])
            last = start + batch >= len(questions)
            for number, name in asked.answers(timeout if last else _PAUSE):
                servers[number] = name
        return servers

    def _question(self, number: int, size: int, answer_size: int) -> bytes:
        fill = FILL + b"%d " % answer_size if answer_size else b""
        question = fill + b"question %d of socket %d" % (self._rounds, number) + _END
        return question.ljust(size, b"?")


class _Asked:
    """The questions that wait for their answers."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._waiting: dict[int, tuple[int, socket.socket, bytes]] = {}

    def ask(self, number: int, opened: socket.socket, question: bytes) -> None:
        _send(opened, question)
        self._poll.register(opened, select.POLLIN)
        self._waiting[opened.fileno()] = (number, opened, question)

    def answers(self, timeout: float) -> Iterator[tuple[int, str]]:
        """The numbers of questions and who answered, until none waits or `timeout` seconds have passed."""
        deadline = time.monotonic() + timeout
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            for fd, _ in self._poll.poll(left * 1000):
                number, opened, question = self._waiting[fd]
                try:
                    said = opened.recv(LARGEST)
                except BlockingIOError:  # what woke us was damaged
                    continue
                except OSError as error:
                    if error.errno == errno.EMSGSIZE:  # lost, but the kernel now knows the path's MTU
                        _send(opened, question)
                        continue
                else:
                    if not _answers(said, question):  # late, and to an earlier question
                        continue
                    yield number, _name(said, question)
                self._poll.unregister(fd)
                del self._waiting[fd]


def _connect(address: IPAddress, port: int, *, checksums: bool) -> socket.socket:
    opened = socket.socket(socket_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if not checksums:
        opened.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    opened.connect((str(address), port))
    return opened


def _send(opened: socket.socket, question: bytes) -> None:
    # What ICMP said of an earlier question; send() would tell it instead of sending.
    opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    try:
        opened.send(question)
    except OSError as error:
        raise LabError(f"a datagram of {len(question)} octets could not be sent: {error}") from None


def _answers(said: bytes, question: bytes) -> bool:
    return question.partition(_END)[0] + _END in said


def _name(said: bytes, question: bytes) -> str:
    name = said.partition(b":")[0]
    if said != answer(name, question):
        raise LabError(f"{said[:60]!r}... of {len(said)} octets came in answer to {question[:60]!r}...")
    return name.decode()
