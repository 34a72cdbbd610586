# SPDX-License-Identifier: Apache-2.0
"""Where the tables of VIPs and of servers hold an end: the counterpart of find_end() in tables.h.

Pure, as decide.py.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poise.errors import PoiseError
from poise.servers import cookie
from poise.servers.model import Address, Protocol, Server, Vip

TCP, UDP = Protocol.TCP.number, Protocol.UDP.number

# HASH_FACTOR, IPV6_NUMBERS, PROBES and GONE of bpf/poise
_HASH_FACTOR = 0x9E3779B97F4A7C15
_IPV6_NUMBERS = 6 << 56
PROBES = 16
_MASK = (1 << 64) - 1
_FACTOR, _IPV6_BITS = np.uint64(_HASH_FACTOR), np.uint64(_IPV6_NUMBERS)
_32, _48 = np.uint64(32), np.uint64(48)

GONE = 1  # the number in a row where an end was

Row = Mapping[str, Any]
Numbers = NDArray[np.unsignedinteger[Any]]


class Crowded(PoiseError):
    """Too many VIPs or servers for the tables of their ends."""

    def __init__(self, number: int) -> None:
        """Say where the end with this number is."""
        address, port = number & 0xFFFFFFFF, number >> 32 & 0xFFFF
        where = "an IPv6 address"
        if number >> 56 != _IPV6_NUMBERS >> 56:
            where = str(IPv4Address(address.to_bytes(4, "little")))
            where += f" port {int.from_bytes(port.to_bytes(2, 'little'), 'big')}"
        super().__init__(f"no place is left for {where} in the tables: there are too many")


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


def end_numbers(
    addresses: Numbers, ports: Numbers, protocol: int | Numbers, words: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """Return the numbers of many ends, as End.number() does.

    addresses: of IPv4. words: [n, 4], of IPv6; all zero where the end is of IPv4.
    """
    rest = np.asarray(protocol, np.uint64) << _48 | _swapped(ports, "u2") << _32
    number = _swapped(addresses, "u4") | rest
    of_ipv6 = words.any(axis=1)
    if of_ipv6.any():
        swapped = _swapped(words, "u4")
        high = (swapped[:, 1] << _32 | swapped[:, 0]) ^ rest
        low = swapped[:, 3] << _32 | swapped[:, 2]
        high *= _FACTOR
        hashed = _IPV6_BITS | ((high ^ high >> _32) + low) * _FACTOR >> np.uint64(8)
        number = np.where(of_ipv6, hashed, number)
    return number


def _swapped(numbers: Numbers, kind: str) -> NDArray[np.uint64]:
    """Return numbers as a little-endian machine reads them from network order."""
    return np.ascontiguousarray(numbers, kind).byteswap().astype(np.uint64)


def probed_rows(number: int, rows: int) -> list[int]:
    """Return the rows where an end may stand, in the order in which find_end() of tables.h looks."""
    first = (number * _HASH_FACTOR & _MASK) * rows >> 64
    return [(first + probe) % rows for probe in range(PROBES)]


def first_rows(numbers: NDArray[np.uint64], rows: int) -> NDArray[np.intp]:
    """Return the first of the probed rows of each end; `rows` is a power of two."""
    shift = np.uint64(65 - rows.bit_length())
    return (numbers * _FACTOR >> shift).astype(np.intp)


def find(table: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the row of a table of ends where each of these stands, -1 where it is not there."""
    found = np.full(len(numbers), -1, np.intp)
    if not len(numbers):
        return found
    first = first_rows(numbers, len(table))
    for probe in reversed(range(PROBES)):
        at = (first + probe) % len(table)
        found = np.where(table[at] == numbers, at, found)
    return found


def place(table: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the row of each end: what is in the table stays where it is, the rest goes where it is found.

    Raises Crowded.
    """
    places = find(table, numbers)
    new = np.flatnonzero(places < 0)
    if not len(new):
        return places
    rows = len(table)
    taken = bytearray((table > GONE).tobytes())
    first = first_rows(numbers[new], rows)
    # In this order, none goes further than it must because of another one.
    for at in np.argsort(first, kind="stable").tolist():
        row = int(first[at])
        for _ in range(PROBES):
            if not taken[row]:
                break
            row = (row + 1) % rows
        else:
            raise Crowded(number=int(numbers[new[at]]))
        taken[row] = 1
        places[new[at]] = row
    return places


def is_passed(table: NDArray[np.uint64], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether an end that stands behind each of these rows would not be found if the row were empty."""
    passed = np.zeros(len(rows), np.bool_)
    for distance in range(1, PROBES):
        behind = (rows + distance) % len(table)
        numbers = table[behind]
        gone_past = (behind - first_rows(numbers, len(table))) % len(table)
        passed |= (numbers > GONE) & (gone_past >= distance) & (gone_past < PROBES)
    return passed
