# SPDX-License-Identifier: Apache-2.0
import json
import socket
import struct
import subprocess
from collections.abc import Sequence
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from poise.config import Config
from poise.errors import PoiseError
from poise.kernel import proc
from poise.kernel.netlink import RouteChange
from poise.lab.namespaces import Lab, Namespace
from poise.servers import host
from poise.servers.host import Address, Feature, Setting, Sysctl
from tests.kernel.two_machines import living_here, seen

pytestmark = pytest.mark.root

ON_LINK, ROUTED = "10.1.0.100", "192.0.2.10"
REDIRECTS = "net.ipv4.conf.eth0.send_redirects"
FORWARDING = "net.ipv4.conf.eth0.forwarding"
# Since Linux 6.17; without, only net.ipv6.conf.all.forwarding has the kernel itself forward IPv6.
FORCED = [
    f"net.ipv6.conf.{name}.force_forwarding"
    for name in ("eth0", "eth1")
    if proc.has_sysctl("net.ipv6.conf.all.force_forwarding")
]


def config(*vips: str, interfaces: Sequence[str], ports: Sequence[int] = (80,)) -> Config:
    """A configuration without servers."""
    services = [{"address": vip, "port": port, "servers": []} for vip in vips for port in ports]
    return Config.model_validate({"interfaces": interfaces, "vips": services})


def plan(*vips: str, mode: str = "native", interface: str = "eth0") -> list[Setting]:
    """What a configuration with one arm needs."""
    return host.plan(config(*vips, interfaces=[interface]), {interface: mode})


def state(machine: Namespace, interface: str = "eth0") -> list[str]:
    """All that poise could have changed on the machine, as others see it."""
    sysctls = machine.run(["sysctl", "--all", "--pattern", r"^net\.ipv[46]\.(conf|neigh|ip_forward)"])
    features = machine.run(["ethtool", "-k", interface])
    addresses = machine.run(["ip", "-oneline", "address", "show"])
    return [*sysctls.splitlines(), *features.splitlines(), *addresses.splitlines()]


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    """A state file that does not exist yet, nor does its directory."""
    return tmp_path / "poise" / "host.json"


def test_plan_is_what_two_way_forwarding_needs_and_no_more() -> None:
    """Exactly these settings are planned, those that bring packets last."""
    with living_here():
        assert [setting.name for setting in plan(ON_LINK)] == [
            "clsact of eth0",
            "rx-lro of eth0",
            "rx-gro-hw of eth0",
            "rx-vlan-hw-parse of eth0",
            "rx-vlan-stag-hw-parse of eth0",
            "net.ipv4.conf.all.send_redirects",
            REDIRECTS,
            "net.ipv4.neigh.eth0.mcast_resolicit",
            FORWARDING,
            f"{ON_LINK}/32 on eth0",
        ]


def test_plan_turns_gro_off_for_generic_xdp_only() -> None:
    """Generic XDP comes after GRO and would see merged packets; native XDP comes before it."""
    with living_here():
        native, generic = (
            {setting.name for setting in plan(ROUTED, mode=mode)} for mode in ("native", "generic")
        )
        assert generic - native == {"rx-gro of eth0"}
        assert native < generic


def test_vips_get_the_interface_whose_subnet_holds_them() -> None:
    """A VIP goes to the interface with the narrowest subnet around it, else to loopback, and only once."""
    with living_here() as machines:
        machines.here.ip(
            "link add eth1 type veth peer name eth2",
            "address add 10.1.0.65/26 dev eth1",
            "address add 192.0.2.10/32 dev eth2",
        )
        both = config(ON_LINK, ROUTED, interfaces=("eth0", "eth1"), ports=(80, 443))
        found = host.plan(both, {})
        assert [setting.name for setting in found if isinstance(setting, Address)] == [
            f"{ON_LINK}/32 on eth1",
            f"{ROUTED}/32 on lo",
        ]


def test_plan_with_a_missing_interface_names_those_there_are() -> None:
    """An interface of the configuration that does not exist is an error before anything is changed."""
    with living_here(), pytest.raises(PoiseError, match=r"^no interface eth9: the interfaces are lo, eth0$"):
        plan(ROUTED, interface="eth9")


