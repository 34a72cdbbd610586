# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from poise.kernel import neighbours, netlink
from poise.kernel.netlink import Event, NeighbourChange
from tests.kernel.two_machines import living_here, mac_of, neighbours_of, seen

pytestmark = pytest.mark.root

PEER = IPv4Address("10.1.0.2")
OLD_MAC = bytes.fromhex("020000000001")
NEW_MAC = bytes.fromhex("020000000002")
# What takes the kernel half a minute by default takes a second with these.
FAST = {
    "net.ipv4.neigh.eth0.base_reachable_time_ms": 200,
    "net.ipv4.neigh.eth0.delay_first_probe_time": 1,
    "net.ipv4.neigh.eth0.interval_probe_time_ms": 100,
    "net.ipv4.neigh.eth0.retrans_time_ms": 100,
    # Otherwise what differs from the entry is ignored within a second of the first question.
    "net.ipv4.neigh.eth0.locktime": 0,
    # As `poise.servers.host` sets it: whoever does not answer any more is asked for by broadcast.
    "net.ipv4.neigh.eth0.mcast_resolicit": 3,
}


def index() -> int:
    """The index of our eth0."""
    return netlink.interface("eth0").index


def keep_peer_fresh() -> None:
    """Have the kernel keep the peer's entry fresh."""
    assert netlink.keep_fresh(index(), PEER)


def resolved_to(mac: bytes) -> Callable[[Event], bool]:
    """Whether an event tells that a neighbour is known to have this MAC."""

    def matches(event: Event) -> bool:
        return isinstance(event, NeighbourChange) and event.neighbour.valid and event.neighbour.mac == mac

    return matches


def test_next_hop_is_valid_once_it_is_kept_fresh() -> None:
    """A next hop's MAC is unknown until it is kept fresh; then the kernel resolves it without any traffic."""
    with living_here() as machines:
        before = netlink.next_hop(PEER)
        assert (before.address, before.mac, before.valid) == (PEER, None, False)
        assert before.source_mac == mac_of(machines.here)
        seen(keep_peer_fresh, resolved_to(mac_of(machines.peer)))
        after = netlink.next_hop(PEER)
        assert (after.mac, after.valid) == (mac_of(machines.peer), True)
        assert " managed " in neighbours_of(machines.here)


def test_next_hop_of_a_far_address_is_the_gateway() -> None:
    """Packets for a far address go to the gateway's MAC."""
    with living_here() as machines:
        machines.here.ip(f"route add default via {PEER}")
        seen(keep_peer_fresh, resolved_to(mac_of(machines.peer)))
        hop = netlink.next_hop(IPv4Address("192.0.2.1"))
        assert (hop.address, hop.mac, hop.valid) == (PEER, mac_of(machines.peer), True)


def test_a_machine_that_does_not_answer_is_not_valid_until_it_does() -> None:
    """A next hop that nobody answers for is invalid, and goes on being asked for."""
    with living_here() as machines:
        machines.here.sysctl(FAST)
        machines.peer.ip("link set eth0 arp off")
        seen(keep_peer_fresh, lambda event: isinstance(event, NeighbourChange) and not event.neighbour.valid)
        assert not netlink.next_hop(PEER).valid
        seen(lambda: machines.peer.ip("link set eth0 arp on"), resolved_to(mac_of(machines.peer)))


def test_a_machine_that_takes_over_an_address_is_noticed() -> None:
    """The MAC of an address that is kept fresh may change, and is learned without any traffic."""
    with living_here() as machines:
        machines.here.sysctl(FAST)
        seen(keep_peer_fresh, resolved_to(mac_of(machines.peer)))
        replace = f"link set eth0 address {NEW_MAC.hex(':')}"
        seen(lambda: machines.peer.ip(replace), resolved_to(NEW_MAC))
        assert netlink.next_hop(PEER).mac == NEW_MAC


def test_keeping_fresh_twice_is_keeping_fresh_once() -> None:
    """Repeating `keep_fresh`, as after each change of a link, disturbs nothing."""
    with living_here() as machines:
        seen(keep_peer_fresh, resolved_to(mac_of(machines.peer)))
        before = netlink.neighbour(index(), PEER)
        keep_peer_fresh()
        assert netlink.neighbour(index(), PEER) == before


def test_keep_fresh_revives_what_a_downed_link_lost() -> None:
    """The kernel forgets neighbours with their link, and says so; `keep_fresh` brings them back."""
    with living_here() as machines:
        seen(keep_peer_fresh, resolved_to(mac_of(machines.peer)))
        seen(
            lambda: machines.here.ip("link set eth0 down"),
            lambda event: isinstance(event, NeighbourChange) and event.gone,
        )
        assert netlink.neighbour(index(), PEER) is None
        machines.here.ip("link set eth0 up")
        seen(keep_peer_fresh, resolved_to(mac_of(machines.peer)))


