# SPDX-License-Identifier: Apache-2.0
"""How an address with its port is written: 192.0.2.10:80 and [2001:db8::10]:80 (RFC 3986, section 3.2.2)."""

from ipaddress import AddressValueError, IPv4Address, IPv6Address


def write_end(address: IPv4Address | IPv6Address, port: int) -> str:
    """Write an address and a port as one word."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def read_end(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Read what `write_end` writes; raises ValueError for anything else. The port may be any number."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal()):
        raise ValueError(f"{text} has no port")
    try:
        if host.startswith("[") and host.endswith("]"):
            return IPv6Address(host[1:-1]), int(port)
        return IPv4Address(host), int(port)
    except AddressValueError as error:
        raise ValueError(f"{text} has no address") from error
