# SPDX-License-Identifier: Apache-2.0
"""One large transfer over one connection: goodput as the client's socket sees it."""

import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse

from poise.lab.addresses import IPAddress, in_url
from poise.lab.namespaces import LabError, Namespace

_CHUNK = bytes(1 << 18)


@dataclass(frozen=True)
class Goodput:
    """Octets of the body, seconds from the request to the last octet (or the answer), and who served it."""

    octets: int
    seconds: float
    server: str

    @property
    def mbit_per_s(self) -> float:
        """The octets a second, as Mbit/s."""
        return self.octets * 8 / self.seconds / 1e6


def download(
    namespace: Namespace, address: IPAddress, port: int, file: str, *, timeout: float = 60
) -> Goodput:
    """Fetch `/files/FILE`; raises LabError if the transfer breaks or stalls for `timeout` seconds."""
    connection = _connect(namespace, address, port, timeout)
    try:
        start = time.monotonic()
        connection.request("GET", f"/files/{file}")
        answer = _answer(connection, 200)
        buffer = bytearray(1 << 18)
        octets = 0
        while count := answer.readinto(buffer):
            octets += count
        seconds = time.monotonic() - start
    except (OSError, HTTPException) as error:
        raise LabError(f"the download of {file} from {in_url(address)}:{port} broke: {error!r}") from None
    finally:
        connection.close()
    if octets != int(answer.headers["Content-Length"]):
        raise LabError(f"the download of {file} from {in_url(address)}:{port} ended after {octets} octets")
    return Goodput(octets, seconds, answer.headers["Server-Name"])


def upload(
    namespace: Namespace, address: IPAddress, port: int, octets: int, *, timeout: float = 60
) -> Goodput:
    """Put a file of about `octets` octets; raises LabError if that breaks or stalls for `timeout` seconds."""
    connection = _connect(namespace, address, port, timeout)
    chunks = max(1, round(octets / len(_CHUNK)))
    try:
        start = time.monotonic()
        connection.putrequest("PUT", "/uploads/file")
        connection.putheader("Content-Length", str(chunks * len(_CHUNK)))
        connection.endheaders()
        for _ in range(chunks):
            connection.send(_CHUNK)
        answer = _answer(connection, 201, 204)  # the server answers when it has taken the whole body
        seconds = time.monotonic() - start
    except (OSError, HTTPException) as error:
        raise LabError(f"the upload to {in_url(address)}:{port} broke: {error!r}") from None
    finally:
        connection.close()
    return Goodput(chunks * len(_CHUNK), seconds, answer.headers["Server-Name"])


def _connect(namespace: Namespace, address: IPAddress, port: int, timeout: float) -> HTTPConnection:
    connection = HTTPConnection(str(address), port, timeout=timeout)
    try:
        with namespace.enter():  # a socket stays in the namespace where it was opened
            connection.connect()
    except OSError as error:
        raise LabError(f"cannot connect to {in_url(address)}:{port}: {error}") from None
    return connection


def _answer(connection: HTTPConnection, *expected: int) -> HTTPResponse:
    answer = connection.getresponse()
    if answer.status not in expected:
        raise HTTPException(f"status {answer.status}")
    return answer
