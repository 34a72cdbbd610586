# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
import pytest

from poise.errors import PoiseError
from poise.kernel import maps, netlink
from poise.servers.apply import DataPlane
from poise.servers.model import SERVER_IDS, NoSuchServer, NoSuchVip, Refused, State
from poise.servers.store import Store
from poise.servers.view import View
from tests.kernel.two_machines import mac_of, neighbours_of, seen
from tests.servers.control_room import Room, address_of, contents, is_resolved, pool, room, shown, vip

pytestmark = pytest.mark.root


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Room]:
    """Two machines; this thread lives in the balancer's."""
    with room(tmp_path) as found:
        yield found


def row(plane: DataPlane, number: int) -> dict[str, object]:
    """A row of the kernel's table of servers."""
    server = contents(plane).servers[number]
    return {name: server[name].tolist() for name in server.dtype.names or ()}


def test_a_server_is_told_with_all_that_is_known_of_it(here: Room) -> None:
    """The list has a dict for each server: who it is, its id and state, and what it was sent."""
    here.bring(1)
    controller, _ = here.start(here.config(vip(1)))
    (server,) = View(controller).servers()
    assert server == {
        "vip": "vip80",
        "name": "web1",
        "address": "10.1.0.11",
        "port": 8080,
        "id": 0,
        "weight": 1,
        "state": "ready",
        "reason": None,
        "reachable": True,
        "share": 1.0,
        "load": None,
        "open": None,
        "estimated": True,
        "connections": 0,
        "packets": 0,
        "bytes": 0,
    }
    assert json.loads(json.dumps(server)) == server


def test_each_change_reaches_the_kernel_and_the_file(here: Room) -> None:
    """When a change has been answered, new connections follow it, and it is on the disk."""
    here.bring(1, 2, 3)
    controller, plane = here.start(here.config(vip(1, 2)))
    assert pool(plane) == (0, 1)
    assert controller.add(None, "web3", address_of(3), 8080) == (0, 2)
    assert pool(plane) == (0, 1, 2)
    controller.set_state("web1", State.DRAIN)
    assert pool(plane) == (1, 2)
    controller.set_state("web2", State.MAINT)
    assert pool(plane) == (2,)
    controller.set_state("web2", State.READY)
    assert pool(plane) == (1, 2)
    controller.remove("web2")
    controller.remove("web3", now=True)
    assert shown(controller, "state") == {"web1": "drain", "web2": "removed", "web3": "cut"}
    assert pool(plane) == ()
    controller.add(None, None, address_of(1), 8080)
    controller.set_state("web2", State.READY)
    assert pool(plane) == (0, 1)
    before = controller.model
    here.end()
    with Store(here.path) as store:
        assert store.load() == before


def test_asking_for_what_is_so_already_is_no_event(here: Room) -> None:
    """Events tell of changes: to ask again is not refused, but nothing has happened."""
    controller, _ = here.start(here.config(vip(1)))
    for state in (State.READY, State.MAINT, State.MAINT, State.DRAIN, State.DRAIN):
        controller.set_state("web1", state)
    for _ in range(2):
        controller.remove("web1", now=True)
    told = [event["kind"] for event in controller.events.since() if event["vip"] == "vip80"]
    assert told == ["state", "state", "cut"]


