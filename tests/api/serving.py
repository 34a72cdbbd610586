# SPDX-License-Identifier: Apache-2.0
"""A real API server on a real unix socket; only the facade keeps plain dicts instead of BPF maps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from threading import Lock
from typing import Any

from anyio.from_thread import start_blocking_portal

from poise.api.client import Client
from poise.api.facade import End, ServerFigures, Snapshot, TransportProtocol, WantedState
from poise.api.server import serve
from poise.config import load
from poise.endpoints import write_end
from poise.errors import NotFoundError, PoiseError

SHARES = {"name": "web1", "id": 0, "state": "ready", "share": 0.5, "chance": 1.0, "load": 3, "reason": None}


class ListFacade:
    """A facade for at most `capacity` servers that forwards nothing; `asked` has what only passes through."""

    def __init__(self, capacity: int = 512) -> None:
        self.capacity = capacity
        self.rows: list[dict[str, Any]] = []
        self.counted: dict[str, int] = {"packets": 0, "new_connections": 0}
        self.asked: list[object] = []
        self._lock = Lock()

    def list_servers(self, vip: str | None = None) -> Sequence[dict[str, Any]]:
        """All servers, or those of a VIP."""
        return [row for row in self.rows if vip in {None, row["vip"]}]

    def add(
        self,
        vip: str | None,
        name: str | None,
        address: IPv4Address | IPv6Address,
        port: int,
        weight: int | None = None,
    ) -> dict[str, Any]:
        """A new row; raises PoiseError beyond the capacity."""
        with self._lock:
            if len(self.rows) == self.capacity:
                raise PoiseError("all ids are taken: remove a server and let its id rest")
            row: dict[str, Any] = {
                "vip": vip or "web",
                "name": name or write_end(address, port),
                "address": str(address),
                "port": port,
            }
            row |= {"id": len(self.rows), "weight": weight or 1, "state": "ready", "reachable": True}
            row |= {"reason": None, "share": 0.125, "load": None, "open": 12, "estimated": True}
            row |= {"connections": 0, "packets": 0, "bytes": 0}
            self.rows.append(row)
            return row

    def set_state(
        self,
        name: str,
        state: WantedState,
        vip: str | None = None,
        deadline: float | None = None,
        *,
        now: bool = False,
    ) -> dict[str, Any]:
        """The row, changed; raises NotFoundError."""
        self.asked.append((state, deadline, now))
        return self._change(name, vip, "cut" if now else state)

    def remove(self, name: str, vip: str | None = None, *, now: bool = False) -> dict[str, Any]:
        """The row, changed; raises NotFoundError."""
        return self._change(name, vip, "cut" if now else "removed")

    def vips(self) -> Sequence[dict[str, Any]]:
        """Two, that are always the same."""
        vip = {"address": "192.0.2.10", "port": 80, "protocol": "tcp", "mode": "stateless"}
        vip |= {"policy": "maglev", "servers": 2, "usable": 1, "panicking": False}
        vip |= {"connections": 9, "packets": 90, "bytes": 900}
        return [{"name": "shop"} | vip, {"name": "web"} | vip]

    def connections(self) -> Sequence[dict[str, Any]]:
        """One, that is always the same."""
        return [{"client": "198.51.100.7", "port": 40000, "vip": "web", "state": "established"}]

    def counters(self) -> dict[str, int]:
        """All counters."""
        return self.counted

    def drains(self) -> Sequence[dict[str, Any]]:
        """One whose connections are estimated, and one whose are known."""
        drain = {"vip": "web", "since": 1.8e9, "deadline": None, "silent": 2.0, "done": False}
        return [
            drain | {"name": "web1", "remaining": 40, "estimated": True},
            drain | {"name": "web2", "remaining": 41, "estimated": False, "deadline": 1.8e9 + 60},
        ]

    def events(self, since: int = 0) -> Sequence[dict[str, Any]]:
        """Three, less those that were seen."""
        event = {"at": 1.8e9, "kind": "down", "vip": "web", "server": "web1", "message": "web1 is down"}
        return [{"id": number} | event for number in range(since + 1, 4)]

    def why(
        self, client: End, vip: End, wait: float | None = None, protocol: TransportProtocol = "tcp"
    ) -> dict[str, Any]:
        """One sentence, with the candidates unless it is for the next packet."""
        self.asked.append((client, vip, wait, protocol))
        answer = {"vip": "web", "client": write_end(*client), "server": "web1", "sentence": "web1 is next"}
        return answer if wait else answer | {"rule": "maglev", "chance": 1.0, "servers": [SHARES]}

    def plan(self, path: Path) -> dict[str, Any]:
        """A change of a VIP, and one VIP less, if the file is a configuration."""
        load(path)
        change = {"vip": "web", "kind": "server-added", "server": "web9", "sentence": "web9 is added"}
        removed = {"vip": "old", "kind": "vip-removed", "server": None, "sentence": "VIP old is removed"}
        return {
            "changes": [change, removed],
            "moved": {"web": 0.125, "old": 1.0},
            "open_connections": {"web": "they go on", "old": "all of them break"},
            "restart": ["interfaces", "vip_limit"],
        }

    def reload(self) -> dict[str, Any]:
        """Always the same."""
        changed: dict[str, Any] = {"added": ["new"], "changed": [], "removed": ["a", "b"]}
        return changed | {"milliseconds": 12.5, "digest": "ab12"}

    def status(self) -> dict[str, Any]:
        """Always the same."""
        return {
            "version": "1.2.3",
            "config": "/etc/poise/poise.yaml",
            "digest": "ab12",
            "since": 1.8e9,
            "interfaces": [{"name": "eth0", "mode": "native"}],
            "vips": 2,
            "servers": 4000,
            "reload": {"at": 1.8e9, "ok": False, "error": "poise.yaml:3: port 0 is out of range"},
        }

    def metrics_snapshot(self) -> Snapshot:
        """The servers of the list, all with the same figures."""
        return {
            "version": "1.2.3",
            "digest": "ab12",
            "servers": [_figures(row) for row in self.rows],
            "vips": [
                {
                    "vip": vip["name"],
                    "protocol": vip["protocol"],
                    "mode": vip["mode"],
                    "policy": vip["policy"],
                    "usable": vip["usable"],
                    "panicking": vip["panicking"],
                }
                for vip in self.vips()
            ],
            "counters": self.counted,
            "events": {"down": 2},
            "reloads": {"ok": 3, "refused": 1},
        }

    def _change(self, name: str, vip: str | None, state: str) -> dict[str, Any]:
        for row in self.rows:
            if row["name"] == name and vip in {None, row["vip"]}:
                row["state"] = state
                return row
        raise NotFoundError(f"there is no server {name}")


def _figures(row: dict[str, Any]) -> ServerFigures:
    return {
        "vip": row["vip"],
        "server": row["name"],
        "state": row["state"],
        "weight": row["weight"],
        "share": row["share"],
        "connections": 10,
        "packets": 100,
        "bytes": 1000,
        "repeats": 3,
        "answers": 9,
        "resets": 1,
        "open": 4.0,
        "load": None,
        "latency": 0.25,
        "check_seconds": 0.002,
    }


@contextmanager
def serving(socket: Path, facade: ListFacade) -> Iterator[Client]:
    """Serve in an event loop of another thread, as the client blocks."""
    with start_blocking_portal() as portal:
        serving, _ = portal.start_task(partial(serve, socket, facade))
        try:
            yield Client(socket)
        finally:
            serving.cancel()
