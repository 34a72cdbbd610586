# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.servers.care import LoadKind, LoadSource
from poise.servers.control import Controller
from poise.servers.events import Events
from poise.servers.model import NoSuchVip, Policy, State
from poise.servers.signals import Signals
from poise.servers.steering import Shown
from poise.servers.view import View
from tests.servers.control_room import Room, contents, pool, room, shown, vip

pytestmark = pytest.mark.root


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Room]:
    """Two machines; this thread lives in the balancer's."""
    with room(tmp_path) as found:
        yield found


def test_a_reading_applies_only_what_differs(here: Room) -> None:
    """Reading poise.yaml again touches the VIPs that it says something else of, and names them."""
    here.bring(1, 2, 3)
    first = here.config(vip(1), vip(2, port=81))
    controller, plane = here.start(first)
    plane.written.clear()
    assert here.read(controller, first) == ([], [], [])
    assert plane.written == []
    changed = first.model_copy(
        update={"vips": [first.vips[0], *here.config(vip(2, 3, port=81), vip(port=82)).vips]}
    )
    assert here.read(controller, changed) == (["vip82"], ["vip81"], [])
    assert [pool(plane, index) for index in (0, 1, 2)] == [(0,), (0, 1), ()]
    assert here.read(controller, here.config(vip(1))) == ([], [], ["vip81", "vip82"])
    assert contents(plane).indices() == {0}


def test_a_vip_may_take_the_place_of_another_one(here: Room) -> None:
    """A new VIP that gets the index of one that goes at the same time is told as new."""
    here.bring(1, 2)
    controller, plane = here.start(here.config(vip(1), vip(2, port=81)))
    assert here.read(controller, here.config(vip(2, port=82), vip(1))) == (["vip82"], [], ["vip81"])
    assert {each.name: each.index for each in controller.model.vips} == {"vip82": 1, "vip80": 0}
    assert [pool(plane, index) for index in (0, 1)] == [(0,), (0,)]
    assert contents(plane).indices() == {0, 1}


def test_direct_prefixes_come_and_go_with_a_reading(here: Room) -> None:
    """All VIPs ask for the prefixes once there are some, and no longer when there are none."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1)))
    here.read(controller, here.config(vip(1), direct=["198.51.100.0/24"]))
    assert [str(prefix) for prefix in contents(plane).direct] == ["198.51.100.0/24"]
    flags = contents(plane).vips["flags"]
    assert set(flags[contents(plane).vips["end"] > 1].tolist()) == {1}
    here.read(controller, here.config(vip(1)))
    assert not contents(plane).direct


def test_a_change_that_the_kernel_refuses_is_tried_again(here: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved but could not be written into the tables is there after the next look."""
    here.bring(1, 2)
    controller, plane = here.start(here.config(vip(1, 2)))

    def refuse(*_: object, **__: object) -> int:
        raise PoiseError("the kernel is out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(plane, "apply", refuse)
        with pytest.raises(PoiseError, match=r"out of memory"):
            controller.set_state("web1", State.DRAIN)
    assert pool(plane) == (0, 1)
    controller.settle()
    assert pool(plane) == (1,)


def test_clocks_that_jump_change_no_interval(here: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is set back and forth only changes what is shown."""
    here.bring(1)
    controller, plane = here.start(here.config(vip(1)))
    monkeypatch.setattr(time, "time", lambda: 0.0)  # as if the machine had lost its clock
    controller.set_state("web1", State.DRAIN)
    assert controller.model.vips[0].servers[0].since == 0.0
    controller.set_state("web1", State.READY)
    controller.settle()
    assert pool(plane) == (0,)


def test_a_verdict_takes_a_server_out_and_outlives_the_process(here: Room) -> None:
    """A server that is down gets no connections, also in the next process, until its checks succeed."""
    here.bring(1, 2)
    check = {"type": "tcp", "interval": "1h"}
    config = here.config(vip(1, 2) | {"checks": [check]})
    controller, plane = here.start(config)
    controller.vigil.verdicts()
    down = replace(controller.vigil.verdicts()[0, 0], up=False, reason="refused the connection")
    controller.vigil._wards[0, 0].verdict = down  # noqa: SLF001  as if a check had said so
    controller._note((0, 0), down)  # noqa: SLF001
    controller.settle()
    assert pool(plane) == (1,)
    assert shown(controller, "state") == {"web1": "down", "web2": "ready"}
    assert shown(controller, "reason") == {"web1": "refused the connection", "web2": None}
    assert controller.events.since()[-1]["kind"] == "down"
    controller, plane = here.start(config)
    assert pool(plane) == (1,)
    assert plane.written == []


def test_names(here: Room) -> None:
    """Several VIPs: which is meant must be said."""
    controller, _ = here.start(here.config(vip(1), vip(2, port=81)))
    assert isinstance(controller, Controller)
    assert [server["name"] for server in View(controller).servers("vip81")] == ["web2"]
    with pytest.raises(NoSuchVip):
        View(controller).servers("ghost")


def test_a_lost_signal_is_told_once(here: Room) -> None:
    """A server that no longer tells its load is an event, and so is its return; each of them once."""
    here.bring(1)
    controller, _ = here.start(here.config(vip(1)))
    (found,) = controller.model.vips
    asked = replace(found, policy=Policy.LEAST_LOADED, load=LoadSource(LoadKind.AGENT))
    events = Events()
    signals = Signals(events)
    for fault in ("", "refused the connection", "refused the connection", "", ""):
        loads = {(0, 0): Shown(load=None if fault else 1.0, fault=fault)}
        signals.look({0: asked}, lambda loads=loads: loads)  # type: ignore[misc]
    assert [(event["kind"], event["server"]) for event in events.since()] == [
        ("signal-lost", "web1"),
        ("signal-back", "web1"),
    ]
