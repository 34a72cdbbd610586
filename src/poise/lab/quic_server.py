# SPDX-License-Identifier: Apache-2.0
"""A QUIC server of the lab: it answers whatever it is asked with its name, and mints its connection ids."""

import argparse
import asyncio
import dataclasses
import datetime as dt
import json
import subprocess
import tempfile
from ipaddress import IPv4Address, IPv6Address

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from poise.lab.namespaces import LabError, Namespace, end, python
from poise.quic.mint import Minter, configure
from poise.servers.model import QuicIds

ALPN = "poise-lab"
PORT = 443


class QuicServer:
    """One aioquic server process in a namespace.

    ids: how its connection ids name it, under `server_id`; None: they name nobody.
    """

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        address: IPv4Address | IPv6Address,
        *,
        ids: QuicIds | None = None,
        server_id: int = 0,
        port: int = PORT,
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.address = address
        self.port = port
        self._ids = ids
        self._server_id = server_id
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and return once it listens; raises LabError with what it said if it does not."""
        argv = python(
            *("poise.lab.quic_server", str(self.address), str(self.port), self.name),
            *("--ids", _to_json(self._ids), "--server-id", str(self._server_id)),
        )
        with tempfile.TemporaryFile("w+") as errors:
            self._process = self.namespace.popen(argv, stdout=subprocess.PIPE, stderr=errors)
            if self._process.stdout is not None:
                with self._process.stdout as ready:
                    if ready.readline():
                        return
            errors.seek(0)
            raise LabError(f"the QUIC server {self.name} did not start: {errors.read().strip()}")

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended; its connections are not closed."""
        if self._process is not None:
            end(self._process)


def _to_json(ids: QuicIds | None) -> str:
    if ids is None:
        return "null"
    return json.dumps(dataclasses.asdict(ids) | {"key": ids.key and ids.key.hex()})


def _from_json(text: str) -> QuicIds | None:
    given = json.loads(text)
    if given is None:
        return None
    return QuicIds(**given | {"key": given["key"] and bytes.fromhex(given["key"])})


def _certificate(name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed certificate for a day, which the lab's clients do not look at."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate, key


async def _run(host: str, port: int, name: str, minter: Minter) -> None:
    class Answering(QuicConnectionProtocol):
        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, StreamDataReceived) and event.end_stream:
                self._quic.send_stream_data(event.stream_id, name.encode(), end_stream=True)
                self.transmit()

    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN], idle_timeout=3600)
    configuration.certificate, configuration.private_key = _certificate(name)
    create = configure(configuration, minter, Answering)

    def create_protocol(connection: QuicConnection, **arguments: object) -> QuicConnectionProtocol:
        protocol: QuicConnectionProtocol = create(connection, **arguments)
        return protocol

    await serve(host, port, configuration=configuration, create_protocol=create_protocol)
    print("ready", flush=True)  # noqa: T201  # its parent waits for it
    await asyncio.Event().wait()


def main() -> None:
    """Read the command line, then serve until killed."""
    parser = argparse.ArgumentParser(description="Answer QUIC streams with this server's name.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("name")
    parser.add_argument("--ids", type=_from_json, default=None, help="a QuicIds as JSON, or null")
    parser.add_argument("--server-id", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(_run(given.host, given.port, given.name, Minter(given.ids, given.server_id)))


if __name__ == "__main__":
    main()
