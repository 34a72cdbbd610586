# SPDX-License-Identifier: Apache-2.0
"""The servers of a running poise: each change is decided, saved, and then applied, VIP by VIP."""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple

from poise.errors import NotFoundError, PoiseError
from poise.servers import decide, plan, rows, watchlist
from poise.servers.apply import DataPlane
from poise.servers.decide import WantedVip
from poise.servers.events import Events, Kind
from poise.servers.health.judge import share
from poise.servers.model import GONE, Address, Model, Server, State, Vip
from poise.servers.reach import Reach
from poise.servers.reconcile import VipEnd, reconcile, vip_end
from poise.servers.signals import Signals
from poise.servers.standing import Choice, Standing, choice
from poise.servers.steering import BY_LOAD, Steered, Steering
from poise.servers.store import Key, Store
from poise.servers.vigil import Verdict, Vigil

Network = IPv4Network | IPv6Network

_UNSTEERED: Final = Steered()


class Revised(NamedTuple):
    """What a reading of poise.yaml has changed: names of VIPs."""

    added: list[str]
    changed: list[str]
    removed: list[str]


class Controller:
    """Holds the model of all VIPs and keeps file and kernel in step with it; any thread may call it.

    Changes are saved before they are applied, so that no id is ever given out twice.
    """

    def __init__(
        self,
        plane: DataPlane,
        store: Store,
        reach: Reach,
        events: Events,
        key: bytes,
    ) -> None:
        """Load the saved model; nothing is applied yet.

        key: 16 bytes, of the cookie. Raises PoiseError if the file of the servers cannot be used.
        """
        self.lock = threading.RLock()
        self.events = events
        self.plane = plane
        self.reach = reach
        self.vigil = Vigil(self._note)
        self.steering = Steering(plane.readings)
        self.watchlist = watchlist.Watchlist(self.vigil, store)
        self.model = store.load()
        self._signals = Signals(events)
        self.choices: dict[int, Choice] = {}
        self._vips: dict[int, Vip] = {}
        self._addresses: frozenset[Address] = frozenset()  # of all servers
        self._store = store
        self._key = key
        self._rest = 0.0
        self._direct: frozenset[Network] = frozenset()
        self._flags: int | None = None
        self._wishes: dict[VipEnd, WantedVip] = {}
        self._steered: dict[int, Steered] = {}
        self._starting: set[int] = set()  # VIPs with servers that start slowly
        self._unapplied: set[int] = set()
        self._dirty: set[int] = set()
        self._dirty_lock = threading.Lock()
        self.wake: Callable[[], object] = lambda: None
        """What is called, in any thread, once `settle` has something to do."""

    def read(self, wanted: Sequence[WantedVip], *, direct: Iterable[Network] = (), rest: float) -> Revised:
        """Do as poise.yaml says now; at the first time all is applied, later what differs.

        VIPs whose wishes are the very same objects as before are not looked at. direct: prefixes whose
        packets are left alone. rest: seconds that the id of a removed server stays unused.
        """
        with self.lock:
            settled = self.settled(wanted)
            before = {vip.index: vip for vip in self.model.vips}
            model = reconcile(self.model, wanted, time.time(), rest, settled=settled)
            after = {vip.index: vip for vip in model.vips}
            changed = [vip.index for vip in model.vips if before.get(vip.index) is not vip]
            removed = [index for index in before if index not in after]
            is_first, former = not self._vips, self._direct
            self._direct = frozenset(direct)
            try:
                if is_first:
                    self._begin(model, changed, removed)
                else:
                    self._change(model, [*changed, *removed])
            except BaseException:
                self._direct = former
                raise
            self._rest, self._wishes = rest, {vip_end(wish): wish for wish in wanted}
            # An index that becomes free may be another VIP's at once.
            old, new = ({vip_end(vip): vip for vip in vips.values()} for vips in (before, after))
            return Revised(
                [vip.name for end, vip in new.items() if end not in old],
                [vip.name for end, vip in new.items() if end in old and vip is not old[end]],
                [vip.name for end, vip in old.items() if end not in new],
            )

    def settled(self, wanted: Iterable[WantedVip]) -> set[VipEnd]:
        """Return the VIPs of which the very same was wanted when poise.yaml was last read."""
        return {vip_end(wish) for wish in wanted if self._wishes.get(vip_end(wish)) is wish}

    def _begin(self, model: Model, changed: Collection[int], removed: Collection[int]) -> None:
        """Apply everything, whatever an earlier process has left in the tables."""
        self.plane.hold_keys(model.vips)
        for vip in model.vips:
            _ = vip.held  # which is cached, so that the first reading does not wait for it
        self._addresses = frozenset().union(*(vip.addresses for vip in model.vips))
        self.reach.look_up(self._addresses)
        self.reach.wait(RESOLVE)
        self._vips = {vip.index: vip for vip in model.vips}
        self.watchlist.begin(self._vips)
        self._flags = self._flags_now()
        choices = {vip.index: self._choose(vip) for vip in model.vips}
        self._tell_panic(choices)
        self.choices = choices
        tables = [self._tables(vip) for vip in model.vips]
        self._store.save([self._vips[index] for index in changed], removed)
        self.model = model
        self.plane.replace(tables, links=self.reach.links, direct=self._direct)
        self.steering.watch(model.vips, self.choices)

    def add(
        self, vip: str | None, name: str | None, address: Address, port: int, weight: int | None = None
    ) -> Key:
        """Let a server take new connections; see decide.add() for what is refused."""
        with self.lock:
            chosen = decide.find_vip(self.model, vip)
            wanted = decide.wanted_by_operator(chosen, address, port, name, weight)
            model, server = decide.add(self.model, chosen, wanted, time.time(), self._rest, declared=False)
            self._change(model, [chosen.index])
            self._tell(Kind.ADDED, chosen, server, "is on the list")
            return chosen.index, server.id

    def set_state(
        self,
        name: str,
        state: State,
        vip: str | None = None,
        deadline: float | None = None,
        *,
        now: bool = False,
    ) -> Key:
        """Set a server ready, or have it drain or rest for maintenance; a removed one gets ready again.

        deadline: of a drain, in seconds from now, that of poise.yaml unless given. now: cut the connections
        that it has. See decide.set_state() for what is refused.
        """
        with self.lock:
            chosen = decide.find_vip(self.model, vip)
            server = decide.find_server(chosen, name)
            if now and state != State.READY:
                return self.remove(name, vip, now=True)
            if state == State.READY and server.state in GONE:
                return self.add(chosen.name, server.name, server.address, server.port)
            if deadline is None and state == State.DRAIN:
                deadline = chosen.drain.deadline
            ends = None if deadline is None else time.time() + deadline
            model = decide.set_state(self.model, chosen, name, state, time.time(), deadline=ends)
            self._change(model, [chosen.index])
            if (server.state, server.deadline) != (state, ends):
                self._tell(Kind.STATE, chosen, server, _STATES[state])
            return chosen.index, server.id

    def remove(self, name: str, vip: str | None = None, *, now: bool = False) -> Key:
        """Take a server off the list, with `now` its connections too; see decide.remove()."""
        with self.lock:
            chosen = decide.find_vip(self.model, vip)
            server = decide.find_server(chosen, name)
            self._change(decide.remove(self.model, chosen, name, time.time(), cut=now), [chosen.index])
            if now and server.state is not State.CUT:
                self._tell(Kind.CUT, chosen, server, "is off the list, and its connections are cut")
            elif not now:
                self._tell(Kind.REMOVED, chosen, server, "is off the list, connections that it has go on")
            return chosen.index, server.id

    @property
    def shortest_interval(self) -> float:
        """The time in which `look` is to be called again at the latest, for loads; in seconds."""
        return min((vip.load.interval for vip in self.model.vips if vip.policy in BY_LOAD), default=math.inf)

    def find(self, key: Key) -> tuple[Vip, Server]:
        """Return a server with its VIP; raises NotFoundError if it is gone."""
        index, number = key
        with self.lock:
            vip = self._vips.get(index)
            server = next((each for each in vip.servers if each.id == number), None) if vip else None
        if vip is None or server is None:
            raise NotFoundError("the server is gone: somebody else has removed it")
        return vip, server

    def standings(self, vip: Vip) -> dict[int, Standing]:
        """Return what is known of each server of a VIP."""
        verdicts, now = self.watchlist.verdicts(vip), time.monotonic()
        faults = self.reach.faults
        return {
            server.id: Standing(
                verdict.up,
                reachable,
                share(verdict.recovered, vip.slow_start, now),
                verdict.reason if reachable and verdict.up is False else faults.get(server.address),
            )
            for server in vip.servers
            for reachable in (self.reach.is_valid(server.address),)
            for verdict in (verdicts.get(server.id, _UNKNOWN),)
        }

    def expected(self, vip: Vip) -> Choice:
        """Return who would take a VIP's connections, if servers that are not known yet can be reached."""
        with self.lock:
            standings = self.standings(vip)
            known = self.reach.hops.keys() | self.reach.faults.keys()
            for server in vip.servers:
                if server.address not in known:
                    standings[server.id] = replace(standings[server.id], reachable=True)
            steered = self._steered.get(vip.index, _UNSTEERED)
            return choice(vip, standings, steered.awrr, steered.hot_above)

    def refresh(self, addresses: Collection[Address] | None = None) -> None:
        """Look up the ways to these servers again, to all unless given, and apply what differs."""
        with self.lock:
            changed = self.reach.look_up(self._addresses, afresh=addresses)
            concerned = {vip.index for vip in self.model.vips if not vip.addresses.isdisjoint(changed)}
            self._renew(concerned, is_reach=True)

    def settle(self) -> None:
        """Apply what has come to be known of servers since the last time: verdicts, loads, slow starts."""
        with self.lock:
            with self._dirty_lock:
                dirty, self._dirty = self._dirty, set()
            try:
                self._renew(dirty)
            except PoiseError:
                with self._dirty_lock:  # to be tried again
                    self._dirty |= dirty
                raise
            self.watchlist.tell_changes(self.events, self._vips)
            self.watchlist.save()

    def look(self) -> None:
        """Measure what is to be measured about once a second, and apply what follows."""
        self.watchlist.observe(self.plane.readings)
        steered = self.steering.look()
        with self.lock:
            self._steered |= steered
            with self._dirty_lock:
                self._dirty |= steered.keys() | self._starting
            self._signals.look(self._vips, self.steering.shown)
        self.settle()

    def _note(self, key: Key, verdict: Verdict) -> None:
        """Take note of a verdict that has changed; the lock may be held by a long change."""
        self.watchlist.note(key, verdict)
        with self._dirty_lock:
            self._dirty.add(key[0])
        self.wake()

    def _change(self, model: Model, indices: Collection[int]) -> None:
        """Save and apply another model that differs in these VIPs; what does not fit is not saved."""
        before, after = self._vips, {vip.index: vip for vip in model.vips}
        new = (after[index].addresses for index in indices if index in after)
        self.reach.look_up(self._addresses.union(*new))
        flags = self._flags_now()
        concerned = {*indices} if flags == self._flags else {*before, *after}
        changed = [after[index] for index in concerned if index in after]
        gone = [index for index in concerned if index not in after]
        self.watchlist.follow({index: after.get(index) for index in concerned})
        former, self._flags = self._flags, flags
        try:
            choices = {vip.index: self._choose(vip) for vip in changed}
            tables = {vip.index: self._tables(vip, choices[vip.index]) for vip in changed}
            changes = tables | dict.fromkeys(gone)
            links, direct = self.reach.links, self._direct
            if any(vip.index not in before or not vip.held <= before[vip.index].held for vip in changed):
                plan.plan(self.plane.present, changes, links=links, direct=direct)  # raises Crowded
            self._hold_keys(model, [*changed, *(before[index] for index in gone)])
            self._store.save([vip for vip in changed if before.get(vip.index) is not vip], gone)
        except BaseException:
            self._flags = former
            self._hold_keys(self.model, changed)
            self.watchlist.follow({index: before.get(index) for index in concerned})
            raise
        self.model, self._vips = model, after
        self._let_go(before, indices)
        for index in concerned & before.keys():
            if index not in after or vip_end(after[index]) != vip_end(before[index]):
                self.choices.pop(index, None)
                self._steered.pop(index, None)
        self._tell_panic(choices)
        self.choices |= choices
        self._apply(changes)

    def _hold_keys(self, model: Model, changed: Iterable[Vip]) -> None:
        if any(vip.quic_ids for vip in changed):
            self.plane.hold_keys(model.vips)

    def _renew(self, indices: Collection[int], *, is_reach: bool = False) -> None:
        """Apply anew who takes the connections of these VIPs, and where their servers are reached."""
        flags = self._flags_now()
        if flags != self._flags:
            indices, is_reach, self._flags = self._vips.keys(), True, flags
        due = {*indices, *self._unapplied}
        vips = [self._vips[index] for index in due if index in self._vips]
        choices = {vip.index: self._choose(vip) for vip in vips}
        changed = {
            vip.index
            for vip in vips
            if is_reach or vip.index in self._unapplied or choices[vip.index] != self.choices.get(vip.index)
        }
        gone = self._unapplied - self._vips.keys()
        if not changed and not gone and not is_reach:
            return
        self._tell_panic(choices)
        self.choices |= choices
        self._apply({index: self._tables(self._vips[index]) for index in changed} | dict.fromkeys(gone))

    def _apply(self, changes: plan.Changes) -> None:
        """Bring VIPs into the tables; if the kernel refuses, they are tried again at the next `settle`."""
        self._unapplied |= changes.keys()
        self.plane.apply(changes, links=self.reach.links, direct=self._direct)
        self._unapplied -= changes.keys()
        self.steering.watch(self.model.vips, self.choices)

    def _choose(self, vip: Vip) -> Choice:
        standings = self.standings(vip)
        if any(standing.share < 1 for standing in standings.values()):
            self._starting.add(vip.index)
        else:
            self._starting.discard(vip.index)
        steered = self._steered.get(vip.index, _UNSTEERED)
        return choice(vip, standings, steered.awrr, steered.hot_above)

    def _tables(self, vip: Vip, chosen: Choice | None = None) -> rows.VipTables:
        chosen = chosen or self.choices[vip.index]
        return rows.desired(vip, chosen, self.reach.hops, self._key, self._flags or 0)

    def _flags_now(self) -> int:
        return rows.flags_for(self._direct, self.reach.links)

    def _let_go(self, before: Mapping[int, Vip], indices: Iterable[int]) -> None:
        """Note where servers are now that these VIPs have changed; what no VIP has any more is let go."""
        concerned = set(indices)
        new = frozenset().union(*(vip.addresses for index, vip in self._vips.items() if index in concerned))
        left = (
            frozenset().union(*(vip.addresses for index, vip in before.items() if index in concerned)) - new
        )
        for vip in self._vips.values():
            if not left:
                break
            left -= vip.addresses
        self._addresses = (self._addresses | new) - left
        if left:
            self.reach.look_up(self._addresses)

    def _tell(self, kind: Kind, vip: Vip, server: Server, what: str) -> None:
        self.events.add(kind, f"server {server.name} {what}", vip=vip.name, server=server.name)

    def _tell_panic(self, choices: Mapping[int, Choice]) -> None:
        for index, chosen in choices.items():
            before = self.choices.get(index)
            vip = self._vips[index]
            if chosen.panicking and not (before and before.panicking):
                message = (
                    f"fewer than {vip.panic:.0%} of the servers are up: those that are down are used too"
                )
                self.events.add(Kind.PANIC, message, vip=vip.name)
            elif before and before.panicking and not chosen.panicking:
                self.events.add(Kind.CALM, "enough servers are up: only they are used", vip=vip.name)


RESOLVE: Final = 1.0  # seconds that a start waits for the servers' neighbours
_UNKNOWN: Final = Verdict()
_STATES: Final = {
    State.READY: "is ready for new connections",
    State.DRAIN: "gets no new connections, those it has go on",
    State.MAINT: "is in maintenance: no new connections and no checks",
}