@pytest.mark.parametrize("interface", ["eth0", "eth0.100"])
def test_undo_restores_the_machine_exactly(state_file: Path, interface: str) -> None:
    """After set_up all is as wanted, and after undo the machine is exactly as it was; each change is told."""
    with living_here() as machines:
        machines.here.ip(f"link set eth0 down name {interface}", f"link set {interface} up")
        machines.here.run(["ethtool", "-K", interface, "gro", "on", "rxvlan", "on"])
        before = state(machines.here, interface)
        settings = plan(ON_LINK, ROUTED, mode="generic", interface=interface)
        wrong = host.check(settings)
        done = host.set_up(settings, state_file)
        assert host.check(settings) == []
        changed = set(state(machines.here, interface)) ^ set(before)
        assert len(done) == len(wrong) > 5
        undone = host.undo(state_file)
        assert state(machines.here, interface) == before
        assert len(undone) == len(done)
        assert changed
        assert not state_file.exists()
        assert host.undo(state_file) == []


def test_undo_can_be_done_in_parts(state_file: Path) -> None:
    """Some settings can be set back before the others, which stay as they are, and recorded."""
    with living_here() as machines:
        machines.here.run(["ethtool", "-K", "eth0", "rxvlan", "on"])
        before = state(machines.here)
        host.set_up(plan(ON_LINK, ROUTED), state_file)
        first = host.undo(state_file, lambda setting: isinstance(setting, Address))
        assert [sentence.partition("/")[0] for sentence in first] == [ROUTED, ON_LINK]
        assert host.undo(state_file, lambda setting: isinstance(setting, Address)) == []
        assert proc.read_sysctl(FORWARDING) == "1"
        rest = host.undo(state_file)
        assert "clsact of eth0: present -> absent, as before" in rest
        assert "rx-vlan-hw-parse of eth0: off -> on, as before" in rest
        assert state(machines.here) == before
        assert not state_file.exists()


def test_set_up_leaves_the_rest_of_the_machine_alone(state_file: Path) -> None:
    """Another interface does not become a router's, nor does the machine as a whole."""
    with living_here() as machines:
        machines.here.ip("link add eth1 type veth peer name eth2")
        before = [line for line in state(machines.here, "eth1") if "eth1" in line or "ip_forward" in line]
        host.set_up(plan(ON_LINK), state_file)
        after = [line for line in state(machines.here, "eth1") if "eth1" in line or "ip_forward" in line]
        assert after == before != []


def test_the_machine_answers_for_its_vips(state_file: Path) -> None:
    """VIPs in the clients' subnet are answered for by ARP and ping, routed ones by ping."""
    with living_here() as machines:
        machines.peer.ip(f"route add {ROUTED} via 10.1.0.1")
        host.set_up(plan(ON_LINK, ROUTED), state_file)
        for vip in (ON_LINK, ROUTED):
            machines.peer.run(["ping", "-c", "1", "-W", "5", vip])


def test_servers_are_not_redirected_past_poise(state_file: Path) -> None:
    """With one arm, a server that sends out through this machine is not told of a shorter way."""
    with living_here() as machines:
        machines.here.ip(
            "route add 10.7.0.0/16 via 10.1.0.3",
            "neighbour add 10.1.0.3 dev eth0 lladdr 02:00:00:00:00:03",
        )
        machines.peer.ip("route add 10.7.0.0/16 via 10.1.0.1")
        settings = plan(ROUTED)

        def redirects_for_three_pings() -> int:
            before = proc.counters()
            ping = ["ping", "-c", "3", "-i", "0.01", "-W", "0.1", "10.7.0.1"]
            machines.peer.popen(ping, stdout=subprocess.DEVNULL).wait()
            after = proc.counters()
            assert after["IpForwDatagrams"] - before["IpForwDatagrams"] == 3
            return after["IcmpOutRedirects"] - before["IcmpOutRedirects"]

        host.set_up([setting for setting in settings if "send_redirects" not in setting.name], state_file)
        assert redirects_for_three_pings() > 0
        host.set_up(settings, state_file)
        assert redirects_for_three_pings() == 0