def test_what_is_refused_changes_nothing(here: Room) -> None:
    """A refusal leaves the list, the file and the tables as they are."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1), vip(port=81)))
    before = (controller.model, here.path.read_bytes())
    plane.written.clear()
    with pytest.raises(NoSuchVip):
        controller.add("ghost", None, address_of(2), 8080)
    with pytest.raises(NoSuchVip):
        controller.set_state("web1", State.DRAIN)
    with pytest.raises(NoSuchServer):
        controller.remove("ghost", "vip80")
    with pytest.raises(Refused):
        controller.add("vip81", None, address_of(1), 8080)
    assert (controller.model, here.path.read_bytes()) == before
    assert plane.written == []


def test_what_cannot_be_saved_is_not_done(here: Room) -> None:
    """An id that is not on the disk is not given out: without a place to save it, the change is refused."""
    here.bring(1, 2)
    controller, plane = here.start(here.config(vip(1)))
    before = controller.model
    plane.written.clear()
    journal = here.path.with_name(f"{here.path.name}-journal")
    journal.mkdir()  # where SQLite would note how to undo a change
    with pytest.raises(PoiseError, match=rf"^cannot write {here.path} \("):
        controller.add(None, "web2", address_of(2), 8080)
    assert controller.model == before
    controller.refresh()
    assert plane.written == []
    journal.rmdir()
    controller.add(None, "web2", address_of(2), 8080)
    assert pool(plane) == (0, 1)


def test_a_server_takes_connections_once_it_answers(here: Room) -> None:
    """A server that does not answer ARP is told so and gets no connections, until it does."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1, 2)))
    assert shown(controller, "reachable") == {"web1": True, "web2": False}
    assert shown(controller, "reason") == {"web1": None, "web2": "10.1.0.12 does not answer ARP on eth0"}
    assert pool(plane) == (0,)
    here.peer.ip(f"address add {address_of(2)}/24 dev eth0")
    ping = ["ping", "-c", "1", "-I", str(address_of(2)), "10.1.0.1"]
    event = seen(lambda: here.peer.run(ping), lambda event: is_resolved(event, address_of(2)))
    assert controller.reach.concerns(event) == {address_of(2)}
    controller.refresh({address_of(2)})
    assert shown(controller, "reachable") == {"web1": True, "web2": True}
    assert pool(plane) == (0, 1)
    kinds = [event["kind"] for event in controller.events.since()]
    assert kinds == ["unreachable", "reachable"]


def test_a_change_looks_only_at_servers_that_are_new(here: Room) -> None:
    """A change of some servers does not cost a look at all others: what became of them is told by events."""
    here.bring(1, 2)
    controller, plane = here.start(here.config(vip(1)))
    here.peer.ip(f"address delete {address_of(1)}/24 dev eth0")
    here.here.ip(f"neighbour delete {address_of(1)} dev eth0")
    controller.add(None, "web2", address_of(2), 8080, 5)
    assert shown(controller, "reachable") == {"web1": True, "web2": True}
    assert shown(controller, "weight") == {"web1": 1, "web2": 5}
    assert pool(plane) == (0, 1)
    controller.refresh()
    assert shown(controller, "reachable") == {"web1": False, "web2": True}
    assert pool(plane) == (1,)


def test_a_change_of_one_vip_writes_nothing_of_the_others(here: Room) -> None:
    """Only the tables of the VIP that changes are written, and the others' choices are not made anew."""
    here.bring(1, 2, 3)
    controller, plane = here.start(here.config(vip(1, 2), vip(3, port=81)))
    choice = controller.choices[1]
    plane.written.clear()
    controller.set_state("web1", State.DRAIN, "vip80")
    rows = {key for write in plane.written if write.table == "servers" for key in write.keys}
    assert rows == {0}
    assert controller.choices[1] is choice


