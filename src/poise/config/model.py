# SPDX-License-Identifier: Apache-2.0
"""What poise.yaml says, as plain frozen models."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from poise.api import DEFAULT_SOCKET
from poise.config.addresses import Address, Prefix
from poise.config.fields import (
    AbsolutePath,
    Codepoint,
    Duration,
    FlowRate,
    FlowRows,
    Interface,
    Name,
    NonceLength,
    OptionalPath,
    Port,
    Rows,
    ServerIdLength,
    Vlan,
    Weight,
)
from poise.endpoints import write_end

# Of enum limits in bpf/poise/contract.h.
MAXIMUM_VIPS: Final = 128
MAXIMUM_PREFIXES: Final = 1024
MAXIMUM_SERVERS: Final = 512  # of a VIP: the cookie has 9 bits
MAXIMUM_TAGS: Final = 2  # of a frame
MAXIMUM_QUIC_IDS: Final = 7  # codepoints 0 to 6
MAXIMUM_ID_BYTES: Final = 19  # of server id and nonce: a connection id has at most 20 (RFC 9000)

XdpMode = Literal["auto", "native", "generic"]


def _address_and_port(fields: dict[str, Any]) -> str:
    return write_end(fields["address"], fields["port"])


def _named(interface: object) -> object:
    """An interface that is written as its name alone."""
    return interface if isinstance(interface, dict | BaseModel) else {"name": interface}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InterfaceConfig(_Model):
    """An interface that packets come in on; `vlans`: tags that its frames carry, the outer one first."""

    name: Interface
    vlans: Annotated[list[Vlan], Field(max_length=MAXIMUM_TAGS)] = []


class QuicIdsConfig(_Model):
    """How the connection ids with one codepoint name servers; encrypted if there is a key file."""

    config: Codepoint
    server_id_length: ServerIdLength = 2
    nonce_length: NonceLength = 6
    key_file: OptionalPath = None


class ServerConfig(_Model):
    """A server that takes connections of a VIP; its name is ADDRESS:PORT unless given."""

    address: Address
    port: Port
    name: Name = Field(default_factory=_address_and_port)
    weight: Weight = 1


class VipConfig(_Model):
    """A virtual address and port that clients connect to; its name is ADDRESS:PORT unless given.

    quic_ids: for protocol quic only.
    """

    address: Address
    port: Port
    name: Name = Field(default_factory=_address_and_port)
    protocol: Literal["tcp", "udp", "quic"] = "tcp"
    policy: Literal["round-robin", "hash"] = "round-robin"
    mode: Literal["stateless", "stateful"] = "stateless"
    timestamp_layout: Literal["low", "msb", "lsb"] = "low"
    quic_ids: Annotated[list[QuicIdsConfig], Field(min_length=1, max_length=MAXIMUM_QUIC_IDS)] = [
        QuicIdsConfig(config=0)
    ]
    servers: Annotated[list[ServerConfig], Field(max_length=MAXIMUM_SERVERS)]


class Config(_Model):
    """All of poise.yaml.

    interfaces: those that packets of clients and servers come in on; one is enough.
    direct: prefixes whose packets poise leaves alone.
    id_rest: seconds that the id of a removed server stays unused.
    handshake_rows: connections being opened at once that are remembered, a power of two.
    flow_rows: flows without a cookie that are remembered. flow_rate: new ones of them per second and CPU.
    connection_rows: rows of 512 connections of stateful VIPs, a power of two.
    """

    interfaces: Annotated[list[Annotated[InterfaceConfig, BeforeValidator(_named)]], Field(min_length=1)]
    vips: Annotated[list[VipConfig], Field(min_length=1, max_length=MAXIMUM_VIPS)]
    direct: list[Prefix] = []
    id_rest: Duration = 24 * 3600
    xdp_mode: XdpMode = "auto"
    socket: AbsolutePath = DEFAULT_SOCKET
    state_directory: AbsolutePath = Path("/var/lib/poise")
    pin_directory: AbsolutePath = Path("/sys/fs/bpf/poise")
    handshake_rows: Rows = 16384
    flow_rows: FlowRows = 131072
    flow_rate: FlowRate = 10000
    connection_rows: Rows = 64

    @property
    def interface_names(self) -> list[str]:
        """The names of the interfaces."""
        return [interface.name for interface in self.interfaces]
