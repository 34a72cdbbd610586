# SPDX-License-Identifier: Apache-2.0
"""What poise.yaml says, brought together with what operators did since it was last read. Pure, as decide.py.

Only VIPs that the file says something else of are looked at server by server, so that one changed file among
hundreds costs little.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from typing import Final

from poise.endpoints import write_end
from poise.servers import decide
from poise.servers.decide import WantedServer, WantedVip
from poise.servers.model import GONE, Address, Model, Server, State, Vip

VipEnd = tuple[Address, int, int]
"""What a VIP is known by: address, port and the number of its protocol, which QUIC shares with UDP."""

_At = tuple[Address, int]

_SAID: Final = tuple({field.name for field in fields(WantedVip)} - {"address", "port", "servers"})


def vip_end(vip: Vip | WantedVip) -> VipEnd:
    """Return what a VIP is known by."""
    return vip.address, vip.port, vip.protocol.number


def reconcile(
    model: Model,
    wanted: Sequence[WantedVip],
    now: float,
    rest: float,
    *,
    settled: Collection[VipEnd] = frozenset(),
) -> Model:
    """Bring what poise.yaml says together with what operators did since it was last read.

    What the file newly names is added, what it no longer names is removed (a server drains, a VIP
    goes at once); what operators added, drained or removed stays so. A server that it names in
    another VIP now is cut from the former one; of two servers with one name, the file's keeps it.
    A VIP is known by its address, port and protocol, where QUIC is UDP: it may change all else.

    settled: VIPs of the model that were brought together with the same wish before; they are only looked
    at where another VIP takes a server from them. Raises IdsExhausted.
    """
    kept = {vip_end(vip): vip for vip in model.vips}
    taken: dict[int, set[_At]] = defaultdict(set)
    if settled:
        for want in wanted:
            if vip_end(want) not in settled:
                former = kept.get(vip_end(want))
                new = want.ends - former.held if former else want.ends | {(want.address, want.port)}
                taken[want.protocol.number] |= new
    indices = {kept[vip_end(want)].index for want in wanted if vip_end(want) in kept}
    free = (index for index in range(len(wanted) + len(indices)) if index not in indices)
    vips = []
    for want in wanted:
        vip = kept.get(vip_end(want))
        if vip is None:
            vip = Vip(next(free), want.name, want.address, want.port, want.policy)
        elif vip_end(want) in settled and not _loses(vip, want, taken):
            vips.append(vip)
            continue
        vips.append(_merge(_as_wanted(vip, want), want, wanted, now, rest))
    return Model(tuple(vips))


def _loses(vip: Vip, want: WantedVip, taken: Mapping[int, AbstractSet[_At]]) -> bool:
    """Return whether VIPs that are not settled take a server from one that is."""
    ends = taken.get(want.protocol.number)
    concerned = vip.held & ends if ends else frozenset()
    return bool(concerned) and not concerned <= want.ends


def _as_wanted(vip: Vip, want: WantedVip) -> Vip:
    said = {name: getattr(want, name) for name in _SAID}
    return vip if all(getattr(vip, name) == value for name, value in said.items()) else replace(vip, **said)


def _merge(vip: Vip, want: WantedVip, all_wanted: Iterable[WantedVip], now: float, rest: float) -> Vip:
    """Return the VIP with the servers that the file names and those that are left of the others."""
    names = {(server.address, server.port): server.name for server in want.servers}
    lost = _lost(vip, names.keys(), want, all_wanted)
    given = frozenset(names.values())
    servers = [
        server if at in names else _undeclared(server, given, now, lost=at in lost)
        for at, server in vip.at.items()
    ]
    servers = [
        server for server in servers if not decide.is_rested(server, now, rest) or _at(server) in names
    ]
    places = {_at(server): place for place, server in enumerate(servers)}
    new = []
    for named in want.servers:
        place = places.get((named.address, named.port))
        if place is None:
            new.append(named)
        else:
            servers[place] = _declared(servers[place], named, now)
    if new:
        ids = decide.free_ids(replace(vip, servers=tuple(servers)), len(new), rest)
        servers += [
            decide.new_server(server_id, named, now, declared=True)
            for server_id, named in zip(ids, new, strict=True)
        ]
    return vip if tuple(servers) == vip.servers else replace(vip, servers=tuple(servers))


def _at(server: Server) -> _At:
    return server.address, server.port


def _lost(
    vip: Vip, named: Collection[_At], want: WantedVip, all_wanted: Iterable[WantedVip]
) -> frozenset[_At]:
    """Return the servers of a VIP that the file names elsewhere, or as VIPs, and not there."""
    others = frozenset(at for at in vip.at if at not in named)
    if not others:
        return others
    number = want.protocol.number
    same = [other for other in all_wanted if other.protocol.number == number]
    lost = {(other.address, other.port) for other in same if (other.address, other.port) in others}
    return frozenset(lost.union(*(others & other.ends for other in same if other is not want)))


def _undeclared(server: Server, names: Collection[str], now: float, *, lost: bool) -> Server:
    """Return what becomes of a server that the file does not name in its VIP."""
    name = write_end(server.address, server.port) if server.name in names else server.name
    state = server.state
    if lost:
        state = State.CUT
    elif server.declared and state not in GONE:
        state = State.REMOVED
    if (name, state, server.declared) == (server.name, server.state, False):
        return server
    if state == server.state:
        return replace(server, name=name, declared=False)
    return replace(server, name=name, state=state, since=now, deadline=None, declared=False)


def _declared(server: Server, named: WantedServer, now: float) -> Server:
    """Return what becomes of a known server that the file names; an operator's removal of it lasts."""
    if server.state in GONE and not server.declared:
        server = replace(server, state=State.READY, since=now, deadline=None)
    if (server.name, server.weight, server.declared) == (named.name, named.weight, True):
        return server
    return replace(server, name=named.name, weight=named.weight, declared=True)
