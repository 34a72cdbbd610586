# SPDX-License-Identifier: Apache-2.0
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.kernel import maps, netlink
from poise.servers import state
from poise.servers.control import Controller
from poise.servers.model import SERVER_IDS, NoSuchServer, NoSuchVip, Refused
from tests.kernel.two_machines import mac_of, neighbours_of, seen
from tests.servers.control_room import Room, address_of, is_resolved, pool, room, vip

pytestmark = pytest.mark.root


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Room]:
    """Two machines; this thread lives in the balancer's."""
    with room(tmp_path) as found:
        yield found


def names(controller: Controller, key: str) -> dict[object, object]:
    """What `list` tells of each server under a key."""
    return {server["name"]: server[key] for server in controller.list()}


def test_a_server_is_told_with_all_that_is_known_of_it(here: Room) -> None:
    """The list has a dict for each server: who it is, its id and state, and what it was sent."""
    here.bring(1)
    controller, _ = here.start(here.config(vip(1)))
    (server,) = controller.list()
    assert server == {
        "vip": "vip80",
        "name": "web1",
        "address": "10.1.0.11",
        "port": 8080,
        "id": 0,
        "weight": 1,
        "state": "ready",
        "reachable": True,
        "connections": 0,
        "packets": 0,
        "bytes": 0,
    }


def test_each_change_reaches_the_kernel_and_the_file(here: Room) -> None:
    """When a change has been answered, new connections follow it, and it is on the disk."""
    here.bring(1, 2, 3)
    controller, plane = here.start(here.config(vip(1, 2)))
    assert pool(plane.read()) == (0, 1)
    assert controller.add(None, "web3", address_of(3), 8080)["id"] == 2
    assert pool(plane.read()) == (0, 1, 2)
    assert controller.drain("web1")["state"] == "drain"
    assert pool(plane.read()) == (1, 2)
    assert controller.remove("web2")["state"] == "removed"
    assert controller.remove("web3", now=True)["state"] == "cut"
    assert pool(plane.read()) == ()
    assert controller.add(None, None, address_of(1), 8080)["state"] == "ready"
    assert pool(plane.read()) == (0,)
    saved = [(server.name, server.state) for _, server in state.load_model(here.path).servers()]
    assert [(server["name"], server["state"]) for server in controller.list()] == saved


def test_what_is_refused_changes_nothing(here: Room) -> None:
    """A refusal leaves the list, the file and the tables as they are."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1), vip(port=81)))
    before = (controller.list(), here.path.read_bytes(), plane.read())
    with pytest.raises(NoSuchVip):
        controller.add("ghost", None, address_of(2), 8080)
    with pytest.raises(NoSuchVip):
        controller.drain("web1")
    with pytest.raises(NoSuchServer):
        controller.remove("ghost", "vip80")
    with pytest.raises(Refused):
        controller.add("vip81", None, address_of(1), 8080)
    assert (controller.list(), here.path.read_bytes(), plane.read()) == before


def test_what_cannot_be_saved_is_not_done(here: Room) -> None:
    """An id that is not on the disk is not given out: without a place to save it, the change is refused."""
    here.bring(1, 2)
    controller, plane = here.start(here.config(vip(1)))
    before = (controller.list(), plane.read())
    here.path.with_name(f"{here.path.name}.new").mkdir()
    with pytest.raises(PoiseError, match=rf"^cannot write {here.path}: "):
        controller.add(None, "web2", address_of(2), 8080)
    assert (controller.list(), plane.read()) == before
    controller.refresh()
    assert (controller.list(), plane.read()) == before


def test_a_server_takes_connections_once_it_answers(here: Room) -> None:
    """A server that does not answer ARP is told so and gets no connections, until it does."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1, 2)))
    assert names(controller, "reachable") == {"web1": True, "web2": False}
    assert controller.unreachable() == 1
    assert pool(plane.read()) == (0,)
    here.peer.ip(f"address add {address_of(2)}/24 dev eth0")
    ping = ["ping", "-c", "1", "-I", str(address_of(2)), "10.1.0.1"]
    event = seen(lambda: here.peer.run(ping), lambda event: is_resolved(event, address_of(2)))
    assert controller.concerns(event)
    controller.refresh()
    assert names(controller, "reachable") == {"web1": True, "web2": True}
    assert pool(plane.read()) == (0, 1)


def test_a_change_looks_only_at_servers_that_are_new(here: Room) -> None:
    """A change of some servers does not cost a look at all others: what became of them is told by events."""
    here.bring(1, 2)
    controller, plane = here.start(here.config(vip(1)))
    here.peer.ip(f"address delete {address_of(1)}/24 dev eth0")
    here.here.ip(f"neighbour delete {address_of(1)} dev eth0")
    controller.add(None, "web2", address_of(2), 8080, 5)
    assert names(controller, "reachable") == {"web1": True, "web2": True}
    assert names(controller, "weight") == {"web1": 1, "web2": 5}
    assert pool(plane.read()) == (0, 1)
    controller.refresh()
    assert names(controller, "reachable") == {"web1": False, "web2": True}
    assert pool(plane.read()) == (1,)


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
    added = controller.add("[2001:db8::a]:443", None, server, 443)
    assert (added["name"], added["address"], added["reachable"]) == ("[2001:db8::2]:443", "2001:db8::2", True)
    assert pool(plane.read()) == (0,)
    row = plane.read().servers[0]
    assert (row["hop_mac"], row["mtu"]) == (mac_of(here.peer), 1500)
    here.peer.ip(f"address delete {server}/64 dev eth0")
    here.here.ip(f"neighbour delete {server} dev eth0")
    controller, plane = here.start(here.config(wanted, vip()))
    assert names(controller, "reachable") == {"[2001:db8::2]:443": False}
    assert plane.read().servers[0] == row
    assert controller.holders_of_neighbours() == {ifindex}


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
    row = plane.read().servers[1]
    here.peer.ip(f"address delete {address_of(2)}/24 dev eth0")
    here.here.ip(f"neighbour delete {address_of(2)} dev eth0")
    controller.refresh()
    assert names(controller, "reachable") == {"web1": True, "web2": False}
    assert pool(plane.read()) == (0,)
    assert plane.read().servers[1] == row


