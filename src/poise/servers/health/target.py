# SPDX-License-Identifier: Apache-2.0
"""What is checked."""

from dataclasses import dataclass

from poise.errors import PoiseError
from poise.servers.care import Check, Passive
from poise.servers.model import Address


@dataclass(frozen=True, slots=True)
class Target:
    """A server to be watched: where it is, what it and its VIP are called, and how it is judged."""

    address: Address
    port: int
    vip: str
    server: str
    checks: tuple[Check, ...] = ()
    passive: Passive | None = None


class CannotCheck(PoiseError):
    """A check that cannot be made here, so that it says nothing of the server."""
