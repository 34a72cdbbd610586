# SPDX-License-Identifier: Apache-2.0
"""Decisions about servers: pure functions from a model, a wish and a time to a new model."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from poise.endpoints import write_end
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

_End = tuple[Address, int, int]  # with the number of the protocol, which QUIC shares with UDP


@dataclass(frozen=True)
class WantedServer:
    """A server as poise.yaml or an operator names it."""

    name: str
    address: Address
    port: int
    weight: int = 1


@dataclass(frozen=True)
class WantedVip:
    """A VIP as poise.yaml names it."""

    name: str
    address: Address
    port: int
    policy: Policy
    servers: tuple[WantedServer, ...]
    protocol: Protocol = Protocol.TCP
    mode: Mode = Mode.STATELESS
    layout: Layout = Layout.LOW
    quic_ids: tuple[QuicIds, ...] = ()


def _end(thing: Server | WantedServer, vip: Vip | WantedVip) -> _End:
    return thing.address, thing.port, vip.protocol.number


def _vip_end(vip: Vip | WantedVip) -> _End:
    return vip.address, vip.port, vip.protocol.number


def find_vip(model: Model, name: str | None) -> Vip:
    """Return the VIP of that name, or the only one; NoSuchVip otherwise."""
    names = ", ".join(vip.name for vip in model.vips)
    if name is None:
        if len(model.vips) == 1:
            return model.vips[0]
        raise NoSuchVip(f"there are several VIPs, say which one is meant: {names}")
    for vip in model.vips:
        if vip.name == name:
            return vip
    raise NoSuchVip(f"there is no VIP {name}: the VIPs are {names}")


def find_server(vip: Vip, name: str) -> Server:
    """Return the server of that name or ADDRESS:PORT; one still on the list goes before one off it."""
    for server in sorted(vip.servers, key=lambda server: server.state in GONE):
        if name in (server.name, write_end(server.address, server.port)):
            return server
    names = ", ".join(server.name for server in vip.servers if server.state not in GONE) or "none yet"
    raise NoSuchServer(f"VIP {vip.name} has no server {name}: its servers are {names}")


def replace_vip(model: Model, vip: Vip) -> Model:
    """Return the model with this VIP in place of the one with the same index."""
    return Model(tuple(vip if other.index == vip.index else other for other in model.vips))


def _replace_server(vip: Vip, server: Server) -> Vip:
    return replace(vip, servers=tuple(server if old.id == server.id else old for old in vip.servers))


def _with_state(vip: Vip, server: Server, state: State, now: float) -> Vip:
    if server.state == state:
        return vip
    return _replace_server(vip, replace(server, state=state, since=now))


def wanted_by_operator(
    vip: Vip, address: Address, port: int, name: str | None, weight: int | None
) -> WantedServer:
    """Return the server that an operator means.

    What he does not say is as the VIP knows it, of a removed server too; else ADDRESS:PORT, and 1.
    """
    known = _at(vip, address, port)
    known_name, known_weight = (known.name, known.weight) if known else (write_end(address, port), 1)
    return WantedServer(name or known_name, address, port, weight or known_weight)


def _at(vip: Vip, address: Address, port: int) -> Server | None:
    ends = (server for server in vip.servers if (server.address, server.port) == (address, port))
    return next(ends, None)


def _is_rested(server: Server, now: float, rest: float) -> bool:
    # A declared server that an operator removed keeps its id for as long as poise.yaml names it.
    return server.state in GONE and not server.declared and server.since + rest <= now


def forget_rested(vip: Vip, now: float, rest: float) -> Vip:
    """Return the VIP without the removed servers whose ids have rested long enough (seconds)."""
    return replace(vip, servers=tuple(s for s in vip.servers if not _is_rested(s, now, rest)))


def _free_id(vip: Vip, rest: float) -> int:
    taken = {server.id for server in vip.servers}
    ids = min((256**kind.server_id_length for kind in vip.quic_ids), default=SERVER_IDS)
    ids = min(ids, SERVER_IDS)  # those that every kind of connection id can name
    for server_id in range(ids):
        if server_id not in taken:
            return server_id
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
    known = _at(vip, wanted.address, wanted.port)
    if known:
        server = replace(known, name=wanted.name, weight=wanted.weight, state=State.READY, since=now)
        vip = _replace_server(vip, replace(server, declared=known.declared or declared))
    else:
        server = Server(
            _free_id(vip, rest),
            wanted.name,
            wanted.address,
            wanted.port,
            State.READY,
            now,
            declared,
            wanted.weight,
        )
        vip = replace(vip, servers=(*vip.servers, server))
    return replace_vip(model, vip), server


def _check_addable(model: Model, vip: Vip, wanted: WantedServer) -> None:
    end = write_end(wanted.address, wanted.port)
    if wanted.address.version != vip.address.version:
        version = vip.address.version
        raise Refused(
            f"server {end} cannot be in VIP {vip.name}, which is IPv{version}: give its IPv{version} address"
        )
    for other in model.vips:
        if other.protocol.number != vip.protocol.number:
            continue
        there = _at(other, wanted.address, wanted.port) if other.index != vip.index else None
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
        if (other.address, other.port) == (wanted.address, wanted.port):
            raise Refused(f"{end} is the VIP {other.name} itself: it cannot be a server")
    for server in vip.servers:
        same = (server.address, server.port) == (wanted.address, wanted.port)
        if same and server.state == State.READY:
            raise Refused(f"server {end} is in VIP {vip.name} already, as {server.name}")
        if not same and server.name == wanted.name and server.state not in GONE:
            raise Refused(f"VIP {vip.name} has a server {wanted.name} already: give this one another name")


def drain(model: Model, vip: Vip, name: str, now: float) -> Model:
    """Give a server no new connections; those it has go on. Raises NoSuchServer, or Refused if removed."""
    server = find_server(vip, name)
    if server.state in GONE:
        raise Refused(f"server {name} is removed from VIP {vip.name}: add it again first")
    return replace_vip(model, _with_state(vip, server, State.DRAIN, now))


def remove(model: Model, vip: Vip, name: str, now: float, *, cut: bool) -> Model:
    """Take a server off the list; its connections go on, or with `cut` are reset. Raises NoSuchServer."""
    server = find_server(vip, name)
    if cut:
        return replace_vip(model, _with_state(vip, server, State.CUT, now))
    if server.state in GONE:
        raise NoSuchServer(f"server {name} is removed from VIP {vip.name} already")
    return replace_vip(model, _with_state(vip, server, State.REMOVED, now))


def reconcile(model: Model, wanted: Sequence[WantedVip], now: float, rest: float) -> Model:
    """Bring what poise.yaml says together with what operators did since it was last read.

    What the file newly names is added, what it no longer names is removed (a server drains, a VIP
    goes at once); what operators added, drained or removed stays so. A server that it names in
    another VIP now is cut from the former one; of two servers with one name, the file's keeps it.
    A VIP is known by its address, port and protocol, where QUIC is UDP: it may change all else.
    """
    kept = {_vip_end(vip): vip for vip in model.vips}
    taken = {kept[_vip_end(want)].index for want in wanted if _vip_end(want) in kept}
    vips = []
    for want in wanted:
        vip = kept.get(_vip_end(want))
        if vip is None:
            index = next(index for index in range(len(taken) + 1) if index not in taken)
            taken.add(index)
            vip = Vip(index, want.name, want.address, want.port, want.policy)
        vips.append(_as_wanted(vip, want))
    ends = {_vip_end(want) for want in wanted}
    ends |= {_end(server, want) for want in wanted for server in want.servers}
    result = Model(tuple(vips))
    for want, vip in zip(wanted, vips, strict=True):
        names = {_end(server, want): server.name for server in want.servers}
        servers = (_undeclared(vip, server, names, ends, now) for server in vip.servers)
        result = replace_vip(result, forget_rested(replace(vip, servers=tuple(servers)), now, rest))
    for want in wanted:
        for server in want.servers:
            result = _declare(result, want, server, now, rest)
    return result


def _as_wanted(vip: Vip, want: WantedVip) -> Vip:
    return replace(
        vip,
        name=want.name,
        policy=want.policy,
        protocol=want.protocol,
        mode=want.mode,
        layout=want.layout,
        quic_ids=want.quic_ids,
    )


def _undeclared(
    vip: Vip, server: Server, names: Mapping[_End, str], elsewhere: Container[_End], now: float
) -> Server:
    """Return what becomes of a server of a VIP before those that the file names there are declared.

    names: of these, by their ends. elsewhere: ends that cannot be this VIP's, unless they are in `names`.
    """
    end = _end(server, vip)
    if end in names:
        return replace(server, name=names[end])
    name = write_end(server.address, server.port) if server.name in names.values() else server.name
    state = server.state
    if end in elsewhere:
        state = State.CUT
    elif server.declared and state not in GONE:
        state = State.REMOVED
    since = server.since if state == server.state else now
    return replace(server, name=name, state=state, since=since, declared=False)


def _declare(model: Model, want: WantedVip, server: WantedServer, now: float, rest: float) -> Model:
    vip = find_vip(model, want.name)
    known = _at(vip, server.address, server.port)
    if known and (known.declared or known.state not in GONE):
        known = replace(known, name=server.name, weight=server.weight, declared=True)
        return replace_vip(model, _replace_server(vip, known))
    return add(model, vip, server, now, rest, declared=True)[0]
