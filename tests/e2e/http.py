# SPDX-License-Identifier: Apache-2.0
"""One request, on a connection of its own."""

from http.client import HTTPConnection

from poise.lab.addresses import IPAddress
from poise.lab.namespaces import Namespace


def ask(client: Namespace, address: IPAddress, port: int, *, timeout: float = 10) -> str:
    """The name of the server that answers; raises OSError or HTTPException where none does."""
    connection = HTTPConnection(str(address), port, timeout=timeout)
    try:
        with client.enter():
            connection.connect()
        connection.request("GET", "/", headers={"Connection": "close"})
        return connection.getresponse().read().decode().strip()
    finally:
        connection.close()
