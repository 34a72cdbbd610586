# SPDX-License-Identifier: Apache-2.0
"""What a decision costs: nanoseconds a packet, by BPF_PROG_TEST_RUN over randomly drawn flows.

A generator program (bench/decision/decision.bpf.c) writes the next packet of a random flow and
tail-calls the program under test, so that caches see what they would see of real traffic.
"""

import os
import statistics
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import typer

from poise.bench import policies
from poise.errors import PoiseError
from poise.kernel import netlink
from poise.kernel.libbpf import Object, Program
from poise.lab.namespaces import Lab
from poise.servers.contents import carry_out, shape_of
from poise.servers.model import SERVER_IDS, Hop, Mode, Model, Policy, Protocol, QuicIds, Server, State, Vip
from poise.servers.plan import plan
from poise.servers.rows import address_row, of_model
from poise.servers.tables import Present

REPETITIONS = 7
BURSTS = 20  # of one repetition, which counts as its fastest: others on the machine only ever slow one down
PACKETS = 50_000  # of one burst
WARM_UP = 4  # packets a flow before the connection table is timed, so that it holds nearly all flows
_SENT = (3, 4)  # XDP_TX, XDP_REDIRECT

_VIP = Vip(0, "bench", IPv4Address("10.9.0.1"), 80, Policy.ROUND_ROBIN)
_VIP6 = Vip(1, "bench, IPv6", IPv6Address("2001:db8:9::1"), 80, Policy.ROUND_ROBIN)
_UDP_VIP = Vip(2, "bench, UDP", IPv4Address("10.9.0.1"), 80, Policy.ROUND_ROBIN, protocol=Protocol.UDP)
_QUIC_VIP = Vip(
    *(3, "bench, QUIC", IPv4Address("10.9.0.2"), 80, Policy.ROUND_ROBIN),
    protocol=Protocol.QUIC,
    quic_ids=(QuicIds(config=0, server_id_length=2, nonce_length=6),),
)
_STATEFUL_VIP = Vip(4, "bench, stateful", IPv4Address("10.9.0.3"), 80, Policy.ROUND_ROBIN, mode=Mode.STATEFUL)
_FIRST_SERVER = IPv4Address("10.2.0.0")
_FIRST_SERVER6 = IPv6Address("2001:db8:2::")
_VIPS = (
    (_VIP, _FIRST_SERVER),
    (_VIP6, _FIRST_SERVER6),
    (_UDP_VIP, _FIRST_SERVER),
    (_QUIC_VIP, _FIRST_SERVER + SERVER_IDS),  # UDP too, so that its servers are others
    (_STATEFUL_VIP, _FIRST_SERVER + SERVER_IDS),
)
_BY_POLICY = policies.vips(first=len(_VIPS))
_ADDRESSES = {
    **{name: vip.address for name, vip in _BY_POLICY.items()},
    "quic": _QUIC_VIP.address,
    "stateful": _STATEFUL_VIP.address,
    "stateful-return": _STATEFUL_VIP.address,
}
_SERVER_PORT = 8080
_SERVER_MAC, _OWN_MAC = b"\x02\x00\x00\x00\x00\x02", b"\x02\x00\x00\x00\x00\x01"
_ROUTER = "10.1.0.1"

# What is sent for each program: enum traffic_kind, and whether the shipped program is under test.
_KINDS = {
    "established": 0,
    "syn": 1,
    **dict.fromkeys(_BY_POLICY, 1),
    "return": 2,
    "established-ipv6": 3,
    "no-timestamp": 4,
    "udp": 5,
    "quic": 6,
    "stateful": 7,
    "stateful-return": 8,
}
_COMPARED = ("harness", "maglev", "lru")  # of bench/decision, with the packets of established connections
_PROGRAMS = ("harness", *_KINDS, "maglev", "lru")
_SYN, _ACK = 0x02, 0x10
_TCP, _UDP = 6, 17
_FRAME = 66  # bytes, that the generator can write a whole TCP header into any of them
_FLOW_RATE = 10_000  # per second, as poise.yaml has it by default
_SAMPLE_MASK = 63  # likewise


def run(flows: list[int]) -> list[dict[str, object]]:
    """Return a row for each program and number of flows: `program`, `flows`, and `ns`, a median.

    `harness` is the generator alone with a program that only returns XDP_TX; its cost is in all
    other rows. The repetitions of the programs are interleaved. Raises PoiseError without root.
    """
    if os.geteuid() != 0:
        raise PoiseError("poise bench decision needs root (CAP_BPF and CAP_NET_ADMIN): run it with sudo")
    rows: list[dict[str, object]] = []
    with _Network() as network, network.host.enter(), _one_cpu(), _opened("balancer") as balancer:
        balancer.set_max_entries("connections", _connection_rows(max(flows)))
        balancer.load()
        _fill(balancer, network.ifindex())
        for number in flows:
            typer.echo(f"timing {number:,} flows", err=True)
            with _opened("decision") as generator:
                generator.set_max_entries("remembered", max(1024, 2 * number))
                generator.set_max_entries("cookies", number)
                for name in ("connections", "settings", "vips"):
                    generator.share_map(name, balancer)
                generator.load()
                medians = _Timing(balancer, generator, number).medians()
            rows += [{"program": name, "flows": number, "ns": medians[name]} for name in _PROGRAMS]
    return rows


