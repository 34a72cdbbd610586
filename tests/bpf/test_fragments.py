# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator

import pytest

from tests.bpf.balancer import Balancer, Result, TcVerdict, Verdict
from tests.bpf.case import Case, drops, hands_up, laws, passes, redirects
from tests.bpf.changes import Operator
from tests.bpf.connection import CLIENT_ISN, Connection, macs_to
from tests.bpf.headers import Macs, patched, tcp_offset
from tests.bpf.packets import (
    DESTINATION,
    HOP_BY_HOP,
    End,
    forwarded_later,
    fragments,
    usual,
    with_extensions,
)
from tests.bpf.services import FAMILIES, IPV4, IPV6, Family, server_of

pytestmark = pytest.mark.root

CLOCK = 0x3456789A
CUTS = (64, 136)
BODY = bytes(range(200))
Forward = Callable[[bytes], bytes]
by_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


def _names(family: Family, port: int = 40000) -> Connection:
    return Connection(family.names, End(family.client, port))


def _wholes(family: Family) -> Iterator[tuple[str, bytes, Forward, tuple[str, ...]]]:
    """Packets before they are cut: name, packet, what becomes of it, what is counted of the first one."""
    names = _names(family)
    server = names.pick(family.names.servers[:2])
    yield (
        "a datagram to a server",
        names.datagram(payload=BODY),
        lambda frame: names.at_server(frame, server),
        ("flow_remembered",),
    )
    answerer = server_of(family.names, 1)
    yield "a datagram to a client", names.answer(answerer, payload=BODY), names.at_client, ()
    web = Connection(family.web, names.client)
    first = server_of(family.web, 0)
    echo = web.stamped(CLOCK, first, mark=1)
    yield (
        "a segment to a server",
        web.request("PA", usual(77, echo), payload=BODY),
        lambda frame: web.at_server(frame, first, (echo, CLOCK | 0x3FF)),
        (),
    )
    yield (
        "a segment to a client",
        web.reply(first, "PA", usual(CLOCK, 77), payload=BODY),
        lambda frame: web.at_client(frame, (CLOCK, echo)),
        (),
    )


def _followed(family: Family) -> Iterator[Case]:
    for name, whole, forward, events in _wholes(family):
        packets, outs = fragments(whole, *CUTS), fragments(forward(whole), *CUTS)
        law = f"{family}: of {name}"
        yield redirects(f"{law}, the first", packets[0], outs[0], *events)
        for number in (1, 2):
            yield redirects(
                f"{law}, number {number} after the first", packets[number], outs[number], before=(packets[0],)
            )
        yield redirects(
            f"{law}, the last but one at last", packets[1], outs[1], before=(packets[0], packets[2])
        )
        yield passes(f"{law}, a later one before the first", packets[1], "pass_fragment_unknown")
        other = fragments(whole, *CUTS, identification=0x7A7B)
        yield passes(
            f"{law}, one of another datagram", other[1], "pass_fragment_unknown", before=(packets[0],)
        )
        yield redirects(
            f"{law}, after the first of another datagram",
            packets[2],
            outs[2],
            before=(packets[0], other[0], other[2]),
        )


@laws(*map(_followed, FAMILIES))
def test_later_fragments_follow_the_first(balancer: Balancer, case: Case) -> None:
    """To cut a packet and to forward its fragments is to forward it and to cut it then."""
    assert case.run(balancer) == case.outcome


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_what_comes_later_than_any_datagram_lasts_is_of_another_one(
    balancer: Balancer, family: Family
) -> None:
    """An identification is used again: half a minute after the first fragment, it stands for nothing."""
    (_, whole, _, _) = next(iter(_wholes(family)))
    first, later, last = fragments(whole, *CUTS)
    balancer.start_afresh()
    balancer.run(first)
    assert balancer.run(later).verdict == Verdict.REDIRECT
    balancer.age_fragments(60)
    assert balancer.run(last) == Result(Verdict.PASS, last)


def _between_extensions() -> Iterator[Case]:
    names = _names(IPV6)
    server = names.pick(IPV6.names.servers[:2])
    whole = with_extensions(names.datagram(payload=BODY), HOP_BY_HOP, DESTINATION)
    packets, outs = fragments(whole, *CUTS), fragments(names.at_server(whole, server), *CUTS)
    yield redirects("the first", packets[0], outs[0], "flow_remembered")
    yield redirects("a later one", packets[2], outs[2], before=(packets[0],))
    for length in range(14 + 40 + 16, 14 + 40 + 24):
        yield passes(f"{length} bytes of a later one", packets[2][:length], "pass_truncated")


@laws(_between_extensions())
def test_fragments_of_ipv6_have_other_headers_before_theirs(balancer: Balancer, case: Case) -> None:
    """A fragment header is found behind those that every router looks at."""
    assert case.run(balancer) == case.outcome


