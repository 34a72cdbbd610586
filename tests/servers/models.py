# SPDX-License-Identifier: Apache-2.0
"""VIPs and servers for tests, named by small numbers."""

from ipaddress import IPv4Address, IPv6Address

from poise.servers.decide import WantedServer, WantedVip
from poise.servers.model import Address, Policy, Protocol, Server, State, Vip


def wanted(number: int, name: str | None = None, *, version: int = 4, weight: int = 1) -> WantedServer:
    """Server 1 is web1 at 10.0.0.1:8080, of IPv6 at [2001:db8:1::1]:8080."""
    first = IPv4Address("10.0.0.0") if version == 4 else IPv6Address("2001:db8:1::")
    return WantedServer(name or f"web{number}", first + number, 8080, weight)


def wanted_vip(
    number: int,
    *servers: WantedServer,
    name: str | None = None,
    protocol: Protocol = Protocol.TCP,
    version: int = 4,
) -> WantedVip:
    """VIP 1 is vip1 at 192.0.2.1:80, of IPv6 at [2001:db8::1]:80."""
    first = IPv4Address("192.0.2.0") if version == 4 else IPv6Address("2001:db8::")
    return WantedVip(name or f"vip{number}", first + number, 80, Policy.ROUND_ROBIN, servers, protocol)


def states(vip: Vip) -> dict[str, tuple[int, State]]:
    """The id and state of each server of a VIP, by its name."""
    return {server.name: (server.id, server.state) for server in vip.servers}


def end(thing: Vip | Server | WantedServer | WantedVip) -> tuple[Address, int]:
    """Where it listens."""
    return thing.address, thing.port
