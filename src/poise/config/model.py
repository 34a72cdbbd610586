# SPDX-License-Identifier: Apache-2.0
"""What poise.yaml says, as plain frozen models."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field

from poise.api import DEFAULT_SOCKET
from poise.config.addresses import Address, Prefix
from poise.config.base import Written
from poise.config.care import MAXIMUM_CHECKS, CheckConfig, DrainConfig, LoadConfig, PassiveConfig
from poise.config.fields import (
    AbsolutePath,
    Codepoint,
    ConnectionRows,
    FlowRate,
    FlowRows,
    HandshakeRows,
    Include,
    Interface,
    Name,
    NonceLength,
    OptionalName,
    OptionalPath,
    Port,
    ServerIdLength,
    VipLimit,
    Vlan,
    Weight,
)
from poise.config.measures import Alpha, Duration, Percent, SlowStart
from poise.endpoints import write_end

# Of enum limits in bpf/poise/contract.h.
MAXIMUM_PREFIXES: Final = 1024
MAXIMUM_SERVERS: Final = 512  # of a VIP: the cookie has 9 bits
MAXIMUM_TAGS: Final = 2  # of a frame
MAXIMUM_QUIC_IDS: Final = 7  # codepoints 0 to 6
MAXIMUM_ID_BYTES: Final = 19  # of server id and nonce: a connection id has at most 20 (RFC 9000)

MAXIMUM_POOLS: Final = 4096
DEFAULT_VIP_LIMIT: Final = 64

XdpMode = Literal["auto", "native", "generic"]
Policy = Literal[
    "round-robin",
    "weighted-round-robin",
    "hash",
    "maglev",
    "power-of-two",
    "least-loaded",
    "awrr",
    "prequal",
]
HASHING: Final = ("hash", "maglev")  # the policies that a VIP without cookies can have


def _address_and_port(fields: dict[str, Any]) -> str:
    return write_end(fields["address"], fields["port"])


def _policy(fields: dict[str, Any]) -> Policy:
    return "hash" if fields.get("mode") == "cookieless" else "round-robin"


def _named(interface: object) -> object:
    """An interface that is written as its name alone."""
    return interface if isinstance(interface, dict | BaseModel) else {"name": interface}


class InterfaceConfig(Written):
    """An interface that packets of clients or servers come in on."""

    name: Interface
    """As `ip link` shows it."""
    vlans: Annotated[list[Vlan], Field(max_length=MAXIMUM_TAGS)] = []
    """VLAN ids that its frames carry, the outer one first."""


class QuicIdsConfig(Written):
    """How the connection ids with one codepoint name servers."""

    config: Codepoint
    """The config-rotation bits of these ids."""
    server_id_length: ServerIdLength = 2
    """Bytes of the server id."""
    nonce_length: NonceLength = 6
    """Bytes of the nonce."""
    key_file: OptionalPath = None
    """The key with which ids are encrypted, as 16 bytes or 32 hexadecimal digits."""


class ServerConfig(Written):
    """A server that takes connections of a VIP."""

    address: Address
    """The server's own address."""
    port: Port
    """The port on which it serves the VIP."""
    name: Name = Field(default_factory=_address_and_port)
    """For commands; ADDRESS:PORT unless given."""
    weight: Weight = 1
    """Its share of new connections, in all policies but round-robin."""


class PoolConfig(Written):
    """Servers that VIPs name together."""

    name: Name
    """What VIPs call it."""
    servers: Annotated[list[ServerConfig], Field(max_length=MAXIMUM_SERVERS)]
    """The servers in it."""


