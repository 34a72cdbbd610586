# SPDX-License-Identifier: Apache-2.0
"""What there is on the servers level: VIPs, servers and their states."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from poise.errors import NotFoundError, PoiseError

SERVER_IDS = 512  # per VIP: the cookie has nine bits


class Policy(StrEnum):
    """How a VIP places connections."""

    ROUND_ROBIN = "round-robin"
    HASH = "hash"


class State(StrEnum):
    """What a server gets; a removed one is off the list but its id, and old connections, are not."""

    READY = "ready"
    DRAIN = "drain"
    REMOVED = "removed"
    CUT = "cut"


GONE = (State.REMOVED, State.CUT)


@dataclass(frozen=True)
class Server:
    """A server of a VIP under its id.

    since: when it got its state, seconds since 1970. declared: it stands in poise.yaml.
    """

    id: int
    name: str
    address: IPv4Address
    port: int
    state: State
    since: float
    declared: bool


@dataclass(frozen=True)
class Vip:
    """A virtual address and port; `index` is its place in the kernel's tables."""

    index: int
    name: str
    address: IPv4Address
    port: int
    policy: Policy
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True)
class Model:
    """All VIPs, in the order of poise.yaml."""

    vips: tuple[Vip, ...] = field(default=())

    def servers(self) -> Iterator[tuple[Vip, Server]]:
        """Yield every server with its VIP."""
        for vip in self.vips:
            for server in vip.servers:
                yield vip, server


@dataclass(frozen=True)
class Hop:
    """The Ethernet hop towards a server: interface, its MAC address and the neighbour's.

    neighbour: the server itself or its gateway, None if only the tables of an earlier process tell.
    valid: the kernel would send there now; otherwise it is the last hop that was known.
    """

    neighbour: IPv4Address | IPv6Address | None
    ifindex: int
    mac: bytes
    interface_mac: bytes
    valid: bool


class NoSuchVip(NotFoundError):
    """A VIP that is not configured."""


class NoSuchServer(NotFoundError):
    """A server that is not in the VIP."""


class Refused(PoiseError):
    """A change that would break something, or changes nothing."""


class IdsExhausted(PoiseError):
    """All ids of a VIP are in use or at rest; `frees_at` is when the first one is free again, or None."""

    def __init__(self, vip: str, frees_at: float | None, when: str) -> None:
        """Say which VIP, and when an id frees: as seconds since 1970, and in words."""
        self.frees_at = frees_at
        super().__init__(f"VIP {vip} has given out all of its {SERVER_IDS} server ids: {when}")
