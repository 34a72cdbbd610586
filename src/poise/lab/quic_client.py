# SPDX-License-Identifier: Apache-2.0
"""A QUIC client of the lab: it keeps one connection open, and exchanges and moves on command."""

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from poise.lab.namespaces import LabError, Namespace, end, python
from poise.lab.quic_server import ALPN

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Exchange:
    """Who answered, where it was asked from, and the connection id to which the question went."""

    server: str
    source: str
    source_port: int
    connection_id: bytes


class QuicClient:
    """One connection from a namespace to a QUIC server, as a context manager.

    timeout: seconds after which an answer is missed. Raises LabError if the handshake, or what is asked of
    the connection later, fails.
    """

    def __init__(self, namespace: Namespace, address: Address, port: int, *, timeout: float = 5.0) -> None:
        self._name = f"QUIC connection to {address}:{port}"
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # `close` closes it
        self._process = namespace.popen(
            python("poise.lab.quic_client", str(address), str(port), "--timeout", str(timeout)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self._answer()
        except LabError:
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
        """End the program; the connection is not closed, its server does not get to know."""
        end(self._process)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def exchange(self) -> Exchange:
        """Ask on a new stream of the connection, and return once the answer is there."""
        told = self._do("exchange")
        return Exchange(
            server=str(told["server"]),
            source=str(told["source"]),
            source_port=int(str(told["source_port"])),
            connection_id=bytes.fromhex(str(told["connection_id"])),
        )

    def rebind(self) -> None:
        """Go on from another port under the same connection id, as behind a NAT that forgot the flow."""
        self._do("rebind")

    def migrate(self, source: Address | None = None) -> None:
        """Go on from another port, and address if given, under another connection id: RFC 9000, section 9."""
        self._do("migrate", source=None if source is None else str(source))

    def _do(self, command: str, **arguments: object) -> dict[str, object]:
        if self._process.stdin is not None and self._process.poll() is None:
            self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, object]:
        line = "" if self._process.stdout is None else self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise LabError(f"the {self._name} ended: {self._errors.read().strip() or 'it gave no reason'}")
        told: dict[str, object] = json.loads(line)
        if "error" in told:
            raise LabError(f"the {self._name} failed: {told['error']}")
        return told


class _Connection(QuicConnectionProtocol):
    """The connection, whose socket can be replaced by another."""

    def __init__(self, quic: QuicConnection, host: str, port: int) -> None:
        super().__init__(quic)
        self._host = host
        self._port = port
        self._socket: asyncio.DatagramTransport | None = None

    async def open(self) -> dict[str, object]:
        await self.bind(None)
        self.connect((self._host, self._port))
        await self.wait_connected()
        return {}

    async def bind(self, source: str | None) -> None:
        """Send from a new socket from now on; `source` None: from the address that the kernel takes."""
        former = self._socket
        source = source or (str(former.get_extra_info("sockname")[0]) if former else None)
        any_source = "::" if ":" in self._host else "0.0.0.0"  # noqa: S104  # it sends only
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(source or any_source, 0))
        self._socket = transport
        if former is not None:
            former.close()

    async def exchange(self) -> dict[str, object]:
        connection_id = self._quic._peer_cid.cid  # noqa: SLF001  # there is no public way to see it
        reader, writer = await self.create_stream()
        writer.write(b"who are you?")
        writer.write_eof()
        server = (await reader.read()).decode()
        if self._socket is None or not server:
            raise ConnectionError("the connection ended without an answer")
        source, source_port, *_ = self._socket.get_extra_info("sockname")
        return {
            "server": server,
            "source": source,
            "source_port": source_port,
            "connection_id": connection_id.hex(),
        }

    async def do(self, command: dict[str, str | None]) -> dict[str, object]:
        match command["do"]:
            case "exchange":
                return await self.exchange()
            case "rebind":
                await self.bind(None)
            case "migrate":
                await self.bind(command["source"])
                self.change_connection_id()
        return {}


def _tell(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _run(host: str, port: int, timeout: float) -> None:  # noqa: ASYNC109  # a time for each command
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE, idle_timeout=3600, server_name="lab"
    )
    connection = _Connection(QuicConnection(configuration=configuration), host, port)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    work = connection.open()
    answer: dict[str, object]
    while True:
        try:
            async with asyncio.timeout(timeout):
                answer = await work
        except TimeoutError:
            answer = {"error": f"no answer within {timeout:g} s"}
        except ConnectionError as error:
            answer = {"error": str(error) or type(error).__name__}
        _tell(answer)
        line = await commands.readline()
        if not line:
            return
        work = connection.do(json.loads(line))


def main() -> None:
    """Read the command line, then follow commands until stdin ends."""
    parser = argparse.ArgumentParser(description="Keep a QUIC connection, as told on stdin.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds after which an answer is missed")
    given = parser.parse_args()
    asyncio.run(_run(given.host, given.port, given.timeout))


if __name__ == "__main__":
    main()
