# SPDX-License-Identifier: Apache-2.0
"""What two-way forwarding needs of the machine around the XDP program, and how to have it back as it was.

Needed, and why no more:

- `forwarding` of each interface in poise.yaml: without it bpf_fib_lookup refuses what comes in there
  (bpf_ipv4_fib_lookup: FWD_DISABLED), and the kernel does not forward what XDP leaves to it. Not
  net.ipv4.ip_forward, which makes a router of every interface, and overwrites what was chosen for each.
- No ICMP redirects: with servers and their way out on one link, they would tell servers a way past poise.
  Linux sends them if conf.all or the interface says so, hence both; other interfaces keep their own word.
- A neighbour that does not answer is asked for by broadcast before it is given up (mcast_resolicit): when a
  gateway or server was replaced, its entry is set right instead of being unusable for a while.
- XDP sees packets as they were on the wire: none merged (LRO, hardware GRO; GRO, which comes before generic
  XDP), no VLAN tag taken off.
- The VIP is an address of this machine, so that it is answered for (ARP, ping).
- A clsact on each interface, since the slow path is a TC program.

With a VIP of IPv6, the same of IPv6, where it differs:

- `forwarding` of an interface lets bpf_fib_lookup through (bpf_ipv6_fib_lookup), but the kernel itself
  forwards only with conf.all.forwarding or, since Linux 6.17, the interface's `force_forwarding`
  (ip6_forward). The former would make a router of every interface, so on older kernels that choice is left
  to the administrator.
- A router ignores router advertisements unless `accept_ra` is 2 (ipv6_accept_ra), and the first interface
  that becomes a router's takes the default routes from all that have less (rt6_purge_dflt_routers). So it is
  2 on every interface where it is 1, which without forwarding means the same.
- The kernel has no switch for redirects of ICMPv6.

rp_filter and accept_local stay as they are: what XDP has rewritten never enters the kernel's routing, as it
leaves by XDP or TC, and what XDP leaves alone comes from where it belongs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from poise import durable
from poise.config import Config
from poise.errors import PoiseError
from poise.kernel import netlink, proc
from poise.servers import sense
from poise.servers.host_settings import Address, Clsact, Feature, Setting, Sysctl, read_all

__all__ = ["Address", "Clsact", "Feature", "Setting", "Sysctl", "check", "plan", "set_up", "undo"]

_BROADCASTS = 3  # as many as for a neighbour that is not known yet (mcast_solicit)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    setting: Setting
    before: str


class _Recording(BaseModel):
    """What was changed since this boot, in the order of the changes; a reboot undoes all of it by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    boot: str
    records: list[_Record]


def plan(config: Config, mode: Mapping[str, str]) -> list[Setting]:
    """The settings that this configuration needs, in the order to make them; `mode`: interface -> XDP mode.

    The VIPs' addresses come last, since they bring packets. Raises PoiseError where an interface is missing.
    """
    interfaces = [netlink.interface(name) for name in config.interface_names]
    vips = dict.fromkeys(vip.address for vip in config.vips)
    ipv6 = any(vip.version == 6 for vip in vips)
    routed = [*interfaces, *_vlan_devices(interfaces)]
    names = [found.name for found in routed]
    return [
        *(Clsact(interface=found.name, why="so that TC programs can be attached") for found in interfaces),
        *chain.from_iterable(_offloads(found.name, mode.get(found.name)) for found in interfaces),
        *_sysctls(names),
        *(_ipv6_sysctls(names) if ipv6 else ()),
        *(_vip(address, routed) for address in vips),
    ]


