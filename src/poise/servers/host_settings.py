# SPDX-License-Identifier: Apache-2.0
"""What of this machine, outside poise, can be set and set back: sysctls, offloads, addresses, clsact."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from poise.errors import PoiseError
from poise.kernel import ethtool, netlink, proc, tc

ABSENT: Final = "absent"
PRESENT: Final = "present"


class _Setting(BaseModel):
    """Something with a value, which is text; `why` ends the sentence that tells of a change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    why: str


class Sysctl(_Setting):
    """A sysctl; its key as in proc.read_sysctl."""

    kind: Literal["sysctl"] = "sysctl"
    key: str
    wanted: str

    @property
    def name(self) -> str:
        """What users know it by, and what tells it from other settings."""
        return self.key

    def read(self) -> str | None:
        """Its value now; None where it is not there, as its interface is not."""
        return proc.read_sysctl(self.key) if proc.has_sysctl(self.key) else None

    def met(self, value: str) -> bool:
        """Whether this value is as good as the wanted one."""
        return value == self.wanted

    def fixed(self) -> bool:
        """Whether the value cannot be changed."""
        return False

    def write(self, value: str) -> None:
        """Set it; raises PoiseError where that fails."""
        proc.write_sysctl(self.key, value)


class Feature(_Setting):
    """An offload feature of an interface, by the kernel's name; it is to be off."""

    kind: Literal["feature"] = "feature"
    interface: str
    feature: str
    wanted: Literal["off"] = "off"

    @property
    def name(self) -> str:
        """What users know it by, and what tells it from other settings."""
        return f"{self.feature} of {self.interface}"

    def read(self) -> str | None:
        """Its value now: "on" or "off", as also where it is lacking; None where there is no interface."""
        feature = self._feature()
        return None if feature is None else "on" if feature.active else "off"

    def met(self, value: str) -> bool:
        """Whether this value is as good as the wanted one."""
        return value == self.wanted

    def fixed(self) -> bool:
        """Whether the value cannot be changed."""
        feature = self._feature()
        return feature is not None and feature.fixed

    def write(self, value: str) -> None:
        """Set it; raises PoiseError where that fails. The device may not obey: `read` tells."""
        ethtool.set_features(self.interface, {self.feature: value == "on"})

    def _feature(self) -> ethtool.Feature | None:
        if netlink.interface_index(self.interface) is None:
            return None
        lacking = ethtool.Feature(active=False, fixed=True)
        return ethtool.features(self.interface).get(self.feature, lacking)


Held = list[tuple[int, IPv4Interface | IPv6Interface]]
"""The interfaces (ifindex) that have an address, and with which prefix length."""


def held_addresses() -> dict[IPv4Address | IPv6Address, Held]:
    """Return all addresses of this machine, and who has them."""
    held: dict[IPv4Address | IPv6Address, Held] = {}
    for holder, address in netlink.addresses():
        held.setdefault(address.ip, []).append((holder, address))
    return held


class Address(_Setting):
    """An address of this machine; where no interface has it, this one gets it as a /32 or /128."""

    kind: Literal["address"] = "address"
    interface: str
    address: IPv4Address | IPv6Address
    wanted: Literal["present"] = "present"

    @property
    def name(self) -> str:
        """What users know it by, and what tells it from other settings."""
        return f"{self._prefix} on {self.interface}"

    def read(self, held: Mapping[IPv4Address | IPv6Address, Held] | None = None) -> str | None:
        """Its value now: "present", "absent", or where else it is: "on eth1 as 192.0.2.10/24".

        held: all addresses of the machine, for whom asks for many.
        """
        index = netlink.interface_index(self.interface)
        if index is None:
            return None
        found = (held_addresses() if held is None else held).get(self.address, [])
        if (index, self._prefix) in found:
            return PRESENT
        return f"on {netlink.interface_name(found[0][0])} as {found[0][1]}" if found else ABSENT

    def met(self, value: str) -> bool:
        """Whether this value is as good as the wanted one."""
        return value != ABSENT

    def fixed(self) -> bool:
        """Whether the value cannot be changed."""
        return False

    def write(self, value: str) -> None:
        """Add or remove it; raises PoiseError where that fails."""
        index = netlink.interface_index(self.interface)
        if index is None:
            raise PoiseError(f"cannot change {self.name}: the interface is gone")
        change = netlink.add_address if value == PRESENT else netlink.delete_address
        change(index, self._prefix)

    @property
    def _prefix(self) -> IPv4Interface | IPv6Interface:
        return ip_interface((self.address, self.address.max_prefixlen))


class Clsact(_Setting):
    """The qdisc of an interface that TC programs are attached to; the older `ingress` serves as well."""

    kind: Literal["clsact"] = "clsact"
    interface: str
    wanted: Literal["present"] = "present"

    @property
    def name(self) -> str:
        """What users know it by, and what tells it from other settings."""
        return f"clsact of {self.interface}"

    def read(self) -> str | None:
        """Its value now: "present", "absent", or "used by others"; None where there is no interface."""
        index = netlink.interface_index(self.interface)
        if index is None:
            return None
        if not tc.has_clsact(index):
            return ABSENT
        return "used by others" if tc.has_other_filters(index) else PRESENT

    def met(self, value: str) -> bool:
        """Whether this value is as good as the wanted one."""
        return value != ABSENT

    def fixed(self) -> bool:
        """Whether the value cannot be changed."""
        return False

    def write(self, value: str) -> None:
        """Add or remove it; raises PoiseError where that fails."""
        index = netlink.interface_index(self.interface)
        if index is None:
            raise PoiseError(f"cannot change {self.name}: the interface is gone")
        change = tc.create_clsact if value == PRESENT else tc.destroy_clsact
        change(index)


Setting = Annotated[Sysctl | Feature | Address | Clsact, Field(discriminator="kind")]


def read_all(settings: Iterable[Setting]) -> list[str | None]:
    """Return the values of settings now; the machine is asked only once for all of its addresses."""
    settings = list(settings)
    held = held_addresses() if any(isinstance(setting, Address) for setting in settings) else {}
    return [setting.read(held) if isinstance(setting, Address) else setting.read() for setting in settings]
