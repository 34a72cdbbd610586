# SPDX-License-Identifier: Apache-2.0
"""The real programs, loaded with real tables, and run on packets by BPF_PROG_TEST_RUN."""

import mmap
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from importlib.resources import as_file, files
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

import numpy as np

from poise.kernel.libbpf import Object
from poise.kernel.maps import Map
from poise.servers.connections import Connections
from poise.servers.contents import carry_out, shape_of
from poise.servers.ends import GONE
from poise.servers.model import SERVER_IDS, Address, Hop, Link, Model, State, Vip
from poise.servers.pick import Live, Pool
from poise.servers.plan import plan
from poise.servers.rows import Records, address_row, of_model
from poise.servers.tables import Present, Write
from tests.bpf.packets import End
from tests.bpf.services import TOKEN
from tests.servers.writes import singles

MAPS = (
    *("settings", "vips", "vip_addresses", "servers", "server_addresses", "origins", "pools", "maglevs"),
    *("links", "direct", "direct6", "flows", "fragments"),
    *("handshakes", "turns", "budgets", "events", "traffic", "server_clocks", "connections"),
    *("quic_configs", "lives", "open_connections", "samples", "watches"),
)
HANDSHAKE_ROWS = 1024
FLOW_RATE = 1000  # per second and CPU
SAMPLE_MASK = 63
RESET_COPIES_PER_SECOND = 20000  # of contract.h
BUDGETS = ("reset_copies", "flows", "icmp_copies", "too_big")  # its enum budgets, which no type names in BTF


IS_WATCHED = 8  # of enum vip_flags
STATES = {State.READY: 1, State.DRAIN: 2}  # enum server_state

Direct = frozenset[IPv4Network | IPv6Network]
NONE_DIRECT: Direct = frozenset()


