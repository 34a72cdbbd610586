# SPDX-License-Identifier: Apache-2.0
"""Asking the packet side what becomes of the next packet of one flow, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

from poise.errors import PoiseError
from poise.kernel.maps import Map, MapError
from poise.servers.model import Address
from poise.servers.rows import address_row

NO_SERVER: Final = 0xFFFF  # WATCH_NO_SERVER of contract.h


@dataclass(frozen=True)
class Flow:
    """One client's end, and the index of the VIP that it speaks to."""

    client: Address
    port: int
    vip: int

    def key(self) -> dict[str, Any]:
        """Return struct flow."""
        client = self.client
        if client.version == 4:
            client = IPv6Address((0xFFFF << 32) + int(client))
        return {"client": address_row(client), "port": self.port, "vip": self.vip}


@dataclass(frozen=True)
class Watched:
    """What became of a packet: the server's id (None: no server), and the number of enum reason.

    at: nanoseconds of the monotonic clock, of the last packet. packets: since the watch began.
    """

    at: int
    server: int | None
    reason: int
    packets: int


class Watches:
    """The flows that are watched, and for which VIPs the packet side asks about them."""

    def __init__(self, table: Map, set_watched: Callable[[int, bool], None]) -> None:
        """Write into the map `watches`; set_watched: has a VIP's flag VIP_IS_WATCHED set or taken away."""
        self._table = table
        self._set_watched = set_watched

    def begin(self, flow: Flow) -> None:
        """Watch a flow from now on. Raises PoiseError if there are too many watches."""
        try:
            self._table.set(flow.key(), {"server": NO_SERVER})
        except MapError as error:
            if not error.is_full:
                raise
            raise PoiseError(
                f"{self._table.max_entries} flows are watched already: wait until one of them was seen"
            ) from None
        self._set_watched(flow.vip, True)

    def read(self, flow: Flow) -> Watched | None:
        """Return what was seen of a flow; None if nothing was, or it is not watched."""
        row = self._table.get(flow.key())
        if row is None or not row["packets"]:
            return None
        server = None if row["server"] == NO_SERVER else row["server"]
        return Watched(row["at"], server, row["reason"], row["packets"])

    def end(self, flow: Flow) -> None:
        """Watch it no longer; harmless if it is not watched."""
        self._table.delete(flow.key())
        if flow.vip not in self.watched_vips():
            self._set_watched(flow.vip, False)

    def watched_vips(self) -> set[int]:
        """Return the indices of VIPs of which a flow is watched."""
        return {key["vip"] for key, _ in self._table.items()}  # noqa: PERF102  a map, not a dict
