# SPDX-License-Identifier: Apache-2.0
import pytest

from tests.bpf.balancer import Balancer, Result, Verdict
from tests.bpf.connection import Connection
from tests.bpf.fuzz import fuzz
from tests.bpf.headers import ETHERNET, patched
from tests.bpf.invariants import Broken, Invariants
from tests.bpf.packets import summed, usual
from tests.bpf.services import FIRST, MODEL

PACKETS = 20_000
WEB = Connection()
ECHO = WEB.stamped(9, FIRST, mark=1)
REQUEST = WEB.request("PA", usual(1, ECHO), payload=b"GET / HTTP/1.1\r\n")
RIGHT = WEB.at_server(REQUEST, FIRST, (ECHO, ECHO | 0x3FF))


@pytest.mark.root
def test_damaged_packets_do_no_damage(balancer: Balancer) -> None:
    """Whatever bytes change: what is not ours passes unchanged, and right sums and lengths stay right."""
    fates = fuzz(balancer, PACKETS, seed=20)
    # Otherwise these packets would prove little.
    assert min(fates["pass"], fates["drop"], fates["forwarded"]) > PACKETS / 50
    assert fates["tx"] > 10
    assert not fates["aborted"]


def test_the_invariants_hold_of_what_is_right() -> None:
    """A packet that went where it must go is not complained of."""
    Invariants(MODEL).check(REQUEST, Result(Verdict.REDIRECT, RIGHT))


@pytest.mark.parametrize(
    ("what", "result"),
    {
        "no verdict": Result(Verdict.ABORTED, REQUEST),
        "changed what is left": Result(Verdict.PASS, RIGHT),
        "sent on as it was": Result(Verdict.REDIRECT, REQUEST),
        "went to no server": Result(Verdict.REDIRECT, patched(RIGHT, {30: b"\x0a\0\0\x63"})),
        "has another length": Result(Verdict.REDIRECT, RIGHT + b"\0"),
        "changed the payload": Result(Verdict.REDIRECT, RIGHT[:-1] + b"\x77"),
        "changed more of TCP": Result(Verdict.REDIRECT, patched(RIGHT, {38: b"\x77"})),
        "changed the IP checksum": Result(Verdict.REDIRECT, patched(RIGHT, {24: b"\x77\x77"})),
        "changed a checksum": Result(Verdict.REDIRECT, patched(RIGHT, {50: b"\x77\x77"})),
        "changed more of the IP header": Result(Verdict.REDIRECT, summed(patched(RIGHT, {22: b"\x40"}))),
    }.items(),
)
def test_the_invariants_find_damage(what: str, result: Result) -> None:
    """Each kind of damage is told from what is right."""
    with pytest.raises(Broken, match=what):
        Invariants(MODEL).check(REQUEST, result)


def test_the_invariants_find_what_is_not_ours() -> None:
    """A bystander's packet must not even be discarded."""
    other = patched(REQUEST, {ETHERNET + 16: b"\xcb\0\x71\1"})
    with pytest.raises(Broken, match="not ours"):
        Invariants(MODEL).check(other, Result(Verdict.DROP, other))
