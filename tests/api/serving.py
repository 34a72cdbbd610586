# SPDX-License-Identifier: Apache-2.0
"""A real API server on a real unix socket; only the controller keeps plain dicts instead of BPF maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from poise.api.client import Client
from poise.api.server import serve
from poise.endpoints import write_end
from poise.errors import NotFoundError, PoiseError


class ListController:
    """A controller for at most `capacity` servers that forwards nothing."""

    def __init__(self, capacity: int = 512) -> None:
        self.capacity = capacity
        self.rows: list[dict[str, object]] = []
        self.counted: dict[str, int] = {"packets": 0, "new_connections": 0}

    def list(self) -> list[dict[str, object]]:
        """All servers."""
        return self.rows

    def add(
        self,
        vip: str | None,
        name: str | None,
        address: IPv4Address | IPv6Address,
        port: int,
        weight: int | None = None,
    ) -> dict[str, object]:
        """A new row; raises PoiseError beyond the capacity."""
        if len(self.rows) == self.capacity:
            raise PoiseError("all ids are taken: remove a server and let its id rest")
        row = {
            "vip": vip or "web",
            "name": name or write_end(address, port),
            "address": str(address),
            "port": port,
        }
        row |= {"id": len(self.rows), "weight": weight or 1, "state": "ready", "reachable": True}
        row |= {"connections": 0, "packets": 0, "bytes": 0}
        self.rows.append(row)
        return row

    def drain(self, name: str, vip: str | None = None) -> dict[str, object]:
        """The row, changed; raises NotFoundError."""
        return self._change(name, vip, "drain")

    def remove(self, name: str, vip: str | None = None, *, now: bool = False) -> dict[str, object]:
        """The row, changed; raises NotFoundError."""
        return self._change(name, vip, "cut" if now else "removed")

    def counters(self) -> dict[str, int]:
        """All counters."""
        return self.counted

    def _change(self, name: str, vip: str | None, state: str) -> dict[str, object]:
        for row in self.rows:
            if row["name"] == name and vip in {None, row["vip"]}:
                row["state"] = state
                return row
        raise NotFoundError(f"there is no server {name}")


@contextmanager
def serving(socket: Path, controller: ListController) -> Iterator[Client]:
    """Serve in an event loop of another thread, as the client blocks."""
    with start_blocking_portal() as portal:
        serving, _ = portal.start_task(partial(serve, socket, controller))
        try:
            yield Client(socket)
        finally:
            serving.cancel()