def test_a_server_with_another_mac_is_followed(here: Room) -> None:
    """When a server's neighbour has another MAC, packets go there after the event that tells so."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1)))
    assert plane.read().servers[0]["interface_mac"] == mac_of(here.here)
    assert plane.read().servers[0]["hop_mac"] == mac_of(here.peer)
    other = bytes.fromhex("020000000099")

    def changed(event: netlink.Event) -> bool:
        return isinstance(event, netlink.NeighbourChange) and event.neighbour.mac == other

    event = seen(
        lambda: here.here.ip(
            f"neighbour replace {address_of(1)} dev eth0 lladdr {other.hex(':')} nud reachable"
        ),
        changed,
    )
    assert controller.concerns(event)
    controller.refresh()
    assert plane.read().servers[0]["hop_mac"] == other


def test_confirmations_of_what_is_known_are_no_concern(here: Room) -> None:
    """The kernel's regular news that a neighbour is still there make nobody look everything up again."""
    here.bring(1)
    controller, _ = here.start(here.config(vip(1)))
    entry = netlink.neighbour(netlink.interface("eth0").index, address_of(1))
    assert entry is not None
    assert not controller.concerns(netlink.NeighbourChange(entry, gone=False))
    assert controller.concerns(netlink.NeighbourChange(entry, gone=True))
    assert controller.concerns(netlink.Overrun())
    assert controller.concerns(netlink.RouteChange(None))


def test_a_server_past_poise_is_not_used(here: Room) -> None:
    """A server behind an interface that is not poise's would answer past it, and gets no packets."""
    here.here.ip("link add eth1 type veth peer name eth2", "link set eth1 up", "route add 10.1.0.11 dev eth1")
    controller, plane = here.start(here.config(vip(1)))
    assert names(controller, "reachable") == {"web1": False}
    assert plane.read().servers[0]["ifindex"] == 0


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
    before, plane = here.start(here.config(vip(1, 2), vip(port=81), direct=["198.51.100.0/24"]))
    before.add("vip81", None, address_of(3), 8080)
    before.drain("web1", "vip80")
    after, plane = here.start(here.config(vip(1, 2), vip(port=81), direct=["198.51.100.0/24"]))
    assert after.list() == before.list()
    assert plane.written == []
    assert [pool(plane.read(), index) for index in (0, 1)] == [(1,), (0,)]


def test_a_new_process_that_finds_no_neighbour_keeps_the_last_way(here: Room) -> None:
    """What the tables say is used for old connections until the way is known again."""
    here.bring(1)
    _, plane = here.start(here.config(vip(1)))
    row = plane.read().servers[0]
    here.peer.ip(f"address delete {address_of(1)}/24 dev eth0")
    here.here.ip(f"neighbour delete {address_of(1)} dev eth0")
    controller, plane = here.start(here.config(vip(1)))
    assert names(controller, "reachable") == {"web1": False}
    assert plane.read().servers[0] == row
    assert pool(plane.read()) == ()


def test_counting_starts_anew_with_a_server(here: Room) -> None:
    """A server that gets a former server's id does not get its numbers; one that comes back keeps its own."""
    controller, _ = here.start(here.config(vip(1)))
    count(here.pins, 0)
    controller.remove("web1")
    controller.add(None, "web1", address_of(1), 8080)
    assert names(controller, "packets") == {"web1": 5}
    here.path.unlink()
    controller, _ = here.start(here.config(vip(2)))
    assert names(controller, "packets") == {"web2": 0}


def count(pins: Path, row: int) -> None:
    """Write into a server's row of the traffic table as the program does: connections, packets, bytes."""
    with maps.open_pinned(pins / "traffic") as table:
        key = row.to_bytes(4, "little")
        table.set(key, [struct.pack("=3Q", 1, 5, 300), *table.get(key)[1:]])


def test_all_counters_are_there_from_the_start(here: Room) -> None:
    """Counters are the events of the contract under their lower-case names, zeros included."""
    controller, _ = here.start(here.config(vip()))
    counted = controller.counters()
    assert {"pass_no_route", "drop_unknown_server", "reset_no_server"} <= counted.keys()
    assert set(counted.values()) == {0}


def test_rows_of_several_vips_do_not_mix(here: Room) -> None:
    """Equal ids of two VIPs are different servers."""
    here.bring(1, 2)
    _, plane = here.start(here.config(vip(1), vip(2, port=81)))
    content = plane.read()
    assert {row: str(IPv4Address(server["address"])) for row, server in content.servers.items()} == {
        0: "10.1.0.11",
        SERVER_IDS: "10.1.0.12",
    }