class VipConfig(Written):
    """A virtual address and port that clients connect to."""

    address: Address
    """The address that clients connect to."""
    port: Port
    """The port that they connect to."""
    name: Name = Field(default_factory=_address_and_port)
    """For commands; ADDRESS:PORT unless given."""
    protocol: Literal["tcp", "udp", "quic"] = "tcp"
    """What is balanced; quic is UDP whose connection ids may name the server."""
    mode: Literal["stateless", "stateful", "cookieless"] = "stateless"
    """What keeps connections on their servers: cookies, a table of them (TCP only), or only a hash."""
    policy: Policy = Field(default_factory=_policy)
    """How new connections are placed."""
    timestamp_layout: Literal["low", "msb", "lsb"] = "low"
    """Where in TCP's timestamp the cookie stands; msb and lsb are for research."""
    quic_ids: Annotated[list[QuicIdsConfig], Field(min_length=1, max_length=MAXIMUM_QUIC_IDS)] = [
        QuicIdsConfig(config=0)
    ]
    """For QUIC: the kinds of connection ids that the servers make."""
    pool: OptionalName = None
    """The pool with its servers, instead of `servers`."""
    servers: Annotated[list[ServerConfig], Field(max_length=MAXIMUM_SERVERS)] = []
    """Its servers; those of the pool if it names one."""
    checks: Annotated[list[CheckConfig], Field(max_length=MAXIMUM_CHECKS)] = []
    """Health checks, all of which a server must pass."""
    passive: PassiveConfig | None = None
    """What is judged from packets alone; nothing unless given."""
    panic: Percent = 0.5
    """If fewer than this part of the servers are up, all of them are used."""
    slow_start: SlowStart = 0.0
    """The time in which a server that recovered gets its full share again."""
    drain: DrainConfig = DrainConfig()
    """How a drain ends."""
    load: LoadConfig = LoadConfig()
    """Where the load of the servers is seen."""
    awrr_alpha: Alpha = 0.0
    """How much the policy awrr damps differences of load."""


class Config(Written):
    """All of poise.yaml, with what the files in its `include` directory hold."""

    interfaces: Annotated[
        list[
            Annotated[
                InterfaceConfig, BeforeValidator(_named, json_schema_input_type=Interface | InterfaceConfig)
            ]
        ],
        Field(min_length=1),
    ]
    """Those that packets of clients and servers come in on; one is enough if both use the same."""
    vips: Annotated[list[VipConfig], Field(min_length=1)]
    """What clients connect to."""
    pools: Annotated[list[PoolConfig], Field(max_length=MAXIMUM_POOLS)] = []
    """Servers that VIPs name together."""
    include: Include = None
    """A directory, from this file's; each NAME.yaml in it may hold `pools` and `vips`."""
    direct: list[Prefix] = []
    """Prefixes whose packets are left alone."""
    id_rest: Duration = 24 * 3600
    """How long the id of a removed server stays unused."""
    xdp_mode: XdpMode = "auto"
    """Where the programs run: in the driver, in the network stack, or where they can."""
    socket: AbsolutePath = DEFAULT_SOCKET
    """Where commands reach the running poise."""
    state_directory: AbsolutePath = Path("/var/lib/poise")
    """Where ids and keys are kept."""
    pin_directory: AbsolutePath = Path("/sys/fs/bpf/poise")
    """Where programs and tables are pinned."""
    key_file: OptionalPath = None
    """The key of the cookie, 32 hexadecimal digits; cookie.key in the state directory unless given."""
    vip_limit: VipLimit = DEFAULT_VIP_LIMIT
    """How many VIPs the tables have room for."""
    handshake_rows: HandshakeRows = 16384
    """Rows of the table of connections being opened, a power of two."""
    flow_rows: FlowRows = 131072
    """How many flows without a cookie are remembered."""
    flow_rate: FlowRate = 10000
    """How many of them each CPU remembers anew in a second."""
    connection_rows: ConnectionRows = 64
    """Rows of 512 connections of stateful VIPs, a power of two."""

    @property
    def interface_names(self) -> list[str]:
        """The names of the interfaces."""
        return [interface.name for interface in self.interfaces]


class Included(Written):
    """A file in the `include` directory."""

    pools: Annotated[list[PoolConfig], Field(max_length=MAXIMUM_POOLS)] = []
    """Servers that VIPs name together."""
    vips: list[VipConfig] = []
    """What clients connect to."""