def test_servers_of_ipv6_are_kept_as_those_of_ipv4(here: Room) -> None:
    """Servers of IPv6 are reached by NDP, told by their addresses, and their ways outlive the process."""
    for machine, number in ((here.here, 1), (here.peer, 2)):
        machine.sysctl({"net.ipv6.conf.eth0.disable_ipv6": 0})
        machine.ip(f"address add 2001:db8::{number}/64 dev eth0 nodad")
    server = IPv6Address("2001:db8::2")
    ifindex = netlink.interface("eth0").index
    seen(lambda: netlink.keep_fresh(ifindex, server), lambda event: is_resolved(event, server))
    wanted = {"address": "2001:db8::a", "port": 443, "protocol": "quic", "servers": []}
    controller, plane = here.start(here.config(wanted, vip()))
    key = controller.add("[2001:db8::a]:443", None, server, 443)
    added = View(controller).server(key)
    assert (added["name"], added["address"], added["reachable"]) == ("[2001:db8::2]:443", "2001:db8::2", True)
    assert pool(plane) == (0,)
    before = row(plane, 0)
    assert (bytes(before["hop_mac"]), before["mtu"]) == (mac_of(here.peer), 1500)  # type: ignore[call-overload]
    here.peer.ip(f"address delete {server}/64 dev eth0")
    here.here.ip(f"neighbour delete {server} dev eth0")
    controller, plane = here.start(here.config(wanted, vip()))
    assert shown(controller, "reachable") == {"[2001:db8::2]:443": False}
    assert row(plane, 0) == before
    assert controller.reach.holders_of_neighbours() == {ifindex}


def test_keys_of_connection_ids_are_needed_at_a_start(here: Room, tmp_path: Path) -> None:
    """A key file that is not there, or open to others, is told at the start, and its key is never saved."""
    path = tmp_path / "quic.key"
    ids = [{"config": 0, "key_file": str(path)}]
    config = here.config(vip() | {"protocol": "quic", "quic_ids": ids})
    with pytest.raises(PoiseError, match=rf"^cannot read the key of QUIC connection ids {path}: "):
        here.start(config)
    path.write_bytes(b"0123456789abcdef")
    path.chmod(0o644)
    with pytest.raises(PoiseError, match=rf"^the key of QUIC connection ids {path} can be read by others"):
        here.start(config)
    path.chmod(0o600)
    here.start(config)
    assert b"0123456789abcdef" not in here.path.read_bytes()


def test_a_server_that_stops_answering_keeps_its_row(here: Room) -> None:
    """What was known of a way is kept for old connections when it fails; new ones go elsewhere."""
    here.bring(1, 2)
    controller, plane = here.start(here.config(vip(1, 2)))
    before = row(plane, 1)
    here.peer.ip(f"address delete {address_of(2)}/24 dev eth0")
    here.here.ip(f"neighbour delete {address_of(2)} dev eth0")
    controller.refresh()
    assert shown(controller, "reachable") == {"web1": True, "web2": False}
    assert pool(plane) == (0,)
    assert row(plane, 1) == before


def test_a_server_with_another_mac_is_followed(here: Room) -> None:
    """When a server's neighbour has another MAC, packets go there after the event that tells so."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1)))
    assert bytes(row(plane, 0)["interface_mac"]) == mac_of(here.here)  # type: ignore[call-overload]
    assert bytes(row(plane, 0)["hop_mac"]) == mac_of(here.peer)  # type: ignore[call-overload]
    other = bytes.fromhex("020000000099")

    def changed(event: netlink.Event) -> bool:
        return isinstance(event, netlink.NeighbourChange) and event.neighbour.mac == other

    event = seen(
        lambda: here.here.ip(
            f"neighbour replace {address_of(1)} dev eth0 lladdr {other.hex(':')} nud reachable"
        ),
        changed,
    )
    assert controller.reach.concerns(event)
    controller.refresh()
    assert bytes(row(plane, 0)["hop_mac"]) == other  # type: ignore[call-overload]


def test_confirmations_of_what_is_known_are_no_concern(here: Room) -> None:
    """The kernel's regular news that a neighbour is still there make nobody look everything up again."""
    here.bring(1)
    controller, _ = here.start(here.config(vip(1)))
    entry = netlink.neighbour(netlink.interface("eth0").index, address_of(1))
    assert entry is not None
    reach = controller.reach
    assert reach.concerns(netlink.NeighbourChange(entry, gone=False)) == set()
    assert reach.concerns(netlink.NeighbourChange(entry, gone=True)) == {address_of(1)}
    assert reach.concerns(netlink.Overrun()) is None
    assert reach.concerns(netlink.RouteChange(None)) is None


