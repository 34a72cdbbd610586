# SPDX-License-Identifier: Apache-2.0
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bpf.balancer import Balancer, TcVerdict, Verdict
from tests.bpf.headers import patched
from tests.bpf.icmp import (
    CUT,
    DNS,
    STATES,
    UNREACHABLE,
    WEB,
    Family,
    Flow,
    Site,
    arriving,
    at_server,
    counted,
    cut_short,
    family_each,
    of_router,
    outcome,
    run_with_budget,
    to_servers,
)
from tests.bpf.services import TOKEN

pytestmark = pytest.mark.root
SECONDS = 10  # until a frame that must come is given up


@pytest.fixture
def balancer(icmp_balancer: Balancer) -> Balancer:
    """The balancer, with nothing remembered."""
    return icmp_balancer


class Wire:
    """What leaves towards servers, as the other end of that link sees it."""

    def __init__(self, site: Site) -> None:
        with site.servers.enter():
            self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self._ear.bind(("eth0", 0x0003))
        self._ear.settimeout(SECONDS)

    def heard(self, number: int) -> list[bytes]:
        """Return so many IP packets of errors."""
        frames: list[bytes] = []
        while len(frames) < number:
            frame = self._ear.recv(65535)
            if frame[:6] == bytes.fromhex("02b000000002"):
                frames.append(frame)
        return frames

    def close(self) -> None:
        """Hear nothing more."""
        self._ear.close()


@contextmanager
def _overheard(site: Site) -> Iterator[Wire]:
    wire = Wire(site)
    try:
        yield wire
    finally:
        wire.close()


@family_each
@pytest.mark.parametrize("port", [WEB, DNS])
def test_an_error_of_a_forgotten_flow_goes_to_all_servers(
    balancer: Balancer, icmp_site: Site, family: Family, port: int
) -> None:
    """Each that can be reached gets it as if it had sent the packet; those that did not ignore it."""
    flow = Flow(family, port)
    quote = cut_short(flow.reply(), family, 8)
    sent = arriving(of_router(flow, quote))
    verdict, out, events = outcome(balancer, sent)
    handed_up = patched(sent, {6: TOKEN})
    assert (verdict, out, events) == (Verdict.PASS, handed_up.hex(" "), {"icmp_to_all": 1})
    with _overheard(icmp_site) as wire:
        before = balancer.events()
        assert balancer.run_slow_path(handed_up)[0] == TcVerdict.SHOT
        assert counted(balancer, before) == {}
        heard = wire.heard(2)
    usable = [number for number in STATES if number not in (CUT, UNREACHABLE)]
    expected = [to_servers(at_server(flow, quote, number)) for number in sorted(usable)]
    assert [frame.hex(" ") for frame in heard] == [frame.hex(" ") for frame in expected]


@family_each
def test_copies_of_errors_are_limited(balancer: Balancer, family: Family) -> None:
    """Whoever floods with errors does not have them multiplied without bound."""
    flow = Flow(family)
    sent = patched(arriving(of_router(flow, cut_short(flow.reply(), family, 8))), {6: TOKEN})
    events = run_with_budget(balancer, "icmp_copies", 1, lambda: balancer.run_slow_path(sent))
    assert events == {"drop_icmp_limit": 1}
