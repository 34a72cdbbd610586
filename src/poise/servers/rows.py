# SPDX-License-Identifier: Apache-2.0
"""All that the kernel's tables should hold of one VIP, as numpy arrays.

Pure, as decide.py: what the members mean is told in contract.h. Numbers stand here in this machine's byte
order; apply.py brings them into the layouts of the BPF object, by the names of the members.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poise.quic import tables as quic
from poise.servers import cookie
from poise.servers.ends import Row, end_numbers, end_of
from poise.servers.model import (
    SERVER_IDS,
    Address,
    Hop,
    Layout,
    Link,
    Mode,
    Model,
    Policy,
    Protocol,
    Server,
    State,
    Vip,
)
from poise.servers.schedule import schedule
from poise.servers.standing import Choice, Standing, choice

Records = NDArray[Any]
"""A one-dimensional structured array."""

POLICIES: Final = {  # enum policy
    Policy.ROUND_ROBIN: 0,
    Policy.WEIGHTED_ROUND_ROBIN: 0,
    Policy.AWRR: 0,
    Policy.HASH: 1,
    Policy.MAGLEV: 2,
    Policy.POWER_OF_TWO: 3,
    Policy.LEAST_LOADED: 4,
    Policy.PREQUAL: 5,
}
MODES: Final = {Mode.STATELESS: 0, Mode.STATEFUL: 1, Mode.COOKIELESS: 2}  # enum mode
LAYOUTS: Final = {Layout.LOW: 0, Layout.MSB: 1, Layout.LSB: 2}  # enum layout
READY, DRAIN, CUT = 1, 2, 3  # enum server_state
ASKS_DIRECT, ASKS_LINKS, IS_QUIC, IS_WATCHED = 1, 2, 4, 8  # enum vip_flags
_STATES: Final = {
    State.READY: READY,
    State.DRAIN: DRAIN,
    State.MAINT: DRAIN,
    State.REMOVED: DRAIN,
    State.CUT: CUT,
}
_LARGEST_MTU = 65535
_NO_TAGS = (0, 0)
_NO_MAC = (0,) * 6

VIP: Final = np.dtype(
    [
        ("end", "u8"),
        ("hash_state", "u8", 4),
        ("address", "u4"),
        ("port", "u2"),
        ("protocol", "u1"),
        ("policy", "u1"),
        ("index", "u4"),
        ("pool", "u4"),
        ("mode", "u1"),
        ("layout", "u1"),
        ("flags", "u4"),
        ("hot_above", "u4"),
    ]
)
SERVER: Final = np.dtype(
    [
        ("address", "u4"),
        ("port", "u2"),
        ("state", "u1"),
        ("tags", "u1"),
        ("ifindex", "u4"),
        ("hop_mac", "u1", 6),
        ("interface_mac", "u1", 6),
        ("tag", "u2", 2),
        ("mtu", "u2"),
    ]
)
ORIGIN: Final = np.dtype([("end", "u8"), ("vip_row", "u2"), ("vip", "u2"), ("server", "u2"), ("cut", "u2")])
ADDRESS: Final = np.dtype([("word", "u4", 4)])
QUIC_CONFIG: Final = np.dtype([("algorithm", "u4"), ("server_id_length", "u1"), ("nonce_length", "u1")])


class Pool(NamedTuple):
    """The servers that take new connections by id, their weights, and their turns (ids, in order)."""

    ids: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    turns: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class VipTables:
    """What the tables should hold of the VIP with this index.

    vip: its row of VIP, but for `pool`, which plan.py chooses. address: [1] of ADDRESS, zero for IPv4.
    servers and server_addresses: [512] of SERVER and of ADDRESS, by id. origins: [n] of ORIGIN, no end
    twice; `vip_row` is plan.py's too. quic_configs: [8] of QUIC_CONFIG, by codepoint.
    """

    index: int
    vip: Records
    address: Records
    servers: Records
    server_addresses: Records
    origins: Records
    pool: Pool
    quic_configs: Records

    def __eq__(self, other: object) -> bool:
        """Whether the tables would hold the same."""
        return (
            isinstance(other, VipTables)
            and self.index == other.index
            and self.pool == other.pool
            and all(
                getattr(self, name).tobytes() == getattr(other, name).tobytes()
                for name in ("vip", "address", "servers", "server_addresses", "origins", "quic_configs")
            )
        )

    __hash__ = None  # type: ignore[assignment]  # arrays can be changed


def flags_for(direct: Iterable[object], links: Mapping[int, Link]) -> int:
    """Return the flags that VIPs have because there are `direct:` prefixes, or links with VLAN tags."""
    return (ASKS_DIRECT if any(True for _ in direct) else 0) | (ASKS_LINKS if links else 0)


def desired(vip: Vip, chosen: Choice, hops: Mapping[Address, Hop], key: bytes, flags: int = 0) -> VipTables:
    """Return what the tables should hold of a VIP.

    chosen: who takes new connections. hops: by server address; a server without one cannot be sent to.
    key: of the cookie. flags: as `flags_for` tells.
    """
    rows = [_server_row(server, hops.get(server.address)) for server in vip.servers]
    ids = np.fromiter((server.id for server in vip.servers), np.intp, len(vip.servers))
    packed = np.array(rows, SERVER)
    addresses = addresses_of([server.address for server in vip.servers])
    servers, server_addresses = np.zeros(SERVER_IDS, SERVER), np.zeros(SERVER_IDS, ADDRESS)
    servers[ids], server_addresses[ids] = packed, addresses
    return VipTables(
        index=vip.index,
        vip=_vip_row(vip, chosen.hot_above, key, flags),
        address=addresses_of([vip.address]),
        servers=servers,
        server_addresses=server_addresses,
        origins=origins_of(vip.index, vip.protocol.number, ids, packed, addresses),
        pool=_pool(chosen),
        quic_configs=_quic_rows(vip),
    )


def of_model(
    model: Model,
    hops: Mapping[Address, Hop],
    key: bytes,
    direct: Iterable[object] = (),
    links: Mapping[int, Link] | None = None,
) -> dict[int, VipTables]:
    """Return what the tables should hold of all VIPs, where of servers only valid hops are known."""
    flags = flags_for(direct, links or {})
    wanted = {}
    for vip in model.vips:
        found = ((server.id, hops.get(server.address)) for server in vip.servers)
        standings = {number: Standing(reachable=hop is not None and hop.valid) for number, hop in found}
        wanted[vip.index] = desired(vip, choice(vip, standings), hops, key, flags)
    return wanted


def _vip_row(vip: Vip, hot_above: int, key: bytes, flags: int) -> Records:
    end = end_of(vip)
    row = np.zeros(1, VIP)
    row[0] = (
        end.number(),
        cookie.vip_state(key, end.packed()),
        ipv4(vip.address),
        vip.port,
        end.protocol,
        POLICIES[vip.policy],
        vip.index,
        0,
        MODES[vip.mode],
        LAYOUTS[vip.layout],
        flags | (IS_QUIC if vip.protocol == Protocol.QUIC else 0),
        hot_above,
    )
    return row


def _server_row(server: Server, hop: Hop | None) -> tuple[object, ...]:
    address = server.address
    of_ipv4 = int(address) if address.version == 4 else 0
    if hop is None or server.state is State.CUT:
        return (of_ipv4, server.port, _STATES[server.state], 0, 0, _NO_MAC, _NO_MAC, _NO_TAGS, 0)
    return (
        of_ipv4,
        server.port,
        _STATES[server.state],
        len(hop.tags),
        hop.ifindex,
        tuple(hop.mac),
        tuple(hop.interface_mac),
        two(hop.tags),
        min(hop.mtu or _LARGEST_MTU, _LARGEST_MTU),
    )


def origins_of(
    index: int, protocol: int, ids: NDArray[np.intp], servers: Records, addresses: Records
) -> Records:
    """Return the rows of ORIGIN for servers of a VIP; of those at the same end the last that is not cut."""
    numbers = end_numbers(servers["address"], servers["port"], protocol, addresses["word"])
    cut = servers["state"] == CUT
    chosen: dict[int, int] = {}
    for at in np.argsort(~cut, kind="stable").tolist():
        chosen[int(numbers[at])] = at
    order = np.fromiter(chosen.values(), np.intp, len(chosen))
    rows = np.zeros(len(chosen), ORIGIN)
    rows["end"], rows["vip"], rows["server"], rows["cut"] = numbers[order], index, ids[order], cut[order]
    return rows


def addresses_of(addresses: Iterable[Address]) -> Records:
    """Return rows of ADDRESS; all zero those of IPv4, which have their place elsewhere."""
    packed = b"".join(bytes(16) if address.version == 4 else address.packed for address in addresses)
    return np.frombuffer(packed, ">u4").astype("u4").view(ADDRESS).copy()


def address_row(address: Address) -> Row:
    """Return struct address for a single write."""
    packed = address.packed.rjust(16, b"\0")
    return {"word": tuple(int.from_bytes(packed[at : at + 4], "big") for at in range(0, 16, 4))}


def _pool(chosen: Choice) -> Pool:
    ids = tuple(sorted(chosen.shares))
    return Pool(ids, tuple(chosen.weights.get(server, 1) for server in ids), schedule(chosen.shares))


def _quic_rows(vip: Vip) -> Records:
    rows = np.zeros(quic.CODEPOINTS, QUIC_CONFIG)
    for row, config in quic.configs(vip).items():
        rows[row % quic.CODEPOINTS] = tuple(config[name] for name in QUIC_CONFIG.names or ())
    return rows


def two(tags: tuple[int, ...]) -> tuple[int, ...]:
    """Return VLAN tags as the rows have them, filled up with zeros."""
    return (*tags, 0, 0)[:2]


def ipv4(address: Address) -> int:
    """Return an address of IPv4 as a number, 0 for one of IPv6."""
    return int(address) if address.version == 4 else 0