def test_a_second_set_up_keeps_the_first_recording(state_file: Path) -> None:
    """Setting up again, with more settings, changes only what is not right; undo leads back to the start."""
    with living_here() as machines:
        machines.here.run(["ethtool", "-K", "eth0", "gro", "on"])
        before = state(machines.here)
        host.set_up(plan(ROUTED), state_file)
        assert host.set_up(plan(ROUTED), state_file) == []
        proc.write_sysctl(FORWARDING, "0")
        again = host.set_up(plan(ROUTED, ON_LINK, mode="generic"), state_file)
        assert [sentence.partition(":")[0] for sentence in again] == [
            "rx-gro of eth0",
            FORWARDING,
            f"{ON_LINK}/32 on eth0",
        ]
        host.undo(state_file)
        assert state(machines.here) == before


def test_undo_leaves_what_others_changed_since(state_file: Path) -> None:
    """A setting that somebody changed after poise did is not touched, and that is said."""
    with living_here() as machines:
        proc.write_sysctl("net.ipv4.neigh.eth0.mcast_resolicit", "1")
        host.set_up(plan(ON_LINK), state_file)
        proc.write_sysctl("net.ipv4.neigh.eth0.mcast_resolicit", "5")
        machines.here.ip(f"address delete {ON_LINK}/32 dev eth0", f"address add {ON_LINK}/25 dev eth0")
        undone = host.undo(state_file)
        assert undone[0] == (
            f"{ON_LINK}/32 on eth0 is left on eth0 as {ON_LINK}/25: it was changed after poise had set it up"
        )
        changed = "it was changed after poise had set it up"
        assert f"net.ipv4.neigh.eth0.mcast_resolicit is left 5: {changed}" in undone
        assert proc.read_sysctl("net.ipv4.neigh.eth0.mcast_resolicit") == "5"
        assert f"{ON_LINK}/25" in machines.here.run(["ip", "address", "show", "eth0"])


@pytest.mark.parametrize("held", [f"{ON_LINK}/24 dev eth0", f"{ON_LINK}/32 dev lo"])
def test_a_vip_that_is_there_already_is_left_alone(state_file: Path, held: str) -> None:
    """An address that the machine has, wherever and of whatever prefix length, is not added or removed."""
    with living_here() as machines:
        machines.here.ip(f"address add {held}")
        before = state(machines.here)
        assert not any(ON_LINK in sentence for sentence in host.set_up(plan(ON_LINK), state_file))
        host.undo(state_file)
        assert state(machines.here) == before


def test_a_stronger_setting_of_the_administrator_is_left_alone(state_file: Path) -> None:
    """Who asks more often by broadcast than poise needs goes on doing so."""
    with living_here():
        proc.write_sysctl("net.ipv4.neigh.eth0.mcast_resolicit", "7")
        host.set_up(plan(ROUTED), state_file)
        assert proc.read_sysctl("net.ipv4.neigh.eth0.mcast_resolicit") == "7"


def test_nothing_changes_unless_it_is_recorded(state_file: Path) -> None:
    """Where the state file cannot be written, nothing is changed."""
    state_file.with_name("host.json.new").mkdir(parents=True)
    with living_here() as machines:
        before = state(machines.here)
        with pytest.raises(PoiseError, match=rf"^cannot write {state_file}: "):
            host.set_up(plan(ROUTED), state_file)
        assert state(machines.here) == before


def test_a_set_up_that_broke_off_can_be_undone(state_file: Path) -> None:
    """When a change is refused, those before it are recorded, and undo takes them back."""
    with living_here() as machines:
        before = state(machines.here)
        refused = Sysctl(key="net.ipv4.conf.eth0.rp_filter", wanted="nonsense", why="to be refused")
        with pytest.raises(
            PoiseError, match=r"^cannot write nonsense to /proc/sys/net/ipv4/conf/eth0/rp_filter"
        ):
            host.set_up([*plan(ROUTED), refused], state_file)
        assert state(machines.here) != before
        host.undo(state_file)
        assert state(machines.here) == before


def test_a_vanished_interface_is_no_hindrance_to_undoing(state_file: Path) -> None:
    """What was set on an interface that is gone is told so, and the rest is undone."""
    with living_here() as machines:
        host.set_up(plan(ON_LINK), state_file)
        machines.here.ip("link delete eth0")
        undone = host.undo(state_file)
        assert f"{ON_LINK}/32 on eth0 needs no undoing: the interface is gone" in undone
        assert f"{FORWARDING} needs no undoing: the interface is gone" in undone
        assert proc.read_sysctl("net.ipv4.conf.all.send_redirects") == "1"
        assert not state_file.exists()


