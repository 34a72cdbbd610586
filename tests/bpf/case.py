# SPDX-License-Identifier: Apache-2.0
"""A fixture: one sentence, a packet in, a verdict, a packet out, and what is counted."""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.headers import patched
from tests.bpf.services import TOKEN


@dataclass(frozen=True)
class Outcome:
    """What becomes of a packet: `packet` in hexadecimal, empty if dropped; `counted` by event."""

    verdict: Verdict
    packet: str
    counted: dict[str, int]


@dataclass(frozen=True)
class Case:
    """What must become of `packet` after the packets `before`."""

    law: str
    packet: bytes
    outcome: Outcome
    before: tuple[bytes, ...] = ()

    def run(self, balancer: Balancer) -> Outcome:
        """Return what becomes of the packet."""
        balancer.start_afresh()
        for frame in self.before:
            balancer.run(frame)
        earlier = balancer.events()
        result = balancer.run(self.packet)
        counted = {name: now - earlier.get(name, 0) for name, now in balancer.events().items()}
        return Outcome(
            result.verdict,
            "" if result.verdict == Verdict.DROP else result.packet.hex(" "),
            {name: number for name, number in counted.items() if number},
        )


def laws(*cases: Case | Iterable[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with cases, under their sentences."""
    flat: list[Case] = []
    for case in cases:
        flat.extend([case] if isinstance(case, Case) else case)
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.law) for case in flat])


def _outcome(verdict: Verdict, out: bytes, events: tuple[str, ...]) -> Outcome:
    return Outcome(verdict, out.hex(" "), dict.fromkeys(events, 1))


def redirects(law: str, packet: bytes, out: bytes, *events: str, before: tuple[bytes, ...] = ()) -> Case:
    """The packet leaves by another interface."""
    return Case(law, packet, _outcome(Verdict.REDIRECT, out, events), before)


def sends_back(law: str, packet: bytes, out: bytes, *events: str, before: tuple[bytes, ...] = ()) -> Case:
    """What is out leaves by the interface on which the packet came."""
    return Case(law, packet, _outcome(Verdict.TX, out, events), before)


def passes(law: str, packet: bytes, event: str, before: tuple[bytes, ...] = ()) -> Case:
    """The packet is left to the kernel, byte by byte as it came."""
    return Case(law, packet, _outcome(Verdict.PASS, packet, (event,)), before)


def drops(law: str, packet: bytes, *events: str, before: tuple[bytes, ...] = ()) -> Case:
    """The packet ends here."""
    return Case(law, packet, _outcome(Verdict.DROP, b"", events), before)


def hands_up(law: str, packet: bytes, out: bytes, *events: str, before: tuple[bytes, ...] = ()) -> Case:
    """The packet goes to the slow path: changed as told, with the token as its Ethernet source."""
    return Case(law, packet, _outcome(Verdict.PASS, patched(out, {6: TOKEN}), events), before)
