# SPDX-License-Identifier: Apache-2.0
import socket
from collections.abc import Iterator
from itertools import product

import pytest

from poise.servers.model import Link
from tests.bpf.balancer import Balancer
from tests.bpf.case import Case, hands_up, laws, passes, redirects, sends_back
from tests.bpf.changes import Operator
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.headers import ETHERNET, Macs, patched
from tests.bpf.network import CLIENT_MAC, CLIENTS_MAC, LOOPBACK_MAC, TO_CLIENT, TO_LOOPED_CLIENT
from tests.bpf.packets import End, Fields, fragments, segment, tagged, usual
from tests.bpf.services import FAMILIES, IPV4, IPV6, LOOPBACK, Family, end_of

pytestmark = pytest.mark.root

CLOCK = 0x3456789A
STRIPPED = CLOCK | 0x3FF
INS: tuple[tuple[int, ...], ...] = ((), (7,), (200, 7))
OUTS: tuple[tuple[int, ...], ...] = ((), (30,), (300, 4094))
ARP = bytes.fromhex("0806 0001 0800 06 04 0001 020000000001 c6336407 000000000000 c000020a")
by_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


def _tagged_connection(family: Family, port: int = 40000) -> Connection:
    return Connection(family.tagged, End(family.client, port))


def _to_servers(family: Family) -> Iterator[Case]:
    connection = _tagged_connection(family)
    names = Connection(family.names, connection.client)
    for tags, server in product(INS, family.tagged.servers):
        echo = connection.stamped(CLOCK, server, mark=1)
        packet = connection.request("PA", usual(77, echo), payload=b"GET /")
        out = connection.at_server(packet, server, (echo, STRIPPED))
        law = f"{family}: with {len(tags)} tags to {server.name}"
        yield redirects(law, tagged(packet, *tags), out)
        if len(tags) == 2:
            old = patched(tagged(packet, *tags), {12: b"\x81\x00"})
            yield redirects(f"{law}, both of the type of IEEE 802.1Q", old, out)
        if len(tags) == 1:
            service = patched(tagged(packet, *tags), {12: b"\x88\xa8"})
            yield redirects(f"{law}, of the type of IEEE 802.1ad", service, out)
            urgent = patched(tagged(packet, *tags), {14: b"\xe0\x07"})
            yield redirects(f"{law}, with a priority, which is not kept", urgent, out)
    for tags in INS[1:]:
        packet = names.datagram(payload=b"question")
        out = names.at_server(packet, names.pick(family.names.servers[:2]))
        yield redirects(
            f"{family}: a datagram with {len(tags)} tags", tagged(packet, *tags), out, "flow_remembered"
        )


@laws(*map(_to_servers, FAMILIES))
def test_gives_a_frame_the_tags_of_its_server(balancer: Balancer, case: Case) -> None:
    """Whatever tags a client's frame came with, it leaves with those of the way to its server."""
    assert case.run(balancer) == case.outcome


def _answers(family: Family) -> Iterator[Case]:
    connection = Connection(family.empty, End(family.client, 40000))
    fields = Fields(ack=CLIENT_ISN + 1, window=0, identification=0, dont_fragment=True)
    answer = segment(Macs(CLIENT_MAC, CLIENTS_MAC), end_of(family.empty), connection.client, "RA", **fields)
    for tags in INS:
        law = f"{family}: with {len(tags)} tags"
        yield sends_back(law, tagged(connection.syn(), *tags), tagged(answer, *tags), "reset_no_server")


@laws(*map(_answers, FAMILIES))
def test_a_reset_keeps_the_tags_of_what_it_answers(balancer: Balancer, case: Case) -> None:
    """A reset goes back the way that its cause came."""
    assert case.run(balancer) == case.outcome


