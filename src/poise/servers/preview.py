# SPDX-License-Identifier: Apache-2.0
"""What a change would do, told before it is made: a pure comparison of two models."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from poise.endpoints import write_end
from poise.servers.model import Mode, Model, Protocol, Server, State, Vip
from poise.servers.moved import moved
from poise.servers.standing import Choice

_NAMED = 5  # servers in a sentence; of more, only how many there are

# Fields of a VIP whose values a sentence can show; of the others it says only that they change.
_SHOWN = {"policy": "policy", "mode": "mode", "layout": "timestamp_layout", "protocol": "protocol"}
_FRACTIONS = {"panic": "panic", "awrr_alpha": "awrr_alpha"}
_SECONDS = {"slow_start": "slow_start"}
_OTHER = {
    "quic_ids": "how connection ids name servers changes",
    "checks": "the health checks change",
    "passive": "what is judged from packets alone changes",
    "drain": "how drains end changes",
    "load": "where loads come from changes",
}


@dataclass(frozen=True)
class Change:
    """One difference; kind: as `server-added`. server: its name, None of changes of the VIP itself."""

    kind: str
    sentence: str
    server: str | None = None


@dataclass(frozen=True)
class VipPreview:
    """What becomes of a VIP.

    moved: the share of new flows that another server would get, 0 to 1; 0 of a VIP that is new.
    open_connections: a sentence.
    """

    vip: str
    changes: tuple[Change, ...]
    moved: float
    open_connections: str


@dataclass(frozen=True)
class Preview:
    """What a change does, by VIP; VIPs that stay as they are are left out."""

    vips: tuple[VipPreview, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON: changes, and by VIP moved and open_connections."""
        by_name = {vip.vip: vip for vip in reversed(self.vips)}  # removed ones go before new ones of the name
        return {
            "changes": [
                {"vip": vip.vip, "kind": change.kind, "server": change.server, "sentence": change.sentence}
                for vip in self.vips
                for change in vip.changes
            ],
            "moved": {name: vip.moved for name, vip in by_name.items()},
            "open_connections": {name: vip.open_connections for name, vip in by_name.items()},
        }


def preview(
    present: Model, choices: Mapping[int, Choice], wanted: Model, wanted_choices: Mapping[int, Choice]
) -> Preview:
    """Compare two models.

    choices: by VIP index, of the present and of the wanted model. Those of the wanted one should take servers
    of which nothing is known yet for reachable, or they would have no share.
    """
    before = {_end(vip): vip for vip in present.vips}
    after = {_end(vip): vip for vip in wanted.vips}
    found = [_removed(vip) for end, vip in before.items() if end not in after]
    for end, vip in after.items():
        choice = wanted_choices.get(vip.index, Choice())
        old = before.get(end)
        if old is None:
            found.append(_added(vip))
        elif old != vip or choices.get(old.index, Choice()) != choice:
            found.append(_changed(old, choices.get(old.index, Choice()), vip, choice))
    return Preview(tuple(vip for vip in found if vip.changes or vip.moved))


def _end(vip: Vip) -> tuple[object, ...]:
    return vip.address, vip.port, vip.protocol.number


def _added(vip: Vip) -> VipPreview:
    servers = len(vip.servers)
    where = write_end(vip.address, vip.port)
    sentence = f"VIP {vip.name} is added at {where}, with {servers} server{'' if servers == 1 else 's'}"
    return VipPreview(vip.name, (Change("vip-added", sentence),), 0.0, "there are none yet")


def _removed(vip: Vip) -> VipPreview:
    sentence = f"VIP {vip.name} is removed from {write_end(vip.address, vip.port)}"
    return VipPreview(vip.name, (Change("vip-removed", sentence),), 1.0, "all of them break")


