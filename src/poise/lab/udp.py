# SPDX-License-Identifier: Apache-2.0
"""UDP in the lab: servers that say who they are, and clients that ask from many sockets at once."""

import errno
import select
import socket
import subprocess
import time
from types import TracebackType
from typing import Self

from poise.lab.addresses import IPAddress, socket_family
from poise.lab.namespaces import LabError, Namespace, end, python
from poise.lab.nginx import Nginx
from poise.lab.udp_server import FILL, LARGEST, SO_NO_CHECK, answer

_END = b";"  # of what tells a question from all others; the rest is padding
_BUFFER = 1 << 22  # octets, for the answers to one socket that nobody has read yet


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
        servers: list[str | None] = [None] * len(self._sockets)
        questions = [self._question(number, size, answer_size) for number in range(len(self._sockets))]
        waiting = {opened.fileno(): number for number, opened in enumerate(self._sockets)}
        poll = select.poll()
        for number, opened in enumerate(self._sockets):
            poll.register(opened, select.POLLIN)
            _send(opened, questions[number])
        deadline = time.monotonic() + timeout
        while waiting and (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                number = waiting[fd]
                try:
                    said = self._sockets[number].recv(LARGEST)
                except BlockingIOError:  # what woke us was damaged
                    continue
                except OSError as error:
                    if error.errno == errno.EMSGSIZE:  # lost, but the kernel now knows the path's MTU
                        _send(self._sockets[number], questions[number])
                        continue
                else:
                    if not _answers(said, questions[number]):  # late, and to an earlier question
                        continue
                    servers[number] = _name(said, questions[number])
                poll.unregister(fd)
                del waiting[fd]
        return servers

    def _question(self, number: int, size: int, answer_size: int) -> bytes:
        fill = FILL + b"%d " % answer_size if answer_size else b""
        question = fill + b"question %d of socket %d" % (self._rounds, number) + _END
        return question.ljust(size, b"?")


def _connect(address: IPAddress, port: int, *, checksums: bool) -> socket.socket:
    opened = socket.socket(socket_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if not checksums:
        opened.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
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
