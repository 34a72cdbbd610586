# SPDX-License-Identifier: Apache-2.0
"""What operators change of the servers: pure functions from a model, a wish and a time to a new model."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from poise.endpoints import write_end
from poise.servers.care import DEFAULT_DRAIN, DEFAULT_LOAD, Check, Drain, LoadSource, Passive
from poise.servers.model import (
    GONE,
    SERVER_IDS,
    Address,
    IdsExhausted,
    Layout,
    Mode,
    Model,
    NoSuchServer,
    NoSuchVip,
    Policy,
    Protocol,
    QuicIds,
    Refused,
    Server,
    State,
    Vip,
)
from poise.words import listed

SETTABLE: Final = (State.READY, State.DRAIN, State.MAINT)


@dataclass(frozen=True)
class WantedServer:
    """A server as poise.yaml or an operator names it."""

    name: str
    address: Address
    port: int
    weight: int = 1


@dataclass(frozen=True)
class WantedVip:
    """A VIP as poise.yaml names it; what its members mean, Vip says."""

    name: str
    address: Address
    port: int
    policy: Policy
    servers: tuple[WantedServer, ...]
    protocol: Protocol = Protocol.TCP
    mode: Mode = Mode.STATELESS
    layout: Layout = Layout.LOW
    quic_ids: tuple[QuicIds, ...] = ()
    checks: tuple[Check, ...] = ()
    passive: Passive | None = None
    panic: float = 0.5
    slow_start: float = 0.0
    drain: Drain = DEFAULT_DRAIN
    load: LoadSource = DEFAULT_LOAD
    awrr_alpha: float = 0.0

    @cached_property
    def ends(self) -> frozenset[tuple[Address, int]]:
        """Where its servers listen."""
        return frozenset((server.address, server.port) for server in self.servers)


def find_vip(model: Model, name: str | None) -> Vip:
    """Return the VIP of that name, or the only one; NoSuchVip otherwise."""
    names = listed([vip.name for vip in model.vips])
    if name is None:
        if len(model.vips) == 1:
            return model.vips[0]
        raise NoSuchVip(f"there are several VIPs, say with --vip which one is meant: {names}")
    for vip in model.vips:
        if vip.name == name:
            return vip
    raise NoSuchVip(f"there is no VIP {name}: the VIPs are {names}")


def find_server(vip: Vip, name: str) -> Server:
    """Return the server of that name or ADDRESS:PORT; one still on the list goes before one off it."""
    for server in sorted(vip.servers, key=lambda server: server.state in GONE):
        if name in (server.name, write_end(server.address, server.port)):
            return server
    names = [server.name for server in vip.servers if server.state not in GONE]
    those = f"its servers are {listed(names)}" if names else "it has none yet"
    raise NoSuchServer(f"VIP {vip.name} has no server {name}: {those}")


def replace_vip(model: Model, vip: Vip) -> Model:
    """Return the model with this VIP in place of the one with the same index."""
    return Model(tuple(vip if other.index == vip.index else other for other in model.vips))


def _replace_server(vip: Vip, server: Server) -> Vip:
    return replace(vip, servers=tuple(server if old.id == server.id else old for old in vip.servers))


def _with_state(vip: Vip, server: Server, state: State, now: float, deadline: float | None = None) -> Vip:
    if (server.state, server.deadline) == (state, deadline):
        return vip
    since = server.since if server.state == state else now
    return _replace_server(vip, replace(server, state=state, since=since, deadline=deadline))


def wanted_by_operator(
    vip: Vip, address: Address, port: int, name: str | None, weight: int | None
) -> WantedServer:
    """Return the server that an operator means.

    What he does not say is as the VIP knows it, of a removed server too; else ADDRESS:PORT, and 1.
    """
    known = vip.at.get((address, port))
    known_name, known_weight = (known.name, known.weight) if known else (write_end(address, port), 1)
    return WantedServer(name or known_name, address, port, weight or known_weight)


def is_rested(server: Server, now: float, rest: float) -> bool:
    """Whether a removed server's id has rested for `rest` seconds.

    A declared server that an operator removed keeps its id for as long as poise.yaml names it.
    """
    return server.state in GONE and not server.declared and server.since + rest <= now


def forget_rested(vip: Vip, now: float, rest: float) -> Vip:
    """Return the VIP without the removed servers whose ids have rested long enough (seconds)."""
    servers = tuple(server for server in vip.servers if not is_rested(server, now, rest))
    return vip if len(servers) == len(vip.servers) else replace(vip, servers=servers)


def free_ids(vip: Vip, number: int, rest: float) -> list[int]:
    """Return so many ids that no server of the VIP has, the lowest ones; raises IdsExhausted."""
    taken = {server.id for server in vip.servers}
    ids = min((256**kind.server_id_length for kind in vip.quic_ids), default=SERVER_IDS)
    ids = min(ids, SERVER_IDS)  # those that every kind of connection id can name
    free = [server_id for server_id in range(ids) if server_id not in taken]
    if len(free) >= number:
        return free[:number]
    frees = [server.since + rest for server in vip.servers if server.state in GONE and not server.declared]
    if not frees:
        raise IdsExhausted(vip.name, ids, None, "remove a server first")
    when = datetime.fromtimestamp(min(frees), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    raise IdsExhausted(vip.name, ids, min(frees), f"the next one is free at {when}")


def add(
    model: Model, vip: Vip, wanted: WantedServer, now: float, rest: float, *, declared: bool
) -> tuple[Model, Server]:
    """Let a server take new connections: a new one, or one that is drained or removed, under its old id.

    An id rests for `rest` seconds after its server's removal, so that no old cookie names another
    server. Raises Refused if the server is in already, its name is taken, or another VIP has it
    (its replies could not be told apart); IdsExhausted if no id is free.
    """
    vip = forget_rested(vip, now, rest)
    _check_addable(model, vip, wanted)
    known = vip.at.get((wanted.address, wanted.port))
    if known:
        server = replace(
            known, name=wanted.name, weight=wanted.weight, state=State.READY, since=now, deadline=None
        )
        vip = _replace_server(vip, replace(server, declared=known.declared or declared))
    else:
        (server_id,) = free_ids(vip, 1, rest)
        server = new_server(server_id, wanted, now, declared=declared)
        vip = replace(vip, servers=(*vip.servers, server))
    return replace_vip(model, vip), server


def new_server(server_id: int, wanted: WantedServer, now: float, *, declared: bool) -> Server:
    """Return a server that takes connections from now on."""
    return Server(
        server_id, wanted.name, wanted.address, wanted.port, State.READY, now, declared, wanted.weight
    )


def _check_addable(model: Model, vip: Vip, wanted: WantedServer) -> None:
    at = (wanted.address, wanted.port)
    end = write_end(*at)
    if wanted.address.version != vip.address.version:
        version = vip.address.version
        raise Refused(
            f"server {end} cannot be in VIP {vip.name}, which is IPv{version}: give its IPv{version} address"
        )
    for other in model.vips:
        if other.protocol.number != vip.protocol.number:
            continue
        there = other.at.get(at) if other.index != vip.index else None
        if there and there.state == State.REMOVED:
            raise Refused(
                f"server {end} may still have connections of VIP {other.name}, from which it was removed, "
                f"and its replies could not be told apart: remove it there with --now first"
            )
        if there and there.state != State.CUT:
            raise Refused(
                f"server {end} is in VIP {other.name}: it cannot be in {vip.name} too, "
                "because its replies could not be told apart; give it another port"
            )
        if (other.address, other.port) == at:
            raise Refused(f"{end} is the VIP {other.name} itself: it cannot be a server")
    for server in vip.servers:
        same = (server.address, server.port) == (wanted.address, wanted.port)
        if same and server.state == State.READY:
            raise Refused(f"server {end} is in VIP {vip.name} already, as {server.name}")
        if not same and server.name == wanted.name and server.state not in GONE:
            raise Refused(f"VIP {vip.name} has a server {wanted.name} already: give this one another name")


def set_state(
    model: Model, vip: Vip, name: str, state: State, now: float, *, deadline: float | None = None
) -> Model:
    """Set a server ready, or have it drain or rest for maintenance; connections that it has go on.

    deadline: when a drain is to end, seconds since 1970. Raises NoSuchServer, or Refused if it is removed.
    """
    if state not in SETTABLE:
        raise Refused(f"a server cannot be set {state}: set it {', '.join(SETTABLE)}, or remove it")
    if deadline is not None and state != State.DRAIN:
        raise Refused(f"only a drain has a deadline: leave it out to set server {name} {state}")
    server = find_server(vip, name)
    if server.state in GONE:
        raise Refused(f"server {name} is removed from VIP {vip.name}: add it again first")
    return replace_vip(model, _with_state(vip, server, state, now, deadline))


def drain(model: Model, vip: Vip, name: str, now: float) -> Model:
    """Give a server no new connections, for as long as that takes; see set_state()."""
    return set_state(model, vip, name, State.DRAIN, now)


def remove(model: Model, vip: Vip, name: str, now: float, *, cut: bool) -> Model:
    """Take a server off the list; its connections go on, or with `cut` are reset. Raises NoSuchServer."""
    server = find_server(vip, name)
    if cut:
        return replace_vip(model, _with_state(vip, server, State.CUT, now))
    if server.state in GONE:
        raise NoSuchServer(f"server {name} is removed from VIP {vip.name} already")
    return replace_vip(model, _with_state(vip, server, State.REMOVED, now))