def _connection_rows(flows: int) -> int:
    """A power of two; half full, no row of 512 overflows."""
    return max(64, 1 << (flows // (SERVER_IDS // 2)).bit_length())


class _Network(Lab):
    """A host with a default route and a router whose MAC address it knows, as replies need."""

    def build(self) -> None:
        self.host = self.namespace("bench")
        router = self.namespace("router")
        self.link(self.host, "out", router, "in")
        self.host.ip(
            "address add 10.1.0.2/24 dev out",
            f"route add default via {_ROUTER}",
            f"neighbour replace {_ROUTER} lladdr 02:00:00:00:00:01 dev out nud permanent",
        )
        # The test run's packets come in on the loopback interface.
        self.host.sysctl({"net.ipv4.ip_forward": 1})

    def ifindex(self) -> int:
        return netlink.interface("out").index


@contextmanager
def _opened(name: str) -> Iterator[Object]:
    with as_file(files("poise.objects") / f"{name}.bpf.o") as path:
        opened = Object(path)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _one_cpu() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _fill(balancer: Object, ifindex: int) -> None:
    """A VIP with a server for each id, so that any cookie names one."""
    vips = []
    for vip, first in _VIPS:
        servers = tuple(
            Server(number, f"s{number}", first + number, _SERVER_PORT, State.READY, 0, declared=True)
            for number in range(SERVER_IDS)
        )
        vips.append(replace(vip, servers=servers))
    model = Model((*vips, *_BY_POLICY.values()))
    hop = Hop(None, ifindex, _SERVER_MAC, _OWN_MAC, valid=True)
    hops = {server.address: hop for _, server in model.servers()}
    content = of_model(model, hops, bytes(range(16)))
    tables = (
        *("vips", "vip_addresses", "servers", "server_addresses", "origins", "pools", "maglevs"),
        *("quic_configs", "lives"),
    )
    maps = {name: balancer.map(name) for name in tables}
    for step in plan(Present.empty(shape_of(maps)), content):
        carry_out(step, maps)
    for vip in _BY_POLICY.values():
        policies.fill(vip, maps)
    rows = balancer.map("handshakes").max_entries
    balancer.map("settings").set(
        0,
        {
            "handshake_mask": rows - 1,
            "flow_rate": _FLOW_RATE,
            "connection_mask": balancer.map("connections").max_entries - 1,
            "sample_mask": _SAMPLE_MASK,
        },
    )


@dataclass(frozen=True)
class _Timing:
    balancer: Object
    generator: Object
    flows: int

    def medians(self) -> dict[str, int]:
        shipped = self.balancer.program("balancer")
        runs = {name: (name, shipped) for name in _KINDS}
        runs |= {name: ("established", self.generator.program(name)) for name in _COMPARED}
        self._enter_connections()
        self._once(*runs["lru"], WARM_UP * self.flows)
        times: dict[str, list[int]] = {name: [] for name in runs}
        for _ in range(REPETITIONS):
            for name, (kind, program) in runs.items():
                times[name].append(min(self._once(kind, program, PACKETS) for _ in range(BURSTS)))
        return {name: round(statistics.median(each)) for name, each in times.items()}

    def _enter_connections(self) -> None:
        """Have all flows of the stateful VIP established."""
        vip = {"vip": int(_STATEFUL_VIP.address), "vip_port": _STATEFUL_VIP.port}
        self.generator.map("draws").set(0, vip)
        if self.generator.program("enter").test_run(bytes(_FRAME), self.flows).verdict not in _SENT:
            raise PoiseError("the table of connections did not take all flows")

    def _once(self, kind: str, program: Program, packets: int) -> int:
        draw: dict[str, Any] = {
            "flows": self.flows,
            "kind": _KINDS[kind],
            "vip": int(_ADDRESSES.get(kind, _VIP.address)),
            "vip6": address_row(_VIP6.address),
            "vip_port": _VIP.port,
            "first_server": int(_FIRST_SERVER + (SERVER_IDS if kind == "stateful-return" else 0)),
            "server_port": _SERVER_PORT,
        }
        self.generator.map("draws").set(0, draw)
        self.generator.map("under_test").set(0, program.fd)
        result = self.generator.program("generate").test_run(_segment(kind), packets)
        if result.verdict not in _SENT:
            raise PoiseError(f"a packet of {kind} was not sent on by {program.name}: {result.verdict}")
        return result.nanoseconds


def _segment(kind: str) -> bytes:
    """A packet of that kind, of which the generator writes the rest; TCP with NOP, NOP, timestamp."""
    family = b"\x86\xdd" if kind == "established-ipv6" else b"\x08\x00"
    transport = _udp() if kind in ("udp", "quic") else _tcp(kind)
    if kind == "established-ipv6":
        ip = struct.pack("!IHBB32x", 6 << 28, len(transport), _TCP, 64)
    else:
        length = 20 + len(transport)
        ip = struct.pack("!BBHHHBBHII", 0x45, 0, length, 0, 0x4000, 64, _TCP, 0, 0, 0)
    return (bytes(12) + family + ip + transport).ljust(_FRAME, b"\0")


def _tcp(kind: str) -> bytes:
    options = b"" if kind == "no-timestamp" else b"\x01\x01\x08\x0a" + bytes(8)
    flags = _SYN if kind.startswith("syn") else _ACK
    return struct.pack("!HHIIBBHHH", 0, 0, 1, 1, 20 + len(options) << 2, flags, 1024, 0, 0) + options


def _udp() -> bytes:
    return struct.pack("!HHHH", 0, 0, 32, 0) + bytes(24)