def _changed(old: Vip, choice: Choice, vip: Vip, wanted: Choice) -> VipPreview:
    changes = (*_of_vip(old, vip), *_of_servers(old, vip))
    share = moved(old.policy, choice, vip.policy, wanted)
    return VipPreview(vip.name, changes, share, _open_connections(old, vip, share))


def _of_vip(old: Vip, vip: Vip) -> Iterator[Change]:
    if old.name != vip.name:
        yield Change("vip-renamed", f"VIP {old.name} is renamed to {vip.name}")
    for names, write in ((_SHOWN, str), (_FRACTIONS, _percent), (_SECONDS, _seconds)):
        for field, name in names.items():
            before, after = getattr(old, field), getattr(vip, field)
            if before != after:
                yield Change(name, f"{name} changes from {write(before)} to {write(after)}")
    for field, sentence in _OTHER.items():
        if getattr(old, field) != getattr(vip, field):
            yield Change(field, sentence)


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _seconds(value: float) -> str:
    return f"{value:g} s"


def _of_servers(old: Vip, vip: Vip) -> Iterator[Change]:
    before, after = _by_end(old), _by_end(vip)
    for end, server in before.items():
        if end not in after:
            sentence = f"server {server.name} is forgotten: its id may be given out again"
            yield Change("server-forgotten", sentence, server.name)
    for end, server in after.items():
        if end in before:
            yield from _of_server(before[end], server)
        else:
            where = write_end(server.address, server.port)
            sentence = f"server {server.name} is added: {where} with weight {server.weight}"
            yield Change("server-added", sentence, server.name)


def _by_end(vip: Vip) -> dict[tuple[object, ...], Server]:
    return {(server.address, server.port): server for server in vip.servers}


def _of_server(old: Server, server: Server) -> Iterator[Change]:
    if old.name != server.name:
        yield Change("server-renamed", f"server {old.name} is renamed to {server.name}", server.name)
    if old.weight != server.weight:
        sentence = f"weight of server {server.name} changes from {old.weight} to {server.weight}"
        yield Change("server-weight", sentence, server.name)
    if old.state == server.state:
        return
    if server.state is State.REMOVED:
        yield Change("server-removed", f"server {server.name} is removed", server.name)
    elif server.state is State.CUT:
        sentence = f"server {server.name} is removed, and its connections are cut"
        yield Change("server-cut", sentence, server.name)
    else:
        sentence = f"server {server.name} changes from {old.state} to {server.state}"
        yield Change("server-state", sentence, server.name)


def _open_connections(old: Vip, vip: Vip, share: float) -> str:
    """Return what becomes of the connections that a VIP has."""
    what = _what_keeps_them(old, vip)
    if what:
        return f"those made before break, as {what} changes"
    cut = _names(new for was, new in _both(old, vip) if new.state is State.CUT and was.state is not State.CUT)
    cut_sentence = f"those of {cut} are reset" if cut else ""
    by_hash = vip.mode is Mode.COOKIELESS and not vip.quic_ids
    rest = f"about {_percent(share)} of them go to another server and break" if share and by_hash else ""
    said = " and ".join(part for part in (cut_sentence, rest) if part)
    return f"{said}, the others stay with their servers" if said else "all of them stay with their servers"


def _what_keeps_them(old: Vip, vip: Vip) -> str | None:
    if old.mode != vip.mode:
        return "mode"
    if vip.protocol is Protocol.TCP and vip.mode is Mode.STATELESS and old.layout != vip.layout:
        return "timestamp_layout"
    if Protocol.QUIC in {old.protocol, vip.protocol} and old.quic_ids != vip.quic_ids:
        return "quic_ids"
    return None


def _both(old: Vip, vip: Vip) -> Iterator[tuple[Server, Server]]:
    before = _by_end(old)
    for end, server in _by_end(vip).items():
        if end in before:
            yield before[end], server


def _names(servers: Iterable[Server]) -> str:
    names: Sequence[str] = [server.name for server in servers]
    if len(names) > _NAMED:
        return f"{len(names)} servers"
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
