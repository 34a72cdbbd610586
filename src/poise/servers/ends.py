# SPDX-License-Identifier: Apache-2.0
"""Where the tables of VIPs and of servers hold an end: the counterpart of find_end() in tables.h.

Pure, as decide.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from poise.errors import PoiseError
from poise.servers import cookie
from poise.servers.model import Address, Protocol, Server, Vip

TCP, UDP = Protocol.TCP.number, Protocol.UDP.number

# HASH_FACTOR, IPV6_NUMBERS, PROBES and GONE of bpf/poise
_HASH_FACTOR = 0x9E3779B97F4A7C15
_IPV6_NUMBERS = 6 << 56
_PROBES = 8
_MASK = (1 << 64) - 1

GONE = 1  # the number in a row where an end was

Row = Mapping[str, Any]


class Crowded(PoiseError):
    """Too many VIPs or servers for the tables of their ends."""


class End(NamedTuple):
    """One end of a connection."""

    address: Address
    port: int
    protocol: int = TCP

    def packed(self) -> bytes:
        """Return the bytes that the hash of a flow begins with."""
        return cookie.end_bytes(self.address, self.port, self.protocol)

    def number(self) -> int:
        """Return the end as end_number() and end_number6() of tables.h do."""
        if self.address.version == 4:
            return int.from_bytes(self.packed(), "little")
        high, low, rest = (int.from_bytes(self.packed()[at : at + 8], "little") for at in (0, 8, 16))
        # Behind the address, port and protocol stand where they do in the number of IPv4.
        number = (high ^ rest << 32 & _MASK) * _HASH_FACTOR & _MASK
        return _IPV6_NUMBERS | (((number ^ number >> 32) + low) * _HASH_FACTOR & _MASK) >> 8


def end_of(vip: Vip, server: Server | None = None) -> End:
    """Return the end that packets to the VIP, or to a server of it, carry."""
    thing = server or vip
    return End(thing.address, thing.port, vip.protocol.number)


def probed_rows(number: int, rows: int) -> list[int]:
    """Return the rows where an end may stand, in the order in which find_end() of tables.h looks."""
    first = (number * _HASH_FACTOR & _MASK) * rows >> 64
    return [(first + probe) % rows for probe in range(_PROBES)]


def place(wanted: Mapping[End, Row], present: Mapping[int, Row], rows: int) -> dict[int, Row]:
    """Return the rows of a table of ends: what is there stays where it is, the rest goes where it is found.

    A row that is left gets the end GONE if others may stand behind it. Raises Crowded.
    """
    numbers = {end: end.number() for end in wanted}
    places = {row["end"]: number for number, row in present.items() if row["end"] != GONE}
    taken = set(places.values())
    placed: dict[int, Row] = {
        places[numbers[end]]: row for end, row in wanted.items() if numbers[end] in places
    }
    for end, row in wanted.items():
        if numbers[end] in places:
            continue
        number = next((place for place in probed_rows(numbers[end], rows) if place not in taken), None)
        if number is None:
            raise Crowded(f"no place is left for {end.address} port {end.port}: there are too many")
        placed[number] = row
        taken.add(number)
    for end in wanted:
        for number in probed_rows(numbers[end], rows):
            if number not in placed:
                placed[number] = _gone(present[number])
            if placed[number]["end"] == numbers[end]:
                break
    return placed


def _gone(row: Row) -> Row:
    return {name: _nothing(value) for name, value in row.items()} | {"end": GONE}


def _nothing(value: Any) -> Any:  # noqa: ANN401  a member of any layout
    return tuple(0 for _ in value) if isinstance(value, tuple) else 0
