# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from poise.errors import PoiseError
from poise.kernel import tc
from poise.kernel.libbpf import Program
from poise.kernel.library import BpfError
from poise.kernel.netlink import interface
from tests.kernel.programs import loaded
from tests.kernel.two_machines import TwoMachines, living_here

pytestmark = pytest.mark.root

SOURCE = """
SEC("tc")
int first(struct __sk_buff *skb)
{
	return 0;
}

SEC("tc")
int second(struct __sk_buff *skb)
{
	return 0;
}
"""


@pytest.fixture(scope="module")
def first() -> Program:
    """A program."""
    return loaded(SOURCE).program("first")


@pytest.fixture(scope="module")
def second() -> Program:
    """Another one."""
    return loaded(SOURCE).program("second")


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    """Two machines on one link; this thread lives in the first one."""
    with living_here() as machines:
        yield machines


@pytest.fixture
def eth0(machines: TwoMachines) -> int:
    """The index of our interface."""
    with machines.here.enter():
        return interface("eth0").index


def filters(machines: TwoMachines) -> list[dict[str, Any]]:
    """The filters on our ingress that can be seen with iproute2."""
    shown = json.loads(machines.here.run(["tc", "-json", "filter", "show", "dev", "eth0", "ingress"]))
    return [found["options"] for found in shown if found.get("options", {}).get("handle")]


def qdiscs(machines: TwoMachines) -> list[str]:
    """The kinds of our interface's qdiscs."""
    shown = json.loads(machines.here.run(["tc", "-json", "qdisc", "show", "dev", "eth0"]))
    return [found["kind"] for found in shown]


def test_a_program_is_attached_and_replaced(
    machines: TwoMachines, eth0: int, first: Program, second: Program
) -> None:
    """Attaching again puts the new program in place of the former, and there is one filter all the time."""
    tc.create_clsact(eth0)
    tc.attach_ingress(first, eth0)
    (before,) = filters(machines)
    tc.attach_ingress(second, eth0)
    (after,) = filters(machines)
    assert (before["prog"]["id"], after["prog"]["id"]) == (first.id, second.id)


def test_detaching_takes_the_filter_alone(machines: TwoMachines, eth0: int, first: Program) -> None:
    """The filter goes, the clsact and filters of others stay; detaching again is harmless."""
    tc.create_clsact(eth0)
    add_foreign_filter(machines, "ingress")
    tc.attach_ingress(first, eth0)
    tc.detach_ingress(eth0)
    tc.detach_ingress(eth0)
    assert "bpf_name" not in str(filters(machines))
    assert tc.has_other_filters(eth0)
    machines.here.run(["tc", "qdisc", "delete", "dev", "eth0", "clsact"])
    tc.detach_ingress(eth0)
    machines.here.ip("link delete eth0")
    tc.detach_ingress(eth0)


def test_attaching_needs_a_clsact(eth0: int, first: Program) -> None:
    """Without a clsact there is nothing to attach to, which is told, and none is made by the way."""
    with pytest.raises(BpfError, match=rf"^cannot attach first to the ingress of interface {eth0}: "):
        tc.attach_ingress(first, eth0)
    assert not tc.has_clsact(eth0)


def test_a_clsact_comes_and_goes(machines: TwoMachines, eth0: int) -> None:
    """Making what is there, and removing what is not, is harmless."""
    assert not tc.has_clsact(eth0)
    for _ in range(2):
        tc.create_clsact(eth0)
        assert tc.has_clsact(eth0)
        assert "clsact" in qdiscs(machines)
    for _ in range(2):
        tc.destroy_clsact(eth0)
        assert not tc.has_clsact(eth0)
        assert "clsact" not in qdiscs(machines)


def test_the_older_ingress_serves_as_well(machines: TwoMachines, eth0: int, first: Program) -> None:
    """A qdisc `ingress` that somebody else made is used, and never removed."""
    machines.here.run(["tc", "qdisc", "add", "dev", "eth0", "ingress"])
    assert tc.has_clsact(eth0)
    tc.create_clsact(eth0)
    tc.attach_ingress(first, eth0)
    assert len(filters(machines)) == 1
    tc.destroy_clsact(eth0)
    assert "ingress" in qdiscs(machines)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_filters_of_others_are_seen(
    machines: TwoMachines, eth0: int, first: Program, direction: Literal["ingress", "egress"]
) -> None:
    """Poise's own filter is not somebody else's, any other one is, in both directions."""
    assert not tc.has_other_filters(eth0)
    tc.create_clsact(eth0)
    tc.attach_ingress(first, eth0)
    assert not tc.has_other_filters(eth0)
    add_foreign_filter(machines, direction)
    assert tc.has_other_filters(eth0)


def add_foreign_filter(machines: TwoMachines, direction: Literal["ingress", "egress"]) -> None:
    """A filter that somebody else made."""
    match = ["protocol", "ip", "u32", "match", "u32", "0", "0"]
    machines.here.run(["tc", "filter", "add", "dev", "eth0", direction, *match])


def test_an_interface_that_is_gone_is_told(machines: TwoMachines, eth0: int) -> None:
    """Nothing can be made where there is no interface; looking and removing find nothing."""
    machines.here.ip("link delete eth0")
    assert not tc.has_clsact(eth0)
    assert not tc.has_other_filters(eth0)
    tc.destroy_clsact(eth0)
    with pytest.raises(PoiseError, match=rf"^cannot add a clsact to interface {eth0}: "):
        tc.create_clsact(eth0)