def set_up(settings: Iterable[Setting], state_file: Path) -> list[str]:
    """Make those settings that are not as wanted; returns a sentence about each, also about what cannot be.

    The former values are in the state file before anything changes. What it holds already is kept, so this
    may be called again, with the same or other settings: `undo` leads back to the very first values. Some
    drivers refuse native XDP while they merge packets: call this before attaching. Raises PoiseError where
    the kernel refuses a change, or the state file cannot be read or written.
    """
    recording, sentences = _current(state_file)
    records = {record.setting.name: record for record in recording.records}
    due: list[tuple[Setting, str]] = []
    settings = list(settings)
    for setting, value in zip(settings, read_all(settings), strict=True):
        fault = _fault(setting, value)
        if value is None or fault is None or setting.fixed():
            sentences += [fault] if fault else []
            continue
        first = records.get(setting.name)
        records[setting.name] = _Record(setting=setting, before=first.before if first else value)
        due.append((setting, value))
    if due:
        _store(_Recording(boot=recording.boot, records=list(records.values())), state_file)
    return sentences + _change([(setting, value, setting.wanted, setting.why) for setting, value in due])


def check(settings: Iterable[Setting]) -> list[str]:
    """A sentence about each setting that is not as wanted."""
    settings = list(settings)
    faults = map(_fault, settings, read_all(settings))
    return [fault for fault in faults if fault]


def undo(state_file: Path, due: Callable[[Setting], bool] = lambda _: True) -> list[str]:
    """Set back what still has the value that `set_up` gave it, last first; returns a sentence about each.

    `due`: which settings are meant, all unless given. What somebody else has changed since is left alone.
    When nothing is left to undo, the state file is deleted; without one, or after a reboot, there is nothing
    to undo. Raises PoiseError where the kernel refuses a change, or the state file cannot be read or written:
    it is kept then, and this can be tried again.
    """
    recording, sentences = _current(state_file)
    left = [record for record in recording.records if not due(record.setting)]
    undone = [record for record in reversed(recording.records) if due(record.setting)]
    found = list(zip(undone, read_all(record.setting for record in undone), strict=True))
    done = _change(
        [
            (record.setting, value, record.before, "as before")
            for record, value in found
            if value == record.setting.wanted
        ]
    )
    for record, value in found:
        setting = record.setting
        if value is None:
            sentences.append(f"{setting.name} needs no undoing: the interface is gone")
        elif value == setting.wanted:
            sentences.append(done.pop(0))
        elif value != record.before:
            sentences.append(f"{setting.name} is left {value}: it was changed after poise had set it up")
    if not left:
        _delete(state_file)
    elif len(left) < len(recording.records):
        _store(_Recording(boot=recording.boot, records=left), state_file)
    return sentences


def _vlan_devices(interfaces: list[netlink.Interface]) -> list[netlink.Interface]:
    """The VLAN devices whose frames leave by these interfaces: for routing, frames arrive on them."""
    above = sense.links({found.index: () for found in interfaces}, netlink.links())
    return [netlink.interface(netlink.interface_name(ifindex)) for ifindex in above]


def _offloads(interface: str, mode: str | None) -> Iterator[Feature]:
    merged = "so that XDP sees each packet as it was sent"
    tagged = "so that XDP sees VLAN tags"
    features = {
        "rx-lro": merged,
        "rx-gro-hw": merged,
        "rx-vlan-hw-parse": tagged,
        "rx-vlan-stag-hw-parse": tagged,
    }
    if mode == "generic":
        features["rx-gro"] = merged
    for feature, why in features.items():
        yield Feature(interface=interface, feature=feature, why=why)


def _sysctls(interfaces: list[str]) -> Iterator[Sysctl]:
    for name in ("all", *interfaces):
        yield Sysctl(
            key=proc.interface_sysctl(name, "send_redirects"),
            wanted="0",
            why="so that servers are not told a way past poise",
        )
    yield from (_resolicit(name, "ipv4") for name in interfaces)
    for name in interfaces:
        yield Sysctl(
            key=proc.interface_sysctl(name, "forwarding"),
            wanted="1",
            why="so that replies are routed to clients, and the kernel forwards what is not for a VIP",
        )


