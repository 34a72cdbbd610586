# SPDX-License-Identifier: Apache-2.0
"""What there is on the servers level: VIPs, servers and their states."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from poise.errors import NotFoundError, PoiseError
from poise.servers.care import DEFAULT_DRAIN, DEFAULT_LOAD, Check, Drain, LoadSource, Passive

SERVER_IDS = 512  # per VIP: the cookie has nine bits

Address = IPv4Address | IPv6Address


class Protocol(StrEnum):
    """What a VIP balances; QUIC is UDP whose connection ids may name the server."""

    TCP = "tcp"
    UDP = "udp"
    QUIC = "quic"

    @property
    def number(self) -> int:
        """The protocol number of its packets (IANA, Protocol Numbers); QUIC is carried by UDP."""
        return 6 if self is Protocol.TCP else 17


class Mode(StrEnum):
    """What keeps a VIP's TCP connections on their servers: the cookie, a table of them, or only a hash."""

    STATELESS = "stateless"
    STATEFUL = "stateful"
    COOKIELESS = "cookieless"


class Layout(StrEnum):
    """Where in the timestamp the cookie stands: ours, or one of the paper's, for research."""

    LOW = "low"
    MSB = "msb"
    LSB = "lsb"


class Policy(StrEnum):
    """How a VIP places new connections."""

    ROUND_ROBIN = "round-robin"
    WEIGHTED_ROUND_ROBIN = "weighted-round-robin"
    HASH = "hash"
    MAGLEV = "maglev"
    POWER_OF_TWO = "power-of-two"
    LEAST_LOADED = "least-loaded"
    AWRR = "awrr"
    PREQUAL = "prequal"


class State(StrEnum):
    """What an operator or poise.yaml wants of a server, with HAProxy's meaning of the first three.

    DRAIN: no new connections, checks go on. MAINT: neither, and connections that are open go on. A removed
    server is off the list, but its id and its old connections are not; those of one that is CUT are reset.
    """

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"
    REMOVED = "removed"
    CUT = "cut"


GONE = (State.REMOVED, State.CUT)


@dataclass(frozen=True)
class Server:
    """A server of a VIP under its id.

    since: when it got its state, seconds since 1970. declared: it stands in poise.yaml. weight: its
    share of new connections, except in plain round robin. deadline: when its drain is to end, likewise.
    """

    id: int
    name: str
    address: Address
    port: int
    state: State
    since: float
    declared: bool
    weight: int = 1
    deadline: float | None = None


@dataclass(frozen=True)
class QuicIds:
    """How connection ids name servers, after draft-ietf-quic-load-balancers, section 3.

    config: codepoint of the three config-rotation bits, 0 to 6. Lengths in bytes. key: 16 bytes of
    AES-128, None for the plaintext algorithm.
    """

    config: int
    server_id_length: int
    nonce_length: int
    key: bytes | None = None


@dataclass(frozen=True)
class Vip:
    """A virtual address and port; `index` is its place in the kernel's tables.

    panic: if fewer than this fraction of the servers that should take connections are up, all of them are
    used. slow_start: seconds in which a server that recovered gets its full share again. awrr_alpha: of
    the formula of AWRR.
    """

    index: int
    name: str
    address: Address
    port: int
    policy: Policy
    servers: tuple[Server, ...] = ()
    protocol: Protocol = Protocol.TCP
    mode: Mode = Mode.STATELESS
    layout: Layout = Layout.LOW
    quic_ids: tuple[QuicIds, ...] = ()
    checks: tuple[Check, ...] = ()
    passive: Passive | None = None
    panic: float = 0.5
    slow_start: float = 0.0
    drain: Drain = DEFAULT_DRAIN
    load: LoadSource = DEFAULT_LOAD
    awrr_alpha: float = 0.0

    @cached_property
    def at(self) -> Mapping[tuple[Address, int], Server]:
        """Its servers by address and port."""
        return {(server.address, server.port): server for server in self.servers}

    @cached_property
    def addresses(self) -> frozenset[Address]:
        """The addresses of its servers."""
        return frozenset(server.address for server in self.servers)

    @cached_property
    def held(self) -> frozenset[tuple[Address, int]]:
        """The addresses and ports whose packets are this VIP's: those of all servers but the cut ones."""
        return frozenset(at for at, server in self.at.items() if server.state != State.CUT)


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
    valid: the kernel would send there now; otherwise it is the last hop that was known. ifindex: of the
    device that frames leave by. tags: VLAN ids that they carry, at most two, the outer one first. mtu: of
    the way to the server, in bytes; 0 if unknown.
    """

    neighbour: Address | None
    ifindex: int
    mac: bytes
    interface_mac: bytes
    valid: bool
    tags: tuple[int, ...] = ()
    mtu: int = 0


@dataclass(frozen=True)
class Link:
    """Where frames for an interface of the routing table leave: the device under it, and its VLAN tags."""

    ifindex: int
    tags: tuple[int, ...]


class NoSuchVip(NotFoundError):
    """A VIP that is not configured."""


class NoSuchServer(NotFoundError):
    """A server that is not in the VIP."""


class Refused(PoiseError):
    """A change that would break something, or changes nothing."""


class IdsExhausted(PoiseError):
    """All ids of a VIP are in use or at rest; `frees_at` is when the first one is free again, or None."""

    def __init__(self, vip: str, ids: int, frees_at: float | None, when: str) -> None:
        """Say which VIP, how many ids it has, and when one frees: as seconds since 1970, and in words."""
        self.frees_at = frees_at
        super().__init__(f"VIP {vip} has given out all of its {ids} server ids: {when}")
