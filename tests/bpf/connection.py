# SPDX-License-Identifier: Apache-2.0
"""One client's connection to a VIP: its packets as they arrive and as they must leave."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from poise.servers.maglev import ROWS
from poise.servers.model import Policy, Server, Vip
from tests.bpf import packets
from tests.bpf.headers import Macs
from tests.bpf.network import (
    CLIENT,
    CLIENT_MAC,
    CLIENTS_MAC,
    LOOPBACK_MAC,
    SERVERS_MAC,
    TO_CLIENT,
)
from tests.bpf.packets import End, Fields
from tests.bpf.services import LOOPED, LOOPED6, TAGS, WEB, end_of, flow_hash, maglev_rows, server_mac

CLIENT_ISN = 0x10203040
SERVER_ISN = 0x50607080
SYN_OPTIONS = packets.usual(1000, 0)
CLIENT_END = End(CLIENT, 40000)


@dataclass(frozen=True)
class Connection:
    """A connection, by its ends."""

    vip: Vip = WEB
    client: End = CLIENT_END

    @property
    def first_byte(self) -> int:
        """What a SYN-ACK of this connection acknowledges."""
        return CLIENT_ISN + 1

    def cookie(self, server: Server | int) -> int:
        """Return the nine bits that name the server to this client."""
        number = server if isinstance(server, int) else server.id
        return (number ^ flow_hash(self.vip, self.client)) % 512

    def stamped(self, tsval: int, server: Server | int, *, mark: int) -> int:
        """Return what the client sees of a server's TSval: 22 bits of it, the handshake mark, the cookie."""
        return (tsval >> 10 << 10) + mark * 512 + self.cookie(server)

    def pick(self, servers: Sequence[Server]) -> Server:
        """Return the one that the connection's hash picks of the servers that take connections."""
        upper = flow_hash(self.vip, self.client) >> 32
        if self.vip.policy == Policy.HASH:
            return servers[upper % len(servers)]
        rows = maglev_rows(tuple((server.id, server.weight) for server in servers))
        (picked,) = (server for server in servers if server.id == rows[upper * ROWS >> 32])
        return picked

    def request(self, flags: str, options: bytes = b"", **fields: Unpack[Fields]) -> bytes:
        """Return a packet of the client; see packets.segment()."""
        macs = Macs(CLIENTS_MAC, CLIENT_MAC)
        return packets.segment(macs, self.client, end_of(self.vip), flags, options, **fields)

    def reply(self, server: Server, flags: str, options: bytes = b"", **fields: Unpack[Fields]) -> bytes:
        """Return a packet of the server; see packets.segment()."""
        macs = Macs(SERVERS_MAC, server_mac(server))
        return packets.segment(macs, end_of(server), self.client, flags, options, **fields)

    def datagram(self, **fields: Unpack[Fields]) -> bytes:
        """Return a packet of UDP from the client."""
        macs = Macs(CLIENTS_MAC, CLIENT_MAC)
        return packets.datagram(macs, self.client, end_of(self.vip), **fields)

    def answer(self, server: Server, **fields: Unpack[Fields]) -> bytes:
        """Return a packet of UDP from the server."""
        macs = Macs(SERVERS_MAC, server_mac(server))
        return packets.datagram(macs, end_of(server), self.client, **fields)

    def syn(self, options: bytes = SYN_OPTIONS, isn: int = CLIENT_ISN, payload: bytes = b"") -> bytes:
        """Return the client's SYN."""
        return self.request("S", options, seq=isn, payload=payload)

    def syn_ack(self, server: Server, tsval: int, isn: int = CLIENT_ISN) -> bytes:
        """Return the server's SYN-ACK."""
        return self.reply(server, "SA", packets.usual(tsval, 1000), seq=SERVER_ISN, ack=isn + 1)

    def at_server(self, frame: bytes, server: Server, tsecr: tuple[int, int] | None = None) -> bytes:
        """Return the client's packet as the server gets it, with one TSecr in place of another."""
        macs, tags = macs_to(server), TAGS.get(server.address, ())
        return packets.forwarded(frame, macs, target=end_of(server), tsecr=tsecr, tags=tags)

    def at_client(
        self,
        frame: bytes,
        tsval: tuple[int, int] | None = None,
        macs: Macs = TO_CLIENT,
        tags: tuple[int, ...] = (),
    ) -> bytes:
        """Return the server's packet as it leaves for the client, with one TSval in place of another."""
        return packets.forwarded(frame, macs, source=end_of(self.vip), tsval=tsval, tags=tags)


def macs_to(server: Server) -> Macs:
    """Return the Ethernet addresses of frames to a server."""
    return Macs(server_mac(server), LOOPBACK_MAC if server in (LOOPED, LOOPED6) else SERVERS_MAC)
