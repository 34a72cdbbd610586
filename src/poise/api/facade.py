# SPDX-License-Identifier: Apache-2.0
"""What the API serves of a running poise, as `poise.servers.service` has it."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

End = tuple[IPv4Address | IPv6Address, int]
WantedState = Literal["ready", "drain", "maint"]
TransportProtocol = Literal["tcp", "udp"]
Json = dict[str, Any]


class Facade(Protocol):
    """All that the API asks of poise; docs/reference/api.md explains each key of what it returns.

    The API calls each method in a thread, several at once: they may block, and lock what they share. What
    they return is plain data that JSON has, and is not changed afterwards. They raise NotFoundError for a
    name that nothing has, and PoiseError with a sentence for whatever else they refuse.
    """

    def list_servers(self, vip: str | None = None) -> Sequence[Json]:
        """One dict a server, of a VIP or of all.

        Keys: vip, name, address, port, id, weight, state (ready, drain, maint, down, removed, cut), reason
        (text, why it is not used; None if it is), reachable, share (of new connections, 0 to 1), load
        (number or None), open (connections, or None), estimated (whether `open` is), connections, packets,
        bytes.
        """

    def add(
        self,
        vip: str | None,
        name: str | None,
        address: IPv4Address | IPv6Address,
        port: int,
        weight: int | None = None,
    ) -> Json:
        """Let a server, new or known, take new connections, and return it as `list_servers` does."""

    def set_state(
        self,
        name: str,
        state: WantedState,
        vip: str | None = None,
        deadline: float | None = None,
        *,
        now: bool = False,
    ) -> Json:
        """Set what an operator wants of a server, and return it.

        deadline: of a drain, seconds from now. now: of a drain or of maint, cut the connections it has.
        """

    def remove(self, name: str, vip: str | None = None, *, now: bool = False) -> Json:
        """Remove a server, once its connections have ended or now, and return it."""

    def vips(self) -> Sequence[Json]:
        """One dict a VIP.

        Keys: name, address, port, protocol, mode, policy, servers (on its list), usable (that take new
        connections), panicking, connections, packets, bytes.
        """

    def connections(self) -> Sequence[Json]:
        """One dict a connection, of all stateful VIPs."""

    def counters(self) -> Mapping[str, int]:
        """Packets and events counted so far, by name."""

    def drains(self) -> Sequence[Json]:
        """One dict a server that drains.

        Keys: vip, name, since and deadline (seconds since 1970, deadline or None), remaining (connections
        or flows, None before the first look), estimated, silent (seconds since its last packet, or None),
        done.
        """

    def events(self, since: int = 0) -> Sequence[Json]:
        """The events whose id is above `since`, oldest first.

        Keys: id, at (seconds since 1970), kind, vip and server (text or None), message.
        """

    def why(
        self, client: End, vip: End, wait: float | None = None, protocol: TransportProtocol = "tcp"
    ) -> Json:
        """Say which server a new connection from `client` to `vip` would get, and by which rule.

        protocol: which VIP is meant where there is one of TCP and one of UDP or QUIC.

        Keys: vip, client, rule, server (name or None), chance (0 to 1), sentence, servers (dicts: name, id,
        state, share, chance, load, reason). With wait: where the flow's next packet goes that comes within
        so many seconds. Keys: vip, client, rule, server, reason, sentence.
        """

    def plan(self, path: Path) -> Json:
        """Say what `reload` would do if `path` were the configuration.

        Keys: changes (dicts: vip, kind, server (name or None), sentence), moved (by VIP, the share of new
        flows that another server would get), open_connections (by VIP, a sentence), restart (names of
        settings that differ and that only a restart changes). Raises ConfigError with every mistake.
        """

    def reload(self) -> Json:
        """Read the configuration again and apply what differs.

        Keys: added, changed, removed (names of VIPs), milliseconds, digest. Raises ConfigError.
        """

    def status(self) -> Json:
        """Say how poise runs.

        Keys: version, config (path), digest (of the configuration that runs), since (seconds since 1970),
        interfaces (dicts: name, mode), vips and servers (numbers), reload (None, or a dict of the last one:
        at, ok, error).
        """

    def metrics_snapshot(self) -> "Snapshot":
        """Everything that `poise.api.metrics` exposes, read at one time."""


class ServerFigures(TypedDict):
    """What is exposed of one server; None: not known, or of no meaning for its VIP."""

    vip: str
    server: str
    state: str
    weight: int
    share: float
    connections: int
    packets: int
    bytes: int
    repeats: int
    answers: int
    resets: int
    open: float | None
    load: float | None
    latency: float | None  # seconds
    check_seconds: float | None  # that the last check took


class VipFigures(TypedDict):
    """What is exposed of one VIP."""

    vip: str
    protocol: str
    mode: str
    policy: str
    usable: int  # servers that take new connections
    panicking: bool


class Snapshot(TypedDict):
    """What is exposed of a running poise."""

    version: str
    digest: str
    servers: Sequence[ServerFigures]
    vips: Sequence[VipFigures]
    counters: Mapping[str, int]  # as Facade.counters
    events: Mapping[str, int]  # how many of each kind since the start
    reloads: Mapping[str, int]  # how many were "ok" and how many "refused"
