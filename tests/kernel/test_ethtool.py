# SPDX-License-Identifier: Apache-2.0
import pytest

from poise.errors import PoiseError
from poise.kernel import ethtool
from poise.lab.namespaces import Namespace
from tests.kernel.two_machines import living_here

pytestmark = pytest.mark.root

# What `ethtool -k` calls features otherwise than the kernel does, as far as a veth has them.
ALIASES = {
    "rx-checksum": "rx-checksumming",
    "tx-generic-segmentation": "generic-segmentation-offload",
    "rx-gro": "generic-receive-offload",
    "rx-lro": "large-receive-offload",
    "rx-vlan-hw-parse": "rx-vlan-offload",
    "tx-vlan-hw-insert": "tx-vlan-offload",
    "rx-ntuple-filter": "ntuple-filters",
    "rx-hashing": "receive-hashing",
}


def shown(machine: Namespace) -> dict[str, str]:
    """What `ethtool -k eth0` says: "on", "off [fixed]", ... and not what was requested in vain."""
    lines = machine.run(["ethtool", "-k", "eth0"]).replace(" [requested on]", "").splitlines()[1:]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_features_are_those_that_ethtool_shows() -> None:
    """Each feature is active and fixed exactly as ethtool(8) says it is."""
    with living_here() as machines:
        known = shown(machines.here)
        found = ethtool.features("eth0")
        compared = 0
        for name, feature in found.items():
            alias = ALIASES.get(name, name)
            if alias in known:
                said = ("on" if feature.active else "off") + (" [fixed]" if feature.fixed else "")
                assert (name, said) == (name, known[alias])
                compared += 1
        assert compared > 50
        assert set(ALIASES) <= set(found)


def test_features_are_changed_and_nothing_else() -> None:
    """Features that can be changed are, in both directions, and all others stay as they are."""
    with living_here() as machines:
        machines.here.run(["ethtool", "-K", "eth0", "gro", "off", "rxvlan", "on"])
        before = shown(machines.here)
        wanted = {"rx-gro": True, "rx-vlan-hw-parse": False}
        assert ethtool.set_features("eth0", wanted) == []
        changed = {"generic-receive-offload": "on", "rx-vlan-offload": "off"}
        assert shown(machines.here) == before | changed != before
        assert ethtool.set_features("eth0", {name: not on for name, on in wanted.items()}) == []
        assert shown(machines.here) == before


def test_fixed_and_unknown_features_are_reported() -> None:
    """A feature that cannot be changed, or is not known, is told in a sentence; the others are changed."""
    with living_here():
        wanted = {"rx-lro": True, "rx-nonsense": False, "rx-gro": True}
        assert ethtool.set_features("eth0", wanted) == [
            "rx-lro of eth0 stays off: the device cannot change it",
            "eth0 has no feature rx-nonsense: this kernel does not know it",
        ]
        assert ethtool.features("eth0")["rx-gro"].active


@pytest.mark.parametrize("name", ["eth9", "a-name-of-15-chr-and-more"])
def test_missing_interface_is_told(name: str) -> None:
    """An interface that is not there is named in the error, and never mistaken for one that begins alike."""
    with living_here() as machines:
        machines.here.ip("link add a-name-of-15-ch type veth peer name eth1")
        with pytest.raises(PoiseError, match=rf" of {name}: there is no such interface$"):
            ethtool.features(name)


def test_driver_is_named_where_there_is_one() -> None:
    """A driver goes by the kernel's name; loopback has none."""
    with living_here():
        assert (ethtool.driver("eth0"), ethtool.driver("lo"), ethtool.driver("eth9")) == ("veth", None, None)
