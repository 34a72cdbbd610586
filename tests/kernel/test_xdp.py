# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest

from poise.errors import PoiseError
from poise.kernel import xdp
from poise.kernel.libbpf import Link, Program
from poise.kernel.library import BpfError
from poise.kernel.netlink import interface
from tests.kernel.programs import loaded
from tests.kernel.two_machines import TwoMachines, living_here

pytestmark = pytest.mark.root

SOURCE = """
SEC("xdp")
int first(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	return XDP_PASS;
}
"""
# Of `ip -json link`, XDP_ATTACHED_* of linux/if_link.h.
NATIVE, GENERIC = 1, 2


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
        machines.pins.mkdir()
        yield machines


def attach(
    program: Program, pin: Path, mode: Literal["auto", "native", "generic"] = "auto", name: str = "eth0"
) -> tuple[str, str | None]:
    """Attach to an interface of this machine."""
    return xdp.attach(program, name, interface(name).index, mode, pin)


def attached(name: str = "eth0") -> tuple[int, int] | None:
    """The mode and the program's id, as iproute2 sees them."""
    shown = subprocess.run(["ip", "-json", "link", "show", name], capture_output=True, check=True).stdout
    (link,) = json.loads(shown)
    found: dict[str, Any] | None = link.get("xdp")
    return (found["mode"], found["prog"]["id"]) if found and found["mode"] else None


@pytest.mark.parametrize(("mode", "as_seen"), [("native", NATIVE), ("generic", GENERIC)])
def test_a_program_runs_in_the_mode_that_was_asked_for(
    machines: TwoMachines, first: Program, mode: Literal["native", "generic"], as_seen: int
) -> None:
    """Native is in the driver, generic in the network stack; the pin holds the attachment."""
    assert attach(first, machines.pins / "link", mode) == (mode, None)
    assert attached() == (as_seen, first.id)
    assert xdp.interface_of(machines.pins / "link") == interface("eth0").index


def test_auto_prefers_the_driver(machines: TwoMachines, first: Program) -> None:
    """Where the driver can, XDP runs there."""
    assert attach(first, machines.pins / "link") == ("native", None)
    assert attached() == (NATIVE, first.id)


def test_auto_falls_back_and_says_why(machines: TwoMachines, first: Program) -> None:
    """Where the driver cannot, XDP runs in the stack, and the reason is given."""
    mode, reason = attach(first, machines.pins / "link", "auto", "lo")
    assert mode == "generic"
    assert reason is not None
    assert reason.startswith("cannot attach to lo in native XDP mode: ")
    assert attached("lo") == (GENERIC, first.id)


def test_native_is_not_replaced_by_anything_else(machines: TwoMachines, first: Program) -> None:
    """Who asks for the driver's mode gets it or is refused, and nothing is left behind."""
    with pytest.raises(BpfError, match=r"^cannot attach to lo in native XDP mode: "):
        attach(first, machines.pins / "link", "native", "lo")
    assert attached("lo") is None
    assert list(machines.pins.iterdir()) == []


@pytest.mark.parametrize("theirs", ["native", "generic"])
@pytest.mark.parametrize("ours", ["auto", "native", "generic"])
def test_another_program_is_left_alone(
    machines: TwoMachines,
    first: Program,
    second: Program,
    ours: Literal["auto", "native", "generic"],
    theirs: Literal["native", "generic"],
) -> None:
    """An interface that has an XDP program already is refused in one sentence, with that program's id."""
    attach(second, machines.pins / "theirs", theirs)
    before = attached()
    sentence = (
        rf"^eth0 already has an XDP program \(id {second.id}\): remove it first, for instance with `ip "
    )
    with pytest.raises(PoiseError, match=sentence):
        attach(first, machines.pins / "ours", ours)
    assert attached() == before
    assert not (machines.pins / "ours").exists()


@pytest.mark.parametrize("mode", ["auto", "native"])
def test_a_running_program_is_replaced_in_place(
    machines: TwoMachines, first: Program, second: Program, mode: Literal["auto", "native"]
) -> None:
    """A new process puts its program in place of the former one's on the same link: no packet gets past."""
    attach(first, machines.pins / "link")
    with closing(Link.open_pinned(machines.pins / "link")) as link:
        assert attach(second, machines.pins / "link", mode) == ("native", None)
        assert link.ifindex == interface("eth0").index  # it was not detached
    assert attached() == (NATIVE, second.id)


def test_auto_leaves_a_running_program_in_its_mode(
    machines: TwoMachines, first: Program, second: Program
) -> None:
    """What runs in the stack goes on there: to change to the driver would interrupt it."""
    attach(first, machines.pins / "link", "generic")
    assert attach(second, machines.pins / "link") == ("generic", None)
    assert attached() == (GENERIC, second.id)


@pytest.mark.parametrize(("mode", "as_seen"), [("native", NATIVE), ("generic", GENERIC)])
def test_the_mode_can_be_changed(
    machines: TwoMachines, first: Program, mode: Literal["native", "generic"], as_seen: int
) -> None:
    """When another mode is asked for than the program runs in, it is attached anew, each time."""
    other: Literal["native", "generic"] = "generic" if mode == "native" else "native"
    for _ in range(5):
        attach(first, machines.pins / "link", other)
        attach(first, machines.pins / "link", mode)
        assert attached() == (as_seen, first.id)


def test_an_interface_that_was_made_anew_is_attached_to(machines: TwoMachines, first: Program) -> None:
    """A pin of an interface that is gone is no hindrance for one with the same name."""
    attach(first, machines.pins / "link")
    machines.here.ip("link delete eth0", "link add eth0 type veth peer name eth9")
    assert xdp.interface_of(machines.pins / "link") == 0
    assert attach(first, machines.pins / "link") == ("native", None)
    assert attached() == (NATIVE, first.id)


def test_detaching_is_done_when_it_returns(machines: TwoMachines, first: Program) -> None:
    """After `detach` no packet meets the program any more, and the pin is gone."""
    for _ in range(10):
        attach(first, machines.pins / "link")
        xdp.detach(machines.pins / "link")
        assert attached() is None
    assert list(machines.pins.iterdir()) == []