class Verdict(IntEnum):
    """What an XDP program wants done with a packet: enum xdp_action."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


class TcVerdict(IntEnum):
    """The same of a TC program, linux/pkt_cls.h; UNSPEC leaves the packet to the kernel."""

    UNSPEC = 0xFFFFFFFF
    SHOT = 2
    REDIRECT = 7


@dataclass(frozen=True)
class Result:
    """What became of a packet."""

    verdict: Verdict
    packet: bytes


class Balancer:
    """Both programs of the balancer; runs take place in the caller's network namespace."""

    def __init__(self) -> None:
        """Load the programs, with tables of their own that nobody pins."""
        with as_file(files("poise.objects") / "balancer.bpf.o") as path:
            self._object = Object(path)
        self._object.set_max_entries("handshakes", HANDSHAKE_ROWS)
        self._object.set_max_entries("connections", 1)
        self._object.load()
        self._xdp = self._object.program("balancer")
        self._tc = self._object.program("slow_path")
        self._events = {
            number: name.removeprefix("EVENT_").lower()
            for name, number in self._object.btf.enum("event").items()
        }
        self._maps = {name: self._object.map(name) for name in MAPS}
        self.connections = Connections(self._map("connections"), self._object.program("sweep"))
        self._mapped = [_mapped(self._map(name)) for name in ("open_connections", "samples", "lives")]
        self._present = Present.empty(shape_of(self._maps))
        self.remember_in(HANDSHAKE_ROWS)

    def close(self) -> None:
        """Unload the programs."""
        for memory in self._mapped:
            memory.close()
        self._object.close()

    def _map(self, name: str) -> Map:
        return self._maps[name]

    def fill(
        self,
        model: Model,
        hops: Mapping[Address, Hop],
        key: bytes,
        direct: Direct = NONE_DIRECT,
        links: Mapping[int, Link] | None = None,
    ) -> None:
        """Have the tables hold this model, by the plan that the daemon would carry out."""
        for _ in self.filling(model, hops, key, direct, links):
            pass

    def filling(
        self,
        model: Model,
        hops: Mapping[Address, Hop],
        key: bytes,
        direct: Direct = NONE_DIRECT,
        links: Mapping[int, Link] | None = None,
    ) -> Generator[Write, None, None]:
        """Do the same step by step: yields each write when it is done; if closed, does the rest."""
        present, links = self._present, links or {}
        changes = dict.fromkeys(present.indices()) | of_model(model, hops, key, direct, links)
        steps = singles(plan(present, changes, links=links, direct=direct))
        try:
            for step in steps:
                self._write(step)
                yield step
        finally:
            for step in steps:
                self._write(step)

    def _write(self, step: Write) -> None:
        carry_out(step, self._maps)
        self._present.note(step)

    def start_afresh(self) -> None:
        """Forget handshakes, flows, fragments and what was spent; each VIP's first server is the next."""
        turns = self._map("turns")
        self.forget_handshakes()
        turns.update([(row, 0) for row, _ in turns.nonzero()])
        self._map("connections").set(0, {})
        for memory in self._mapped:
            memory[:] = bytes(len(memory))
        budgets = self._map("budgets")
        budgets.update([(row, [{} for _ in cpus]) for row, cpus in budgets.nonzero()])
        for table in (self._map("flows"), self._map("fragments")):
            for key in [key for key, _ in table.items()]:  # noqa: PERF102  a map, not a dict
                table.delete(key)

    def forget_clocks(self) -> None:
        """Forget what was seen of the servers' clocks."""
        self._map("server_clocks").clear(np.flatnonzero(self._present.servers["state"]))

    def age_fragments(self, by: int) -> None:
        """Have all first fragments come earlier, in units of the program's coarse_time()."""
        table = self._map("fragments")
        for key, way in list(table.items()):
            table.set(key, way | {"since": (way["since"] - by) % 2**32})

    def remember_in(self, rows: int) -> None:
        """Use so many rows of the handshake table, a power of two up to HANDSHAKE_ROWS."""
        settings = {"token": TOKEN, "handshake_mask": rows - 1, "flow_rate": FLOW_RATE}
        self._map("settings").set(0, settings | {"sample_mask": SAMPLE_MASK})

    def _row(self, vip: Vip) -> Records:
        vips = self._present.vips
        row: Records = vips[(vips["index"] == vip.index) & (vips["end"] > GONE)][0]
        return row

    def put_pool(self, vip: Vip, pool: Pool) -> None:
        """Have these servers take the VIP's new connections."""
        number = int(self._row(vip)["pool"])
        row = {"size": len(pool.ids), "ids": pool.ids, "turns": len(pool.schedule), "schedule": pool.schedule}
        self._map("maglevs").set(number, {"ids": pool.maglev})
        self._map("pools").set(number, row)
        self.change_vip(vip, hot_above=pool.hot_above)

    def change_vip(self, vip: Vip, **members: int) -> None:
        """Write members of the row of a VIP."""
        table = self._map("vips")
        for number, row in list(table.nonzero()):
            if row["index"] == vip.index and row["protocol"]:
                table.set(number, row | members)

    def put_state(self, vip: Vip, server_id: int, state: State) -> None:
        """Have a server take new connections, or none, without a change of the pool."""
        number = vip.index * SERVER_IDS + server_id
        row = self._map("servers").get(number)
        self._map("servers").set(number, row | {"state": STATES[state]})

    def put_lives(self, vip: Vip, lives: Mapping[int, Live]) -> None:
        """Have the VIP's servers be as busy as that, by their ids."""
        first = vip.index * SERVER_IDS
        self._map("lives").update([(first + server, live._asdict()) for server, live in lives.items()])

    def lives(self, vip: Vip) -> dict[int, Live]:
        """Return how busy the VIP's servers are, by their ids, those that are all zero left out."""
        return {
            row % SERVER_IDS: Live(**live)
            for row, live in self._map("lives").nonzero()
            if row // SERVER_IDS == vip.index
        }

    def put_turn(self, vip: Vip, turn: int) -> None:
        """Have it be this turn at the VIP."""
        self._map("turns").set(vip.index, turn)

    def open_connections(self, vip: Vip) -> dict[int, int]:
        """Return how many connections of the VIP each server has open, zeros left out."""
        return {
            row % SERVER_IDS: counted["open"]
            for row, counted in self._map("open_connections").nonzero()
            if row // SERVER_IDS == vip.index
        }

    def samples(self) -> list[dict[str, int]]:
        """Return the rows of the sample of flows that are in use."""
        return [sample for _, sample in self._map("samples").nonzero()]

    def age_samples(self, by: int) -> None:
        """Have all flows of the sample be seen so much earlier, in its units."""
        table = self._map("samples")
        for row, sample in list(table.nonzero()):
            table.set(row, sample | {"seen": (sample["seen"] - by) % 2**32})

    def watch(self, vip: Vip, client: End) -> None:
        """Ask where the next packet of a client's flow goes."""
        self._map("watches").set(_key(vip, client), {})
        flags = int(self._row(vip)["flags"])
        self.change_vip(vip, flags=flags | IS_WATCHED)

    def unwatch(self, vip: Vip) -> None:
        """Let nobody be asked about the VIP's flows."""
        flags = int(self._row(vip)["flags"])
        self.change_vip(vip, flags=flags)

    def watched(self, vip: Vip, client: End) -> tuple[str, int | None, int]:
        """Return why the packet went there, to which server id, and how many came; forgets the watch."""
        row = self._map("watches").get(_key(vip, client))
        self._map("watches").delete(_key(vip, client))
        self.unwatch(vip)
        reasons = {number: name for name, number in self._object.btf.enum("reason").items()}
        server = None if row["server"] == 0xFFFF else row["server"]
        return reasons[row["reason"]].removeprefix("REASON_").lower(), server, row["packets"]

    def slots(self) -> tuple[list[int], list[int]]:
        """Return the slots in the queue of the table's row, oldest first, and those that are not in it."""
        row = self._map("connections").get(0)
        places = [(row["head"] + number) % SERVER_IDS for number in range(SERVER_IDS - row["taken"])]
        taken = [slot for slot, connection in enumerate(row["connections"]) if connection["taken"]]
        return [row["queue"][place] ^ place for place in places], taken

    def run(self, frame: bytes) -> Result:
        """Let the XDP program handle a frame."""
        result = self._xdp.test_run(frame)
        return Result(Verdict(result.verdict), result.packet)

    def run_slow_path(self, frame: bytes) -> tuple[TcVerdict, bytes]:
        """Let the TC program handle a frame that XDP passed."""
        result = self._tc.test_run(frame)
        return TcVerdict(result.verdict), result.packet

    def flows(self) -> dict[tuple[Address, int, int], int]:
        """Return the server id of each flow that is remembered, by the client's end and the VIP's index."""
        return {_flow(key): server for key, server in self._map("flows").items()}

    def forget_flow(self, client: End) -> None:
        """Let a client's flows fall out of the table, as if newer ones had pushed them out."""
        for key in [key for key, _ in self._map("flows").items()]:  # noqa: PERF102  a map, not a dict
            if _flow(key)[:2] == (client.address, client.port):
                self._map("flows").delete(key)

    def forget_handshakes(self) -> None:
        """Let newer handshakes have pushed out all that are remembered."""
        handshakes = self._map("handshakes")
        handshakes.update([(row, {}) for row, _ in handshakes.nonzero()])

    def spend_flow_budget(self, second: int, *, left: int) -> None:
        """Leave so many new flows to each CPU in that second of the monotonic clock."""
        budgets = self._map("budgets")
        budgets.set(1, [{"second": second, "used": FLOW_RATE - left} for _ in budgets.get(1)])

    def events(self) -> dict[str, int]:
        """Return how often each event happened, zeros left out."""
        counts = {self._events[key]: sum(cpus) for key, cpus in self._map("events").nonzero()}
        return {name: count for name, count in counts.items() if count}

    def traffic(self, vip_index: int, server_id: int) -> dict[str, int]:
        """Return what was counted of a server: connections, packets, bytes."""
        row = SERVER_IDS * vip_index + server_id
        cpus = self._map("traffic").get(row)
        return {name: sum(cpu[name] for cpu in cpus) for name in cpus[0]}

    def spend(self, budget: str, per_second: int, second: int, *, left: int) -> None:
        """Leave so much of a budget to each CPU in that second of the monotonic clock."""
        row = BUDGETS.index(budget)
        budgets = self._map("budgets")
        budgets.set(row, [{"second": second, "used": per_second - left} for _ in budgets.get(row)])

    def spend_reset_budget(self, second: int, *, left: int) -> None:
        """Leave so many copies of resets to each CPU in that second of the monotonic clock."""
        self.spend("reset_copies", RESET_COPIES_PER_SECOND, second, left=left)


def _mapped(table: Map) -> mmap.mmap:
    """Return an array's memory, in which each value begins at a multiple of eight bytes."""
    length = table.max_entries * (table.value.size + 7 & ~7)
    return mmap.mmap(table.fd, length + mmap.PAGESIZE - 1 & ~(mmap.PAGESIZE - 1))


def _key(vip: Vip, client: End) -> dict[str, Any]:
    address = client.address
    mapped = address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")
    return {"client": address_row(mapped), "port": client.port, "vip": vip.index}


def _flow(key: dict[str, Any]) -> tuple[Address, int, int]:
    address = IPv6Address(b"".join(word.to_bytes(4, "big") for word in key["client"]["word"]))
    return address.ipv4_mapped or address, key["port"], key["vip"]
