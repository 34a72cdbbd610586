# SPDX-License-Identifier: Apache-2.0
"""Talk to a running poise over its unix socket."""

import http.client
import json
import socket as sockets
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from poise.errors import PoiseError

_TIMEOUT: Final = 10.0  # seconds; poise answers within milliseconds


class Client:
    """The API of the poise that listens on a unix socket.

    Every method raises PoiseError if poise cannot be reached, or with the sentence that poise refuses with.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def servers(self) -> list[dict[str, Any]]:
        """One dict a server, of all VIPs."""
        servers: list[dict[str, Any]] = self._request("GET", "/servers")
        return servers

    def add(
        self,
        address: IPv4Address | IPv6Address,
        port: int,
        *,
        name: str | None = None,
        vip: str | None = None,
        weight: int | None = None,
    ) -> dict[str, Any]:
        """Let a server take new connections of a VIP, and return it; without `vip`, of the only one."""
        wanted = {"address": str(address), "port": port, "name": name, "vip": vip}
        wanted |= {} if weight is None else {"weight": weight}
        server: dict[str, Any] = self._request("POST", "/servers", wanted)
        return server

    def drain(self, name: str, *, vip: str | None = None) -> dict[str, Any]:
        """Give a server no new connections, and return it."""
        server: dict[str, Any] = self._request("POST", f"/servers/{quote(name, safe='')}/drain", {"vip": vip})
        return server

    def remove(self, name: str, *, vip: str | None = None, now: bool = False) -> dict[str, Any]:
        """Remove a server, once its connections have ended or now, and return it."""
        query = urlencode({"now": str(now).lower()} | ({} if vip is None else {"vip": vip}))
        server: dict[str, Any] = self._request("DELETE", f"/servers/{quote(name, safe='')}?{query}")
        return server

    def counters(self) -> dict[str, int]:
        """Packets and events counted so far, by name."""
        counters: dict[str, int] = self._request("GET", "/counters")
        return counters

    def _request(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401  # any JSON
        connection = _UnixConnection(self._socket)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        except PermissionError as error:
            raise PoiseError(f"cannot open {self._socket}: permission denied, run it with sudo") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise PoiseError(f"cannot reach poise at {self._socket}: is `poise up` running?") from error
        except TimeoutError as error:
            raise PoiseError(f"poise at {self._socket} does not answer: look at its log") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PoiseError(f"cannot talk to poise at {self._socket}: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            sentence = answer.get("error") if isinstance(answer, dict) else None
            raise PoiseError(sentence or f"{self._socket} is not the socket of poise: check the path")
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))
