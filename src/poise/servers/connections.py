# SPDX-License-Identifier: Apache-2.0
"""The connections of stateful VIPs, as bpf/poise/connections.h keeps them: read, and freed when idle."""

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, cast

from poise.kernel.btf import Array, Struct
from poise.kernel.libbpf import Program
from poise.kernel.maps import Map
from poise.servers.model import Address

_UNIT = (1 << 30) / 1e9  # seconds, of struct connection
_SWEPT_AT_ONCE = 16  # MAX_SWEPT of contract.h
_FRAME = struct.Struct("=16xIII36x")  # struct sweep of connections.h

# enum connection_flags
_ESTABLISHED, _CLIENT_FIN, _SERVER_FIN, _CLOSED = 4, 16, 32, 64
_FINS = _CLIENT_FIN | _SERVER_FIN


@dataclass(frozen=True)
class Connection:
    """A connection that is not over.

    client, port: its other end. vip: index. server: id. state: "opening", "established", or "closing" when
    one side has sent a FIN. age, idle: in seconds, on a second or so. Bytes count IP headers.
    """

    client: Address
    port: int
    vip: int
    server: int
    state: str
    age: int
    idle: int
    packets_to_server: int
    bytes_to_server: int
    packets_to_client: int
    bytes_to_client: int


class Connections:
    """The table of connections, and the program that frees what has been idle for too long."""

    def __init__(self, table: Map, sweep: Program) -> None:
        """Work on these; the program is the BPF object's `sweep`."""
        self._table = table
        self._sweep = sweep
        row = cast(Struct, table.value)
        (self._first, connections), (self._first_origin, origins) = (
            (at, cast(Array, layout)) for at, layout in (row.members["connections"], row.members["origins"])
        )
        self._connection, self._origin = connections.element, origins.element
        self._slots = origins.size // self._origin.size

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self._table.max_entries

    def list(self) -> Iterator[Connection]:
        """Yield the connections of all stateful VIPs, in no order."""
        now = _now()
        for row in range(self.rows):
            data = self._table.raw(row)
            for slot in range(self._slots):
                at = self._first + slot * self._connection.size
                if any(data[at : at + 8]):  # `who`, its first member
                    values = self._connection.unpack(data[at : at + self._connection.size])
                    start = self._first_origin + slot * self._origin.size
                    origin = self._origin.unpack(data[start : start + self._origin.size])
                    if not _is_over(values["who"]):
                        yield _read(values, origin, now)

    def sweep(self, first: int, rows: int, now: int | None = None) -> int:
        """Let the slots of idle connections in these rows be reused; returns how many.

        now: in units of 2^30 ns of the monotonic clock, unless it is the present.
        """
        freed = 0
        for at in range(first, first + rows, _SWEPT_AT_ONCE):
            number = min(_SWEPT_AT_ONCE, first + rows - at)
            frame = _FRAME.pack(at, number, _now() if now is None else now)
            freed += self._sweep.test_run(frame).verdict
        return freed


def _now() -> int:
    return time.monotonic_ns() >> 30


def _is_over(who: int) -> bool:
    return bool(who & _CLOSED) or who & _FINS == _FINS


def _read(values: dict[str, Any], origin: dict[str, Any], now: int) -> Connection:
    who, flow = values["who"], origin["flow"]
    return Connection(
        client=_address(flow["client"]["word"]),
        port=flow["port"],
        vip=flow["vip"],
        server=who >> 16 & 0xFFFF,
        state="closing" if who & _FINS else "established" if who & _ESTABLISHED else "opening",
        age=_seconds(now - origin["created"]),
        idle=_seconds(now - values["seen"]),
        **{name: value for name, value in values.items() if name.startswith(("packets_", "bytes_"))},
    )


def _address(words: tuple[int, ...]) -> Address:
    address = IPv6Address(b"".join(word.to_bytes(4, "big") for word in words))
    return address.ipv4_mapped or address


def _seconds(units: int) -> int:
    return max(0, int(units * _UNIT))
