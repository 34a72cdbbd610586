# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.servers import layouts
from poise.servers.layouts import Clock
from poise.servers.model import Layout, Model, Policy, Server, State, Vip
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.network import CLIENT, FAR_CLIENT, Site
from tests.bpf.packets import End, target_of, timestamps_of, usual
from tests.bpf.services import KEY, end_of, flow_hash, hops

pytestmark = pytest.mark.root

WORDS = st.integers(0, 0xFFFFFFFF)
TICKS = 1000  # a second, of a server's clock
HALF = 1 << 15
IDS = (0, 1, 273, 511)


def _vip(index: int, layout: Layout) -> Vip:
    servers = tuple(
        Server(
            number, f"s{number}", IPv4Address(f"10.{4 + index}.0.{at}"), 80, State.READY, 0.0, declared=True
        )
        for at, number in enumerate(IDS, 1)
    )
    address = IPv4Address(f"192.0.2.{20 + index}")
    return Vip(index, layout.value, address, 80, Policy.ROUND_ROBIN, servers, layout=layout)


VIPS = {layout: _vip(index, layout) for index, layout in enumerate(Layout)}
OF_THE_PAPER = st.sampled_from((Layout.MSB, Layout.LSB))


@pytest.fixture(scope="module")
def research(site: Site, loaded: Balancer, servers_ifindex: int) -> Iterator[Balancer]:
    """The balancer with a VIP of each layout."""
    model = Model(tuple(VIPS.values()))
    with site.here.enter():
        loaded.fill(model, hops(model, servers_ifindex), KEY)
        yield loaded


def _run(balancer: Balancer, packet: bytes) -> bytes:
    result = balancer.run(packet)
    assert result.verdict == Verdict.REDIRECT
    return result.packet


def _view(balancer: Balancer, connection: Connection, server: Server, clock: int, flags: str = "A") -> int:
    """What the client sees of the server's clock."""
    packet = connection.reply(server, flags, usual(clock % (1 << 32), 1), ack=CLIENT_ISN + 1)
    return timestamps_of(_run(balancer, packet))[0]