@pytest.mark.parametrize("how", ["nud permanent", "nud noarp", "nud reachable extern_learn", "managed"])
@pytest.mark.parametrize("act", [netlink.keep_fresh, netlink.let_go])
def test_entries_that_others_care_for_are_left_alone(
    how: str, act: Callable[[int, IPv4Address], object]
) -> None:
    """What an administrator, a routing daemon or another program set up stays exactly as it is."""
    with living_here() as machines:
        mac = mac_of(machines.peer)
        machines.here.ip(f"neighbour replace {PEER} dev eth0 lladdr {mac.hex(':')} {how}")
        before = neighbours_of(machines.here)
        act(index(), PEER)
        assert neighbours_of(machines.here) == before


def test_let_go_leaves_an_ordinary_entry() -> None:
    """An entry that was kept fresh stays known when it is let go, but ages again."""
    with living_here() as machines:
        seen(keep_peer_fresh, resolved_to(mac_of(machines.peer)))
        netlink.let_go(index(), PEER)
        entry = netlink.neighbour(index(), PEER)
        assert entry
        assert (entry.mac, entry.valid, entry.managed) == (mac_of(machines.peer), True, False)
        assert "managed" not in neighbours_of(machines.here)


def test_let_go_of_what_is_unknown_is_nothing() -> None:
    """Letting go of an address without an entry, or of a vanished interface, is no error, makes no entry."""
    with living_here() as machines:
        netlink.let_go(index(), PEER)
        netlink.let_go(999, PEER)
        assert not neighbours_of(machines.here)


def test_all_can_be_let_go_except_some() -> None:
    """What is kept fresh for nobody any more is let go, also by another process; those of others stay."""
    other, foreign = (IPv4Address(f"10.1.0.{number}") for number in (3, 4))
    with living_here() as machines:
        machines.here.ip(f"neighbour add {foreign} dev eth0 managed")
        for address in (PEER, other):
            netlink.keep_fresh(index(), address)
        neighbours.let_go_except({(index(), other)})
        assert managed() == {other, foreign}
        neighbours.let_go_except(())
        assert managed() == {foreign}


def managed() -> set[IPv4Address]:
    """The addresses that the kernel keeps fresh."""
    known = {PEER, IPv4Address("10.1.0.3"), IPv4Address("10.1.0.4")}
    return {address for address in known if (entry := netlink.neighbour(index(), address)) and entry.managed}


def test_stale_neighbours_are_checked() -> None:
    """A stale entry, whose machine was replaced meanwhile, is set right although no packet uses it."""
    with living_here() as machines:
        machines.here.sysctl(FAST)
        machines.here.ip(f"neighbour add {PEER} dev eth0 lladdr {OLD_MAC.hex(':')} nud stale")
        assert netlink.next_hop(PEER).mac == OLD_MAC
        seen(lambda: netlink.refresh_stale([index()]), resolved_to(mac_of(machines.peer)))


@pytest.mark.parametrize("how", ["nud permanent", "nud reachable", "nud stale extern_learn"])
def test_only_ordinary_stale_neighbours_are_checked(how: str) -> None:
    """Checking stale neighbours leaves fresh ones, those of others, and those of other interfaces alone."""
    with living_here() as machines:
        machines.here.ip(
            f"neighbour add {PEER} dev eth0 lladdr {OLD_MAC.hex(':')} {how}",
            "neighbour add 10.1.0.3 dev lo lladdr 02:00:00:00:00:03 nud stale",
        )
        before = neighbours_of(machines.here)
        assert netlink.refresh_stale([index()]) == 0
        assert neighbours_of(machines.here) == before


PEER6 = IPv6Address("2001:db8::2")


def test_neighbours_of_ipv6_are_kept_fresh_checked_and_let_go() -> None:
    """By NDP, neighbours of IPv6 are resolved, kept fresh and checked when stale, as those of IPv4 by ARP."""
    with living_here() as machines:
        for machine, address in ((machines.here, "2001:db8::1"), (machines.peer, PEER6)):
            machine.sysctl({"net.ipv6.conf.eth0.disable_ipv6": 0})
            machine.ip(f"address add {address}/64 dev eth0 nodad")
        machines.here.sysctl(
            {key.replace("ipv4", "ipv6"): value for key, value in FAST.items() if "lock" not in key}
        )
        found = resolved_to(mac_of(machines.peer))
        seen(lambda: netlink.keep_fresh(index(), PEER6), found)
        entry = netlink.neighbour(index(), PEER6)
        assert entry
        assert (entry.managed, entry.ours) == (True, True)
        neighbours.let_go_except(())
        entry = netlink.neighbour(index(), PEER6)
        assert entry
        assert not entry.managed
        machines.here.ip(f"neighbour replace {PEER6} dev eth0 lladdr {OLD_MAC.hex(':')} nud stale")
        seen(lambda: netlink.refresh_stale([index()]), found)