def _ipv6_sysctls(interfaces: list[str]) -> Iterator[Sysctl]:
    yield from (_resolicit(name, "ipv6") for name in interfaces)
    for link in netlink.links().values():
        if _needs_advertisements(link.name):
            accept_ra = proc.interface_sysctl(link.name, "accept_ra", family="ipv6")
            yield Sysctl(key=accept_ra, wanted="2", why="so that router advertisements stay in force")
    for name in interfaces:
        yield Sysctl(
            key=proc.interface_sysctl(name, "forwarding", family="ipv6"),
            wanted="1",
            why="so that replies are routed to clients",
        )
    for name in interfaces:
        key = proc.interface_sysctl(name, "force_forwarding", family="ipv6")
        if proc.has_sysctl(key):
            yield Sysctl(key=key, wanted="1", why="so that the kernel forwards what is not for a VIP")


def _needs_advertisements(interface: str) -> bool:
    """Whether the interface takes router advertisements now, and is to go on doing so as a router's."""
    accept_ra, forwarding = (
        proc.interface_sysctl(interface, name, family="ipv6") for name in ("accept_ra", "forwarding")
    )
    if not proc.has_sysctl(accept_ra):
        return False
    value = proc.read_sysctl(accept_ra)
    return value == "2" or (value == "1" and proc.read_sysctl(forwarding) == "0")


def _resolicit(interface: str, family: Literal["ipv4", "ipv6"]) -> Sysctl:
    key = proc.interface_sysctl(interface, "mcast_resolicit", "neigh", family=family)
    return Sysctl(
        key=key,
        wanted=str(max(_BROADCASTS, int(proc.read_sysctl(key)))),
        why="so that a server or gateway that was replaced is found again",
    )


def _vip(address: IPv4Address | IPv6Address, interfaces: list[netlink.Interface]) -> Address:
    networks = [(held.network, interface.name) for interface in interfaces for held in interface.addresses]
    homes = [(network.prefixlen, name) for network, name in networks if address in network]
    home = max(homes)[1] if homes else "lo"
    protocol = "ARP" if address.version == 4 else "NDP"
    why = f"so that this machine answers for the VIP ({protocol}, ping)"
    return Address(interface=home, address=address, why=why)


def _fault(setting: Setting, value: str | None) -> str | None:
    if value is None:
        return f"{setting.name} does not exist: was the interface removed?"
    if setting.met(value):
        return None
    wrong = f"{setting.name} is {value} and should be {setting.wanted}, {setting.why}"
    return f"{wrong}; this device cannot change it" if setting.fixed() else wrong


def _change(changes: Sequence[tuple[Setting, str, str, str]]) -> list[str]:
    """Change settings from one value to another, in this order; returns a sentence about each."""
    for setting, _, to, _ in changes:
        setting.write(to)
    told = []
    for (setting, value, to, why), after in zip(
        changes, read_all(setting for setting, *_ in changes), strict=True
    ):
        if after == to:
            told.append(f"{setting.name}: {value} -> {to}, {why}")
        else:
            told.append(f"{setting.name} stays {after}: the device did not accept {to}")
    return told


def _current(state_file: Path) -> tuple[_Recording, list[str]]:
    """The recording of this boot, empty if there is none; and what there is to tell about an older one."""
    boot = proc.read_sysctl("kernel.random.boot_id")
    try:
        recording = _Recording.model_validate_json(state_file.read_bytes())
    except FileNotFoundError:
        return _Recording(boot=boot, records=[]), []
    except OSError as error:
        raise PoiseError(f"cannot read {state_file}: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors()[0]["msg"]
        raise PoiseError(
            f"{state_file} is damaged ({fault}), so what poise changed on this machine is not known: "
            "look over its sysctls, offloads and addresses, and delete the file"
        ) from None
    if recording.boot == boot:
        return recording, []
    _delete(state_file)
    return _Recording(boot=boot, records=[]), ["the machine was restarted, which undid its former set-up"]


def _store(recording: _Recording, state_file: Path) -> None:
    durable.write(state_file, recording.model_dump_json(indent=2).encode())


def _delete(state_file: Path) -> None:
    try:
        state_file.unlink(missing_ok=True)
    except OSError as error:
        raise PoiseError(f"cannot delete {state_file}: {error.strerror}") from None
