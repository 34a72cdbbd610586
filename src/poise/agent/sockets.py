# SPDX-License-Identifier: Apache-2.0
"""How many connections of a service are established: the kernel tells by sock_diag(7), to anybody."""

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from poise.errors import PoiseError

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST, _DUMP = 0x1, 0x300
_DONE, _ERROR = 3, 2
_ESTABLISHED: Final = 1 << 1
_READ: Final = 1 << 18

_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
# struct inet_diag_req_v2: family, protocol, extensions, states; then struct inet_diag_sockid
_ASK: Final = struct.Struct("=BBBxI2s2s16s16sI8s")
# struct inet_diag_msg: family, state, timer, retransmissions; ports and addresses of the sockid
_ANSWER: Final = struct.Struct("=BBBB2s2s16s16s")

Address = IPv4Address | IPv6Address


def established(address: Address, port: int) -> int:
    """Return how many TCP connections to this address and port are established.

    address: 0.0.0.0 or [::] for any. Raises PoiseError if the kernel does not tell.
    """
    # Sockets of IPv6 may carry connections over IPv4.
    families = [socket.AF_INET6] + [socket.AF_INET] * (address.version == 4 or address.is_unspecified)
    return sum(_is_meant(local, address) for family in families for local in _locals(family, port))


def _is_meant(local: Address, address: Address) -> bool:
    if address.is_unspecified:
        return True
    mapped = local.ipv4_mapped if isinstance(local, IPv6Address) else None
    return (mapped or local) == address


def _locals(family: int, port: int) -> Iterator[Address]:
    """Yield the own address of each established connection to a port; the kernel looks for it."""
    local = (struct.pack("!H", port), bytes(2), bytes(16), bytes(16), 0, b"\xff" * 8)
    body = _ASK.pack(family, socket.IPPROTO_TCP, 0, _ESTABLISHED, *local)
    header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.send(header + body)
            yield from _read(netlink)
    except OSError as error:
        raise PoiseError(
            f"the kernel does not tell which connections there are: {error.strerror} (sock_diag); "
            "load the module inet_diag, or leave out --service"
        ) from error


def _read(netlink: socket.socket) -> Iterator[Address]:
    while True:
        data = netlink.recv(_READ)
        at = 0
        while at < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                (number,) = struct.unpack_from("=i", data, at + _HEADER.size)
                raise OSError(-number, os.strerror(-number))
            family, _, _, _, _, _, local, _ = _ANSWER.unpack_from(data, at + _HEADER.size)
            yield ip_address(local[:4] if family == socket.AF_INET else local)
            at += (length + 3) & ~3