def test_a_server_past_poise_is_not_used(here: Room) -> None:
    """A server behind an interface that is not poise's would answer past it, and gets no packets."""
    here.here.ip("link add eth1 type veth peer name eth2", "link set eth1 up", "route add 10.1.0.11 dev eth1")
    controller, plane = here.start(here.config(vip(1)))
    assert shown(controller, "reachable") == {"web1": False}
    assert row(plane, 0)["ifindex"] == 0


def test_neighbours_of_servers_that_are_gone_are_let_go(here: Room) -> None:
    """The kernel keeps only the neighbours of servers fresh, also after poise.yaml was changed."""
    here.bring(1, 2)
    here.start(here.config(vip(1), vip(2, port=81)))
    assert neighbours_of(here.here).count(" managed ") == 2
    here.start(here.config(vip(1)))
    (managed,) = (line for line in neighbours_of(here.here).splitlines() if " managed " in line)
    assert managed.startswith("10.1.0.11 ")


def test_a_new_process_finds_everything_in_order(here: Room) -> None:
    """After a kill, a new daemon has the same ids, and writes nothing: no pool is emptied in between."""
    here.bring(1, 2, 3)
    config = here.config(vip(1, 2), vip(port=81), direct=["198.51.100.0/24"])
    before, plane = here.start(config)
    before.add("vip81", None, address_of(3), 8080)
    before.set_state("web1", State.DRAIN, "vip80")
    listed = View(before).servers()
    after, plane = here.start(config)
    assert View(after).servers() == listed
    assert plane.written == []
    assert [pool(plane, index) for index in (0, 1)] == [(1,), (0,)]


def test_a_new_process_that_finds_no_neighbour_keeps_the_last_way(here: Room) -> None:
    """What the tables say is used for old connections until the way is known again."""
    here.bring(1)
    _, plane = here.start(here.config(vip(1)))
    before = row(plane, 0)
    here.peer.ip(f"address delete {address_of(1)}/24 dev eth0")
    here.here.ip(f"neighbour delete {address_of(1)} dev eth0")
    controller, plane = here.start(here.config(vip(1)))
    assert shown(controller, "reachable") == {"web1": False}
    assert row(plane, 0) == before
    assert pool(plane) == ()


def test_counting_starts_anew_with_a_server(here: Room) -> None:
    """A server that gets a former server's id does not get its numbers; one that comes back keeps its own."""
    controller, _ = here.start(here.config(vip(1)))
    count(here.pins, 0)
    controller.remove("web1")
    controller.add(None, "web1", address_of(1), 8080)
    assert shown(controller, "packets") == {"web1": 5}
    here.end()
    here.path.unlink()
    controller, _ = here.start(here.config(vip(2)))
    assert shown(controller, "packets") == {"web2": 0}


def count(pins: Path, number: int) -> None:
    """Write into a server's row of the traffic table as the program does: one connection of 5 packets."""
    with maps.open_pinned(pins / "traffic") as table:
        first, *others = table.get(number)
        table.set(number, [first | {"connections": 1, "packets": 5, "bytes": 300}, *others])


def test_all_counters_are_there_from_the_start(here: Room) -> None:
    """Counters are the events of the contract under their lower-case names, zeros included."""
    _, plane = here.start(here.config(vip()))
    counted = plane.events()
    assert {"pass_no_route", "drop_unknown_server", "reset_no_server"} <= counted.keys()
    assert set(counted.values()) == {0}


def test_rows_of_several_vips_do_not_mix(here: Room) -> None:
    """Equal ids of two VIPs are different servers."""
    here.bring(1, 2)
    _, plane = here.start(here.config(vip(1), vip(2, port=81)))
    servers = contents(plane).servers
    held = np.flatnonzero(servers["address"])
    assert {number: str(IPv4Address(int(servers["address"][number]))) for number in held.tolist()} == {
        0: "10.1.0.11",
        SERVER_IDS: "10.1.0.12",
    }
