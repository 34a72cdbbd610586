# SPDX-License-Identifier: Apache-2.0
"""What poise.yaml says, as plain frozen models."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from poise.api import DEFAULT_SOCKET
from poise.config.fields import (
    AbsolutePath,
    Address,
    Duration,
    Interface,
    Name,
    Port,
    Prefix,
    Rows,
)

# Of enum limits in bpf/poise/contract.h.
MAXIMUM_VIPS: Final = 128
MAXIMUM_PREFIXES: Final = 1024
MAXIMUM_SERVERS: Final = 512  # of a VIP: the cookie has 9 bits

XdpMode = Literal["auto", "native", "generic"]


def _address_and_port(fields: dict[str, object]) -> str:
    return f"{fields['address']}:{fields['port']}"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(_Model):
    """A server that takes connections of a VIP; its name is ADDRESS:PORT unless given."""

    address: Address
    port: Port
    name: Name = Field(default_factory=_address_and_port)


class VipConfig(_Model):
    """A virtual address and port that clients connect to; its name is ADDRESS:PORT unless given."""

    address: Address
    port: Port
    name: Name = Field(default_factory=_address_and_port)
    protocol: Literal["tcp"] = "tcp"
    policy: Literal["round-robin", "hash"] = "round-robin"
    servers: Annotated[list[ServerConfig], Field(max_length=MAXIMUM_SERVERS)]


class Config(_Model):
    """All of poise.yaml.

    interfaces: those that packets of clients and servers come in on; one is enough.
    direct: prefixes whose packets poise leaves alone.
    id_rest: seconds that the id of a removed server stays unused.
    handshake_rows: connections being opened at once that are remembered, a power of two.
    """

    interfaces: Annotated[list[Interface], Field(min_length=1)]
    vips: Annotated[list[VipConfig], Field(min_length=1, max_length=MAXIMUM_VIPS)]
    direct: list[Prefix] = []
    id_rest: Duration = 24 * 3600
    xdp_mode: XdpMode = "auto"
    socket: AbsolutePath = DEFAULT_SOCKET
    state_directory: AbsolutePath = Path("/var/lib/poise")
    pin_directory: AbsolutePath = Path("/sys/fs/bpf/poise")
    handshake_rows: Rows = 16384
