# SPDX-License-Identifier: Apache-2.0
"""Talk to a running poise over its unix socket."""

import http.client
import json
import socket as sockets
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from poise.endpoints import write_end
from poise.errors import PoiseError

_SECONDS: Final = 10.0  # to answer; poise does so within milliseconds
_SECONDS_FOR_MUCH: Final = 120.0  # to read a large configuration, or list a great many servers

End = tuple[IPv4Address | IPv6Address, int]


class Client:
    """The API of the poise that listens on a unix socket.

    Every method raises PoiseError if poise cannot be reached, or with the sentence that poise refuses with.
    What they return is explained in docs/reference/api.md.
    """

    def __init__(self, socket: Path, *, patience: float | None = None) -> None:
        """Talk to the poise at `socket`; patience: seconds to wait for each answer, at most."""
        self._socket = socket
        self._patience = patience

    def servers(self, vip: str | None = None) -> list[dict[str, Any]]:
        """One dict a server, of a VIP or of all."""
        found: list[dict[str, Any]] = self._request(
            "GET", _path("/servers", vip=vip), seconds=_SECONDS_FOR_MUCH
        )
        return found

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

    def set_state(
        self,
        name: str,
        state: Literal["ready", "drain", "maint"],
        *,
        vip: str | None = None,
        deadline: int | str | None = None,
        now: bool = False,
    ) -> dict[str, Any]:
        """Set the state of a server, and return it.

        deadline: of a drain, in seconds, or as 90s, 30m or 1h. now: cut the connections that it has.
        """
        wanted: dict[str, object] = {"state": state, "vip": vip, "now": now}
        wanted |= {} if deadline is None else {"deadline": deadline}
        server: dict[str, Any] = self._request("POST", f"/servers/{quote(name, safe='')}/state", wanted)
        return server

    def drain(self, name: str, *, vip: str | None = None) -> dict[str, Any]:
        """Give a server no new connections, and return it."""
        return self.set_state(name, "drain", vip=vip)

    def remove(self, name: str, *, vip: str | None = None, now: bool = False) -> dict[str, Any]:
        """Remove a server, once its connections have ended or now, and return it."""
        path = _path(f"/servers/{quote(name, safe='')}", vip=vip, now=str(now).lower())
        server: dict[str, Any] = self._request("DELETE", path)
        return server

    def vips(self) -> list[dict[str, Any]]:
        """One dict a VIP."""
        vips: list[dict[str, Any]] = self._request("GET", "/vips")
        return vips

    def connections(self) -> list[dict[str, Any]]:
        """One dict a connection, of all stateful VIPs."""
        connections: list[dict[str, Any]] = self._request("GET", "/connections", seconds=_SECONDS_FOR_MUCH)
        return connections

    def counters(self) -> dict[str, int]:
        """Packets and events counted so far, by name."""
        counters: dict[str, int] = self._request("GET", "/counters")
        return counters

    def drains(self) -> list[dict[str, Any]]:
        """One dict a server that drains."""
        drains: list[dict[str, Any]] = self._request("GET", "/drains")
        return drains

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """The latest events whose id is above `since`, oldest first."""
        events: list[dict[str, Any]] = self._request("GET", _path("/events", since=str(since)))
        return events

    def why(
        self, client: End, vip: End, *, wait: float | None = None, protocol: Literal["tcp", "udp"] = "tcp"
    ) -> dict[str, Any]:
        """Say which server a new connection would get; with `wait` (seconds), where its next packet goes.

        protocol: which VIP is meant where there is one of TCP and one of UDP or QUIC.
        """
        path = _path(
            "/why",
            client=write_end(*client),
            vip=write_end(*vip),
            wait=None if wait is None else str(wait),
            protocol=protocol,
        )
        answer: dict[str, Any] = self._request("GET", path, seconds=_SECONDS + (wait or 0.0))
        return answer

    def plan(self, path: Path) -> dict[str, Any]:
        """Say what `reload` would do if the file at `path` were the configuration."""
        plan: dict[str, Any] = self._request(
            "POST", "/plan", {"path": str(path.absolute())}, seconds=_SECONDS_FOR_MUCH
        )
        return plan

    def reload(self) -> dict[str, Any]:
        """Have the configuration read again, and what differs applied."""
        done: dict[str, Any] = self._request("POST", "/reload", seconds=_SECONDS_FOR_MUCH)
        return done

    def status(self) -> dict[str, Any]:
        """Say how poise runs."""
        status: dict[str, Any] = self._request("GET", "/status")
        return status

    def metrics(self, vip: str | None = None) -> str:
        """What Prometheus is to scrape, in its text format; of a VIP or of all."""
        return self._exchange("GET", _path("/metrics", vip=vip), None, _SECONDS_FOR_MUCH).decode()

    def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        seconds: float = _SECONDS,
    ) -> Any:  # noqa: ANN401  # any JSON
        try:
            return json.loads(self._exchange(method, path, body, seconds))
        except ValueError as error:
            raise PoiseError(f"cannot talk to poise at {self._socket}: {error}") from error

    def _exchange(self, method: str, path: str, body: object, seconds: float) -> bytes:
        """The body of the answer, if poise did what it was asked to."""
        seconds = seconds if self._patience is None else self._patience
        connection = _UnixConnection(self._socket, seconds)
        try:
            connection.connect()
            with suppress(BrokenPipeError):  # it may have answered already: that it has too many clients
                connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = response.read()
        except PermissionError as error:
            raise PoiseError(f"cannot open {self._socket}: permission denied, run it with sudo") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise PoiseError(f"cannot reach poise at {self._socket}: is `poise up` running?") from error
        except (TimeoutError, BlockingIOError) as error:
            raise PoiseError(f"poise at {self._socket} does not answer: look at its log") from error
        except (OSError, http.client.HTTPException) as error:
            raise PoiseError(f"cannot talk to poise at {self._socket}: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise PoiseError(
                _sentence(answer) or f"{self._socket} is not the socket of poise: check the path"
            )
        return answer


def _sentence(answer: bytes) -> str | None:
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    sentence = value.get("error") if isinstance(value, dict) else None
    return sentence if isinstance(sentence, str) else None


def _path(path: str, **query: str | None) -> str:
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        # Python's own timeout would not wait until there is room for one more connection.
        whole, fraction = divmod(self._seconds, 1)
        limit = struct.pack("@ll", int(whole), int(fraction * 1e6))
        self.sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDTIMEO, limit)
        self.sock.connect(str(self._path))
        self.sock.settimeout(self._seconds)