@pytest.mark.parametrize("content", ["", "{", '{"boot": "x"}', '{"boot": "x", "records": [{"before": "0"}]}'])
def test_a_damaged_state_file_is_named_and_kept(state_file: Path, content: str) -> None:
    """Where the recording cannot be understood, nothing is set up or undone, and the file is kept."""
    state_file.parent.mkdir()
    state_file.write_text(content)
    with living_here() as machines:
        before = state(machines.here)
        with pytest.raises(PoiseError, match=rf"^{state_file} is damaged "):
            host.set_up(plan(ROUTED), state_file)
        with pytest.raises(PoiseError, match=rf"^{state_file} is damaged "):
            host.undo(state_file)
        assert state(machines.here) == before
        assert state_file.read_text() == content


def test_values_from_before_a_reboot_are_not_restored(state_file: Path) -> None:
    """A reboot undoes everything by itself: what was recorded before it is dropped."""
    with living_here() as machines:
        host.set_up(plan(ROUTED), state_file)
        recorded = json.loads(state_file.read_text())
        old = json.dumps(recorded | {"boot": "another"})
        before = state(machines.here)
        state_file.write_text(old)
        assert host.undo(state_file) == ["the machine was restarted, which undid its former set-up"]
        assert not state_file.exists()
        state_file.write_text(old)
        proc.write_sysctl(FORWARDING, "0")
        assert len(host.set_up(plan(ROUTED), state_file)) == 2
        assert len(json.loads(state_file.read_text())["records"]) == 1
        assert state(machines.here) == before


def test_check_tells_what_cannot_be_mended() -> None:
    """A feature that the device cannot turn off is told, one that it lacks is no fault, nor a missing one."""
    with living_here():
        fixed, lacking, unknown = (
            Feature(interface="lo", feature=feature, why="for the test")
            for feature in ("highdma", "rx-lro", "rx-nonsense")
        )
        sentence = "highdma of lo is on and should be off, for the test; this device cannot change it"
        assert host.check([fixed, lacking, unknown]) == [sentence]


def test_set_up_tells_of_a_fixed_feature_and_goes_on(state_file: Path) -> None:
    """A device that cannot be set up fully is told of, and not recorded as changed."""
    with living_here():
        fixed = Feature(interface="lo", feature="highdma", why="for the test")
        assert len(host.set_up([fixed], state_file)) == 1
        assert not state_file.exists()


def test_check_tells_of_an_interface_that_is_gone() -> None:
    """Each setting of an interface that was removed is told as such."""
    with living_here() as machines:
        settings = plan(ON_LINK)
        machines.here.ip("link delete eth0")
        gone = [
            sentence for sentence in host.check(settings) if sentence.endswith("was the interface removed?")
        ]
        assert len(gone) == len([setting for setting in settings if "eth0" in setting.name])


class Router(Lab):
    """`here` routes between `left` on eth0 and `right` on eth1; `side` is a router beside, on eth2."""

    def build(self) -> None:
        """Make the machines; on the links of eth0 and so on are 2001:db8:0::/64, 2001:db8:1::/64, ..."""
        names = ("here", "left", "right", "side")
        self.here, *self.others = (self.namespace(name) for name in names)
        self.here.sysctl({"net.ipv6.conf.lo.disable_ipv6": 0})
        for number, other in enumerate(self.others):
            self.link(self.here, f"eth{number}", other, "eth0")
            for machine, interface, end in ((self.here, f"eth{number}", 1), (other, "eth0", 2)):
                for key in ("accept_dad", "disable_ipv6"):
                    machine.sysctl({f"net.ipv6.conf.{interface}.{key}": 0})
                machine.ip(f"address add 2001:db8:{number}::{end}/64 dev {interface} nodad")
            other.ip(f"route add default via 2001:db8:{number}::1")
        self.left, self.right, self.side = self.others

    def plan(self, vip: str) -> list[Setting]:
        """What a configuration with two arms needs."""
        return host.plan(config(vip, interfaces=["eth0", "eth1"]), {})

    def advertise(self, sender: Namespace, interface: str) -> None:
        """Have a router advertise itself (RFC 4861, section 4.2), and wait until it is a default route."""

        def send() -> None:
            advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
            with (
                sender.enter(),
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw,
            ):
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                raw.sendto(advertisement, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))

        seen(send, lambda event: event == RouteChange(IPv6Network("::/0")))
        assert interface in self.defaults()

    def defaults(self) -> str:
        """The default routes of IPv6."""
        return self.here.run(["ip", "-6", "route", "show", "default"])


