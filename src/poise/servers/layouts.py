# SPDX-License-Identifier: Apache-2.0
"""The paper's two timestamp layouts in Python: the reference for bpf/poise/layouts.h.

MSB: version 1 bit, cookie 15 bits, the server's low 16 bits. LSB: the server's low 16 bits, cookie 16 bits.
cookie = server id XOR the hash of the connection, see cookie.py.
"""

from typing import NamedTuple

from poise.servers.model import SERVER_IDS, Layout

CLOCK_MASK = 0xFFFF
_MSB_COOKIE_MASK = 0x7FFF
_LSB_COOKIE_MASK = 0xFFFF
_EPOCH_BIT = 0x8000


class Clock(NamedTuple):
    """What is known of a server's clock.

    tsvals: with MSB, those which began each version; with LSB, the last one and nothing. version: that of
    the newer one, 0 or 1.
    """

    tsvals: tuple[int, int] = (0, 0)
    version: int = 0


def stamp(layout: Layout, clock: Clock, tsval: int, flow: int, server: int) -> tuple[int, Clock]:
    """Return the server's TSval with the cookie in it, and what is known of its clock from then on.

    layout: one but LOW. flow: the hash of the connection.
    """
    cookie = server ^ flow
    if layout is Layout.LSB:
        return (tsval & CLOCK_MASK) << 16 | cookie & _LSB_COOKIE_MASK, Clock((tsval, clock.tsvals[1]))
    if clock.tsvals[clock.version] >> 16 != tsval >> 16:
        first, second = clock.tsvals
        clock = Clock((tsval, second), 0) if clock.version else Clock((first, tsval), 1)
    return clock.version << 31 | (cookie & _MSB_COOKIE_MASK) << 16 | tsval & CLOCK_MASK, clock


def server_of(layout: Layout, tsecr: int, flow: int) -> int | None:
    """Return the server id that an echo names; None if it is not one of the 512 that can be."""
    if layout is Layout.LSB:
        server = (tsecr ^ flow) & _LSB_COOKIE_MASK
    else:
        server = (tsecr >> 16 ^ flow) & _MSB_COOKIE_MASK
    return server if server < SERVER_IDS else None


def restore(layout: Layout, clock: Clock, tsecr: int) -> int:
    """Return what the server gets for an echo, given what is known of its clock."""
    if layout is Layout.LSB:
        low, last = tsecr >> 16, clock.tsvals[0]
        before = low & _EPOCH_BIT and not last & _EPOCH_BIT
        return (last >> 16) - bool(before) << 16 & 0xFFFF0000 | low
    return clock.tsvals[tsecr >> 31] & ~CLOCK_MASK | tsecr & CLOCK_MASK