@settings(deadline=None)
@given(
    layout=OF_THE_PAPER,
    start=WORDS,
    segments=st.lists(
        st.tuples(
            st.sampled_from(("SA", "A")),
            st.sampled_from((CLIENT, FAR_CLIENT)),
            st.integers(0, len(IDS) - 1),
            st.one_of(st.integers(0, 1000), WORDS),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_python_and_bpf_agree_on_the_papers_layouts(
    research: Balancer, layout: Layout, start: int, segments: Sequence[tuple[str, IPv4Address, int, int]]
) -> None:
    """The program stamps and restores what layouts.py would, whatever servers and clocks come by turns."""
    research.forget_clocks()
    vip = VIPS[layout]
    known = [Clock() for _ in IDS]
    seen: list[tuple[Connection, int, int]] = []
    now = start
    for flags, address, at, step in segments:
        now = (now + step) % (1 << 32)
        connection = Connection(vip, End(address, 40000 + at))
        flow = flow_hash(vip, connection.client)
        expected, known[at] = layouts.stamp(layout, known[at], now, flow, IDS[at])
        assert _view(research, connection, vip.servers[at], now, flags) == expected
        seen.append((connection, at, expected))
        for earlier, server, echo in seen:
            answer = _run(research, earlier.request("A", usual(2, echo)))
            assert target_of(answer) == end_of(vip.servers[server])
            assert timestamps_of(answer)[1] == layouts.restore(layout, known[server], echo)


@pytest.mark.parametrize("layout", [Layout.MSB, Layout.LSB])
def test_the_echo_of_a_syn_ack_is_exact(research: Balancer, layout: Layout) -> None:
    """Both layouts keep the low half and know the upper one, so the server gets its own timestamp back."""
    research.start_afresh()
    connection = Connection(VIPS[layout])
    _run(research, connection.syn())
    server = connection.vip.servers[0]
    echo = _view(research, connection, server, 0x3456789A, "SA")
    answer = _run(research, connection.request("A", usual(2, echo)))
    assert (target_of(answer), timestamps_of(answer)[1]) == (end_of(server), 0x3456789A)


@pytest.mark.parametrize("layout", [Layout.MSB, Layout.LSB])
@pytest.mark.parametrize("number", [512, 1023, 0x7FFF])
def test_drops_what_names_no_server_that_can_be(research: Balancer, layout: Layout, number: int) -> None:
    """A cookie beyond the 512 ids of its VIP never leads to a server of the next VIP."""
    connection = Connection(VIPS[layout])
    cookie = number ^ flow_hash(connection.vip, connection.client)
    echo = (cookie & 0x7FFF) << 16 if layout is Layout.MSB else cookie & 0xFFFF
    before = research.events().get("drop_unknown_server", 0)
    assert research.run(connection.request("A", usual(2, echo))).verdict == Verdict.DROP
    assert research.events()["drop_unknown_server"] == before + 1


def paws_accepts(recent: int, tsval: int) -> bool:
    """What a client says to a segment, by RFC 7323, section 5.3, as tcp_paws_check() of Linux reads it.

    In 32-bit signed arithmetic, with TCP_PAWS_WINDOW = 1, for less than 24 days since the last segment.
    """
    age = (recent - tsval) % (1 << 32)
    return age <= 1 or age >= 1 << 31 or recent == 0


def _stalls(balancer: Balancer, layout: Layout, start: int, gap: int) -> bool:
    """Whether a connection that was idle for so many ticks, on a server that others kept busy, stalls."""
    balancer.forget_clocks()
    connection = Connection(VIPS[layout])
    other = replace(connection, client=End(CLIENT, 50000))
    server = connection.vip.servers[2]
    before = _view(balancer, connection, server, start)
    for clock in range(start, start + min(gap, 300 * TICKS), 10 * TICKS):
        _view(balancer, other, server, clock)
    return not paws_accepts(before, _view(balancer, connection, server, start + gap))


@settings(deadline=None, max_examples=50)
@given(start=WORDS, gap=st.integers(2 * HALF + 1, 4 * HALF - 2))
def test_msb_stalls_after_an_idle_gap(research: Balancer, start: int, gap: int) -> None:
    """With MSB, clients reject their server's segments after a gap of 65.5 s to 131 s, at 1 ms a tick."""
    assert _stalls(research, Layout.MSB, start, gap)


@settings(deadline=None, max_examples=50)
@given(start=WORDS, gap=st.integers(0, 2 * HALF))
def test_msb_does_not_stall_after_a_shorter_gap(research: Balancer, start: int, gap: int) -> None:
    """With MSB, up to 65.5 s are harmless, as keepalives under that would be."""
    assert not _stalls(research, Layout.MSB, start, gap)


@settings(deadline=None, max_examples=50)
@given(start=WORDS, gap=st.integers(HALF + 1, 2 * HALF - 1))
def test_lsb_stalls_after_an_idle_gap(research: Balancer, start: int, gap: int) -> None:
    """With LSB, clients reject their server's segments after a gap of 32.8 s to 65.5 s, at 1 ms a tick."""
    assert _stalls(research, Layout.LSB, start, gap)


@settings(deadline=None, max_examples=50)
@given(start=WORDS, gap=st.integers(0, HALF))
def test_lsb_does_not_stall_after_a_shorter_gap(research: Balancer, start: int, gap: int) -> None:
    """With LSB, up to 32.8 s are harmless."""
    assert not _stalls(research, Layout.LSB, start, gap)


@settings(deadline=None, max_examples=200)
@given(start=WORDS, gap=st.one_of(st.integers(0, 300 * TICKS), st.integers(0, (1 << 31) - 1024)))
def test_the_default_layout_never_stalls(research: Balancer, start: int, gap: int) -> None:
    """With low bits, any gap is harmless up to the 24 days after which PAWS does not look any more."""
    assert not _stalls(research, Layout.LOW, start, gap)