def _passed() -> Iterator[Case]:
    header = CLIENTS_MAC + CLIENT_MAC
    web = Connection(IPV4.web, End(IPV4.client, 40000))
    for tags in INS:
        arp = tagged((header + ARP).ljust(60, b"\0"), *tags)
        yield passes(f"ARP with {len(tags)} tags", arp, "pass_not_ip")
        other = Connection(IPV4.web, End(IPV4.client, 40000)).at_client(web.reply(IPV4.web.servers[0], "A"))
        yield passes(f"a bystander's packet with {len(tags)} tags", tagged(other, *tags), "pass_unrelated")
    for family in FAMILIES:
        connection = Connection(family.web, End(family.client, 40000))
        three = tagged(tagged(connection.syn(), 1, 2), 3)
        yield passes(f"{family}: three tags", three, "pass_not_ip")
        for tags in INS[1:]:
            broadcast = patched(tagged(connection.syn(), *tags), {0: b"\xff" * 6})
            yield passes(f"{family}: a broadcast with {len(tags)} tags", broadcast, "pass_not_unicast")
            whole = tagged(connection.syn(), *tags)
            for length in range(ETHERNET, ETHERNET + 4 * len(tags) + 40):
                law = f"{family}: {length} bytes of a frame with {len(tags)} tags"
                yield passes(law, whole[:length], "pass_truncated")


@laws(_passed())
def test_leaves_other_tagged_frames_to_the_kernel(balancer: Balancer, case: Case) -> None:
    """What is not for it passes with its tags, and so does what cannot be read."""
    assert case.run(balancer) == case.outcome


@by_family
@pytest.mark.parametrize("ins", INS, ids=len)
@pytest.mark.parametrize("outs", OUTS, ids=len)
def test_gives_a_reply_the_tags_of_its_link(
    operator: Operator, family: Family, ins: tuple[int, ...], outs: tuple[int, ...]
) -> None:
    """A reply leaves by the device and with the tags that stand for the interface of its route."""
    number = socket.if_nametoindex("eth0")
    operator.link({number: Link(number, outs)} if outs else {})
    web = Connection(family.web, End(family.client, 40000))
    server = family.web.servers[0]
    packet = web.reply(server, "PA", usual(CLOCK, 77), payload=b"page")
    stamped = web.stamped(CLOCK, server, mark=1)
    out = web.at_client(packet, (CLOCK, stamped), TO_CLIENT, outs)
    names = Connection(family.names, web.client)
    answer = names.answer(family.names.servers[0], payload=bytes(200))
    later = fragments(answer, 64)
    later_out = fragments(names.at_client(answer), 64)
    for case in (
        redirects("a segment", tagged(packet, *ins), out),
        redirects("a first fragment", tagged(later[0], *ins), tagged(later_out[0], *outs)),
        redirects(
            "a later one",
            tagged(later[1], *ins),
            tagged(later_out[1], *outs),
            before=(tagged(later[0], *ins),),
        ),
    ):
        assert case.run(operator.balancer) == case.outcome, case.law


@by_family
def test_sends_a_reply_back_by_the_device_under_a_link(operator: Operator, family: Family) -> None:
    """A link whose device is the one by which the packet came: one arm with two VLANs."""
    operator.link({socket.if_nametoindex("eth0"): Link(LOOPBACK, (30,))})
    web = Connection(family.web, End(family.client, 40000))
    packet = web.reply(family.web.servers[0], "A")
    case = sends_back("", tagged(packet, 7), web.at_client(packet, tags=(30,)))
    assert case.run(operator.balancer) == case.outcome


def _one_arm(family: Family) -> Iterator[Case]:
    connection = Connection(family.web, End(family.looped_client, 40000))
    packet = connection.reply(family.web.servers[0], "A")
    out = connection.at_client(packet, macs=TO_LOOPED_CLIENT)
    yield sends_back(f"{family}: a reply", tagged(packet, 9), out)
    silent = Connection(family.web, End(family.silent_client, 40000))
    for tags in INS:
        packet = silent.reply(family.web.servers[0], "A")
        out = silent.at_client(packet, macs=Macs(packet[:6], LOOPBACK_MAC))
        law = f"{family}: with {len(tags)} tags, for the slow path"
        yield hands_up(law, tagged(packet, *tags), tagged(out, *tags), "neighbour_unresolved")


@laws(_one_arm(IPV4), _one_arm(IPV6))
def test_takes_tags_off_where_the_way_has_none(balancer: Balancer, case: Case) -> None:
    """A frame leaves without tags; only the slow path still sees those with which it came."""
    assert case.run(balancer) == case.outcome
