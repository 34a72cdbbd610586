# SPDX-License-Identifier: Apache-2.0
"""The addresses of the lab, alike in both families: host 11 of subnet 2 is 10.2.0.11 or 2001:db8:2::b."""

import socket
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Literal

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network
Family = Literal[4, 6]


def subnet(family: Family, number: int) -> IPNetwork:
    """Subnet `number` (1 to 9): of 10.0.0.0/8, or of what RFC 3849 reserves for documentation."""
    return ip_network(f"10.{number}.0.0/24" if family == 4 else f"2001:db8:{number}::/64")


def interface(network: IPNetwork, host: int) -> IPInterface:
    """Host `host` of a subnet, with the length of the subnet's prefix."""
    return ip_interface(f"{network[host]}/{network.prefixlen}")


def adding(address: IPInterface, device: str) -> str:
    """The iproute2 command that gives a device an address, which is in use at once."""
    return f"address add {address} dev {device}" + (" nodad" if address.version == 6 else "")


def in_url(address: IPAddress) -> str:
    """An address as it stands in a URL before the port (RFC 3986, 3.2.2)."""
    return f"[{address}]" if address.version == 6 else str(address)


def socket_family(address: IPAddress | str) -> socket.AddressFamily:
    """The family of the sockets that can talk to an address."""
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