def test_plan_for_ipv6_is_more_only_where_a_vip_has_it() -> None:
    """Sysctls of IPv6 are planned for a VIP of IPv6 only, accept_ra before forwarding."""
    with Router() as router, router.here.enter():
        four = [setting.name for setting in router.plan(ROUTED)]
        six = [setting.name for setting in router.plan("2001:db8:5::1")]
        assert not any("ipv6" in name for name in four)
        assert [name for name in six if name not in four] == [
            "net.ipv6.neigh.eth0.mcast_resolicit",
            "net.ipv6.neigh.eth1.mcast_resolicit",
            *(f"net.ipv6.conf.{name}.accept_ra" for name in ("lo", "eth0", "eth1", "eth2")),
            "net.ipv6.conf.eth0.forwarding",
            "net.ipv6.conf.eth1.forwarding",
            *FORCED,
            "2001:db8:5::1/128 on lo",
        ]


def test_undo_restores_a_machine_with_ipv6_exactly(state_file: Path) -> None:
    """With a VIP of IPv6 all is as wanted after set_up, planning again plans the same, and undo restores."""
    with Router() as router, router.here.enter():
        before = state(router.here)
        settings = router.plan("2001:db8:1::80")
        host.set_up(settings, state_file)
        assert host.check(settings) == []
        assert router.plan("2001:db8:1::80") == settings
        router.right.run(["ping", "-c", "1", "-W", "5", "2001:db8:1::80"])
        host.undo(state_file)
        assert state(router.here) == before


def test_only_poises_interfaces_become_those_of_a_router(state_file: Path) -> None:
    """With a VIP of IPv6, no other interface forwards, nor does the machine as a whole."""
    with Router() as router, router.here.enter():
        host.set_up(router.plan("2001:db8:5::1"), state_file)
        found = {
            name: proc.read_sysctl(f"net.ipv6.conf.{name}.forwarding")
            for name in ("all", "default", "lo", "eth0", "eth1", "eth2")
        }
        assert found == {"all": "0", "default": "0", "lo": "0", "eth0": "1", "eth1": "1", "eth2": "0"}


@pytest.mark.skipif(not FORCED, reason="needs force_forwarding of an interface (Linux 6.17)")
def test_the_kernel_forwards_ipv6_that_is_not_for_a_vip(state_file: Path) -> None:
    """What XDP leaves alone is forwarded between poise's interfaces, which forwarding alone does not do."""
    with Router() as router, router.here.enter():
        ping = ["ping", "-c", "1", "-W", "1", "2001:db8:1::2"]
        settings = router.plan("2001:db8:5::1")
        host.set_up([setting for setting in settings if setting.name not in FORCED], state_file)
        assert router.left.popen(ping, stdout=subprocess.DEVNULL).wait() != 0
        host.set_up(settings, state_file)
        assert router.left.popen([*ping[:-2], "5", ping[-1]], stdout=subprocess.DEVNULL).wait() == 0


def test_default_routes_by_advertisements_stay(state_file: Path) -> None:
    """An interface that becomes a router's takes no default routes away, and goes on learning."""
    with Router() as router, router.here.enter():
        router.advertise(router.side, "eth2")
        router.advertise(router.left, "eth0")
        host.set_up(router.plan("2001:db8:5::1"), state_file)
        assert [interface in router.defaults() for interface in ("eth0", "eth1", "eth2")] == [
            True,
            False,
            True,
        ]
        router.advertise(router.right, "eth1")


def test_a_router_that_ignores_advertisements_goes_on_doing_so() -> None:
    """Where an administrator forwards already, or has advertisements off, accept_ra is none of poise's."""
    with Router() as router, router.here.enter():
        proc.write_sysctl("net.ipv6.conf.eth0.forwarding", "1")
        proc.write_sysctl("net.ipv6.conf.eth1.accept_ra", "0")
        names = [setting.name for setting in router.plan("2001:db8:5::1")]
        assert [name for name in names if name.endswith(("eth0.accept_ra", "eth1.accept_ra"))] == []
