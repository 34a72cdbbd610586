# SPDX-License-Identifier: Apache-2.0
"""The watch over the servers of all VIPs: it has them checked, and tells when a verdict on one changes."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial

import structlog

from poise.servers.care import Check, CheckKind, Passive
from poise.servers.health.checks import check_once
from poise.servers.health.judge import Result, Verdict, judge, together
from poise.servers.health.passive import NOT_SUSPECTED, Counted, Suspicion, held, released, suspect
from poise.servers.health.rota import Job, Rota
from poise.servers.health.target import CannotCheck, Target

__all__ = ["Counted", "Key", "Result", "Target", "Verdict", "Vigil"]

Key = tuple[int, int]
"""A server: index of its VIP, and its id there."""

Tell = Callable[[Key, Verdict], None]

_LATE = 0.3  # seconds after its time-out at which a check that ran out of time says nothing

_UNCHECKED = "is not checked"

_log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class _Part:
    """One check of a server and what it found so far."""

    check: Check
    verdict: Verdict
    job: Job | None = None
    trouble: str | None = None
    excused: bool = False

    def complain(self, target: Target, trouble: str | None) -> None:
        """Log once that this check cannot be made here, which says nothing of the server."""
        is_new, self.trouble = trouble != self.trouble, trouble
        if trouble is not None and is_new:
            _log.warning("cannot check a server", vip=target.vip, server=target.server, reason=trouble)

    def excuses(self, result: Result) -> bool:
        """Tell whether a failure is poise's own: it was stopped or too busy to see an answer in time.

        Once in a row, so that it does not take a dead server for a live one on a machine that is always busy.
        """
        late = not result.ok and result.seconds > self.check.timeout + _LATE
        self.excused = late and not self.excused
        return self.excused


@dataclass(eq=False, slots=True)
class _Ward:
    """A server that is watched."""

    target: Target
    verdict: Verdict
    parts: list[_Part]
    suspicion: Suspicion


class Vigil:
    """Checks servers while it runs, and knows the verdict on each; any thread may call its methods."""

    def __init__(self, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        """Call `tell` with each verdict whose `up` has changed, from the thread in which that was found out.

        clock: of `since` and `recovered` in verdicts, and of what is judged from packets.
        """
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._wards: dict[Key, _Ward] = {}
        self._restored: dict[Key, Verdict] = {}
        self._passive: dict[Key, Passive] = {}
        self._held: set[Key] = set()
        self._rota = Rota()

    def restore(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Have servers that the next call of `watch` first names begin with these verdicts."""
        with self._lock:
            self._restored = dict(verdicts)

    def watch(self, targets: Mapping[Key, Target]) -> None:
        """Watch these servers, and no others; verdicts on those that stay where they are hold.

        Nothing is told from within this call: see `verdicts` for what holds after it.
        """
        with self._lock:
            gone = self._wards.keys() - targets.keys()
        self.change(gone, targets)

    def change(self, gone: AbstractSet[Key], targets: Mapping[Key, Target]) -> None:
        """Watch these servers, new or as they are now, and those that are gone no longer; see `watch`."""
        with self._lock:
            now = self._clock()
            unknown = Verdict(since=now)
            stopped: list[Job] = []
            begun: list[Job] = []
            for key in gone & self._wards.keys():
                stopped += _jobs(self._wards.pop(key))
                self._passive.pop(key, None)
                self._held.discard(key)
            for key, target in targets.items():
                former = self._wards.get(key)
                if former is not None and former.target == target:
                    continue
                if former is None or _moved(former.target, target):
                    ward = self._new_ward(key, target, unknown, now)
                else:
                    ward = _changed_ward(target, former, now)
                if former is not None:
                    stays = _jobs(ward)
                    stopped += [job for job in _jobs(former) if job not in stays]
                self._note_passive(key, ward)
                begun += self._employ(key, ward)
                self._wards[key] = ward
            self._restored = {}
        self._rota.change(stopped, begun)

    def observe(self, counted: Mapping[Key, Counted]) -> None:
        """Judge servers from their packets, where that is asked for; to be called about once a second.

        counted: of every server that `judged_by_packets` names; what is missing has not changed.
        """
        changed = []
        with self._lock:
            now = self._clock()
            for key in [key for key in self._held if key not in counted]:
                changed += self._suspect(key, released(self._wards[key].suspicion, now), now)
            for key, numbers in counted.items():
                passive = self._passive.get(key)
                if passive is not None:
                    suspicion = suspect(passive, self._wards[key].suspicion, numbers, now)
                    changed += self._suspect(key, suspicion, now)
        for key, verdict in changed:
            self._tell(key, verdict)

    def judged_by_packets(self) -> Sequence[Key]:
        """Return the servers whose counters are to be observed."""
        with self._lock:
            return list(self._passive)

    def verdicts(self, keys: Iterable[Key] | None = None) -> Mapping[Key, Verdict]:
        """Return the present verdict on each server that is watched, of these unless all are meant."""
        with self._lock:
            wards = self._wards
            chosen = wards.keys() if keys is None else [key for key in keys if key in wards]
            return {key: wards[key].verdict for key in chosen}

    async def run(self) -> None:
        """Check servers until cancelled; under asyncio."""
        await self._rota.run()

    def _new_ward(self, key: Key, target: Target, unknown: Verdict, now: float) -> _Ward:
        """Begin to watch a server: with its restored verdict, if there is one, else as unknown."""
        restored = self._restored.get(key)
        verdict = unknown if restored is None else _as_of(restored, now)
        suspicion = NOT_SUSPECTED
        if not target.checks:
            if target.passive is None:
                verdict = Verdict(since=now, reason=_UNCHECKED)
            elif verdict.up is False:
                suspicion = held(target.passive, suspicion, verdict.reason, now)
        return _Ward(target, verdict, [_Part(check, verdict) for check in target.checks], suspicion)

    def _employ(self, key: Key, ward: _Ward) -> list[Job]:
        """Make a job of each check that has none yet."""
        begun = []
        for part in ward.parts:
            if part.job is None:
                part.job = Job(
                    key,
                    part.check.interval,
                    part.check.jitter,
                    partial(self._check, key, part),
                    is_process=part.check.kind is CheckKind.SCRIPT,
                )
                begun.append(part.job)
        return begun

    async def _check(self, key: Key, part: _Part) -> None:
        """Make one check, judge what it found, and tell if that changes the verdict on its server."""
        ward = self._wards.get(key)
        if ward is None:
            return
        result, trouble = None, None
        try:
            result = await check_once(ward.target, part.check)
        except CannotCheck as error:
            trouble = str(error)
        part.complain(ward.target, trouble)
        if result is not None and part.excuses(result):
            return
        with self._lock:
            # It may have moved, or no longer be watched, since the check began.
            current = self._wards.get(key)
            if current is None or part not in current.parts:
                return
            now = self._clock()
            if result is None:
                part.verdict = replace(part.verdict, reason=f"cannot be checked: {trouble}")
            else:
                part.verdict = judge(part.verdict, result, part.check, now)
            changed = self._conclude(key, current, now)
        for changed_key, verdict in changed:
            self._tell(changed_key, verdict)

    def _note_passive(self, key: Key, ward: _Ward) -> None:
        """Keep track of who is judged by its packets, and of who is held."""
        if ward.target.passive is not None:
            self._passive[key] = ward.target.passive
        else:
            self._passive.pop(key, None)
        if ward.suspicion.until is not None:
            self._held.add(key)
        else:
            self._held.discard(key)

    def _suspect(self, key: Key, suspicion: Suspicion, now: float) -> list[tuple[Key, Verdict]]:
        ward = self._wards[key]
        former, ward.suspicion = ward.suspicion, suspicion
        if suspicion.until == former.until:
            return []
        self._note_passive(key, ward)
        return self._conclude(key, ward, now)

    def _conclude(self, key: Key, ward: _Ward, now: float) -> list[tuple[Key, Verdict]]:
        """Put together what is known of a server; returns its verdict if that has changed."""
        parts = [part.verdict for part in ward.parts]
        suspicion = ward.suspicion
        if suspicion.until is not None or not parts:
            parts.append(Verdict(up=False if suspicion.until is not None else None, reason=suspicion.reason))
        former = ward.verdict
        ward.verdict = together(former, parts, now)
        return [] if ward.verdict.up is former.up else [(key, ward.verdict)]


def _changed_ward(target: Target, former: _Ward, now: float) -> _Ward:
    """Watch a server in another way; its verdict stays, also for checks that are new."""
    verdict = former.verdict
    suspicion = former.suspicion if target.passive is not None else NOT_SUSPECTED
    if not target.checks and target.passive is None:
        verdict = Verdict(since=now, reason=_UNCHECKED)
    known, parts = list(former.parts), []
    for check in target.checks:
        same = next((part for part in known if part.check == check), None)
        if same is not None:
            known.remove(same)
        parts.append(same or _Part(check, replace(verdict, streak=0)))
    return _Ward(target, verdict, parts, suspicion)


def _jobs(ward: _Ward) -> list[Job]:
    return [part.job for part in ward.parts if part.job is not None]


def _moved(former: Target, target: Target) -> bool:
    return (former.address, former.port) != (target.address, target.port)


def _as_of(verdict: Verdict, now: float) -> Verdict:
    """A verdict of an earlier process: the clock may have begun anew since, when the machine did."""
    recovered = None if verdict.recovered is None else min(verdict.recovered, now)
    return replace(verdict, since=min(verdict.since, now), recovered=recovered, streak=0)