def _unforwarded(family: Family) -> Iterator[Case]:
    names = _names(family)
    first, later, _ = fragments(names.datagram(payload=BODY, ttl=2), *CUTS)
    hops = 22 if family == IPV4 else 21
    spent = patched(later, {hops: b"\1"})
    yield drops(f"{family}: a later one whose hops are spent", spent, "drop_ttl_expired", before=(first,))
    server = server_of(family.names, 0)
    first, later, _ = fragments(names.answer(server, payload=BODY), *CUTS)
    spent = patched(later, {hops: b"\1"})
    law = f"{family}: a later one to a client whose hops are spent"
    yield passes(law, spent, "pass_reply_ttl_expired", before=(first,))
    silent = Connection(family.names, End(family.silent_client, 40000))
    first, later, _ = fragments(silent.answer(server, payload=BODY), *CUTS)
    out = forwarded_later(later, Macs(later[:6], bytes(6)), source=family.names.address)
    law = f"{family}: a later one to a client whose MAC is unknown"
    yield hands_up(law, later, out, "neighbour_unresolved", before=(first,))
    own = Connection(family.names, End(family.own_address, 40000))
    first, later, _ = fragments(own.answer(server, payload=BODY), *CUTS)
    law = f"{family}: a later one to the balancer itself"
    yield passes(law, later, "pass_fragment_unknown", before=(first,))
    web = Connection(family.web, names.client)
    whole = web.request("A", payload=BODY, seq=CLIENT_ISN)
    _, later, _ = fragments(whole, *CUTS)
    malformed, *_ = fragments(patched(whole, {tcp_offset(whole) + 12: b"\x40"}), *CUTS)
    law = f"{family}: a later one of a segment that is malformed"
    yield passes(law, later, "pass_fragment_unknown", before=(malformed,))


@laws(*map(_unforwarded, FAMILIES))
def test_later_fragments_that_are_not_forwarded(balancer: Balancer, case: Case) -> None:
    """What stands against a packet stands against its fragments."""
    assert case.run(balancer) == case.outcome


@by_family
def test_fragments_of_many_datagrams_keep_apart(balancer: Balancer, family: Family) -> None:
    """However they are interleaved, each fragment follows the first one of its own datagram."""
    balancer.start_afresh()
    flows = []
    for number in range(64):
        names = _names(family, 1 + number)
        server = names.pick(family.names.servers[:2])
        packets = fragments(names.datagram(payload=BODY), *CUTS, identification=100 + number)
        out = [forwarded_later(packet, macs_to(server), target=server.address) for packet in packets[1:]]
        flows.append((packets, out))
    for packets, _ in flows:
        assert balancer.run(packets[0]).verdict == Verdict.REDIRECT
    for at in (2, 1):
        for packets, out in flows:
            assert balancer.run(packets[at]).packet == out[at - 1]


@by_family
def test_fragments_of_a_datagram_stay_together(operator: Operator, family: Family) -> None:
    """When the servers change between two fragments, the later one still goes where the first one went."""
    names, (one, two) = _names(family), family.names.servers[:2]
    picked = names.pick((one, two))
    first, later, last = fragments(names.datagram(payload=BODY), *CUTS)
    assert operator.balancer.run(first).verdict == Verdict.REDIRECT
    operator.serve(family.names, *(server for server in (one, two) if server != picked))
    operator.serve(family.names, one, two)
    out = forwarded_later(later, macs_to(picked), target=picked.address)
    assert operator.balancer.run(later).packet == out
    operator.lose(picked)
    before = operator.balancer.events().get("drop_server_unreachable", 0)
    assert operator.balancer.run(last).verdict == Verdict.DROP
    assert operator.balancer.events()["drop_server_unreachable"] == before + 1


@by_family
def test_later_fragments_of_a_vip_that_is_gone_are_discarded(operator: Operator, family: Family) -> None:
    """A server's fragments do not leave in its own name once the first one left in a VIP's."""
    names = _names(family)
    first, later, _ = fragments(names.answer(server_of(family.names, 0), payload=BODY), *CUTS)
    assert operator.balancer.run(first).verdict == Verdict.REDIRECT
    model = operator.model
    operator.change(type(model)(tuple(vip for vip in model.vips if vip != family.names)))
    before = operator.balancer.events().get("drop_reply_without_vip", 0)
    assert operator.balancer.run(later).verdict == Verdict.DROP
    assert operator.balancer.events()["drop_reply_without_vip"] == before + 1


@by_family
def test_the_slow_path_sends_later_fragments_too(balancer: Balancer, family: Family) -> None:
    """All fragments for a neighbour that is not known yet are sent by the kernel, none as its own."""
    silent = Connection(family.names, End(family.silent_client, 40000))
    packets = fragments(silent.answer(server_of(family.names, 0), payload=BODY), *CUTS)
    balancer.start_afresh()
    for packet in packets:
        handed = balancer.run(packet)
        assert handed.verdict == Verdict.PASS
        assert balancer.run_slow_path(handed.packet) == (TcVerdict.REDIRECT, handed.packet)
