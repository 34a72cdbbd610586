# SPDX-License-Identifier: Apache-2.0

import pytest
from scapy.packet import Packet

from tests.bpf.balancer import Balancer, TcVerdict, Verdict
from tests.bpf.headers import patched
from tests.bpf.icmp import (
    CLIENT,
    CUT,
    DIRECT_CLIENT,
    DNS,
    DRAINING,
    OWN,
    READY,
    ROUTER,
    SERVERS_MAC,
    SILENT_CLIENT,
    UNREACHABLE_CLIENT,
    VIP,
    WEB,
    Family,
    Flow,
    counted,
    cut_short,
    error,
    error_each,
    family_each,
    from_servers,
    outcome,
    to_client,
)
from tests.bpf.packets import usual
from tests.bpf.services import TOKEN

pytestmark = pytest.mark.root


@pytest.fixture
def balancer(icmp_balancer: Balancer) -> Balancer:
    """The balancer, with nothing remembered."""
    return icmp_balancer


@error_each
@pytest.mark.parametrize("port", [WEB, DNS])
@pytest.mark.parametrize("kept", [8, 1000])
def test_an_error_of_a_server_comes_to_the_client_from_the_vip(
    balancer: Balancer, family: Family, kind: Packet, port: int, kept: int
) -> None:
    """The client sees nothing of the server: neither as the sender, nor in its own packet."""
    flow = Flow(family, port)
    quote = cut_short(bytes(flow.packet(flow.at_client, flow.at_server(READY), usual(8, 9))), family, kept)
    server, _ = flow.at_server(READY)
    client, _ = flow.at_client
    packet = error(family, server, client, quote, kind)
    seen = flow.readdressed(quote, flow.at_client, flow.at_vip)
    out = error(family, VIP[family], client, seen, kind, ttl=63)
    expected = (Verdict.REDIRECT, to_client(out).hex(" "), {"icmp_to_client": 1})
    assert outcome(balancer, from_servers(packet)) == expected


@error_each
@pytest.mark.parametrize("tags", [(), (10,), (100, 10)])
def test_an_error_of_a_router_before_the_server_keeps_its_source(
    balancer: Balancer, family: Family, kind: Packet, tags: tuple[int, ...]
) -> None:
    """Only the quoted packet is translated, so that a traceroute shows the router; tags do not leak."""
    flow = Flow(family)
    quote = bytes(flow.packet(flow.at_client, flow.at_server(DRAINING), usual(8, 9)))
    client, _ = flow.at_client
    seen = flow.readdressed(quote, flow.at_client, flow.at_vip)
    packet = error(family, ROUTER[family], client, quote, kind)
    out = error(family, ROUTER[family], client, seen, kind, ttl=63)
    expected = (Verdict.REDIRECT, to_client(out).hex(" "), {"icmp_to_client": 1})
    assert outcome(balancer, from_servers(packet, tags)) == expected


@family_each
def test_errors_to_clients_that_do_not_leave_are_counted(balancer: Balancer, family: Family) -> None:
    """Own addresses, direct prefixes, cut servers and the end of hops: as with replies."""

    def from_router(client: str, number: int = READY, ttl: int = 64) -> bytes:
        flow = Flow(family, client=client)
        quote = bytes(flow.packet(flow.at_client, flow.at_server(number)))
        return from_servers(error(family, ROUTER[family], client, quote, ttl=ttl))

    for packet, verdict, event in (
        (from_router(OWN[family]), Verdict.PASS, "pass_own_address"),
        (from_router(DIRECT_CLIENT[family]), Verdict.PASS, "pass_direct"),
        (from_router(UNREACHABLE_CLIENT[family]), Verdict.PASS, "pass_no_route"),
        (from_router(CLIENT[family], ttl=1), Verdict.PASS, "pass_reply_ttl_expired"),
        (from_router(CLIENT[family], CUT), Verdict.DROP, "drop_reply_of_cut_server"),
    ):
        out = packet.hex(" ") if verdict == Verdict.PASS else ""
        assert outcome(balancer, packet) == (verdict, out, {event: 1})


@family_each
def test_the_kernel_finds_the_client_of_an_error(balancer: Balancer, family: Family) -> None:
    """An error that is complete but for the client's MAC address is sent by the kernel, as it is."""
    flow = Flow(family, client=SILENT_CLIENT[family])
    quote = bytes(flow.packet(flow.at_client, flow.at_server(READY)))
    client, _ = flow.at_client
    packet = from_servers(error(family, ROUTER[family], client, quote))
    seen = flow.readdressed(quote, flow.at_client, flow.at_vip)
    out = patched(
        to_client(error(family, ROUTER[family], client, seen, ttl=63)),
        {0: bytes.fromhex(SERVERS_MAC.replace(":", "")), 6: TOKEN},
    )
    expected = (Verdict.PASS, out.hex(" "), {"icmp_to_client": 1, "neighbour_unresolved": 1})
    assert outcome(balancer, packet) == expected
    before = balancer.events()
    assert balancer.run_slow_path(out) == (TcVerdict.REDIRECT, out)
    assert counted(balancer, before) == {}
