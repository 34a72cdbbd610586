# SPDX-License-Identifier: Apache-2.0
"""A later poise takes over from an earlier one while requests come at full rate."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import hatch_build
from poise.lab.balancer import Balancer
from poise.lab.network import ServersLab
from poise.lab.traffic import long_lived, short_requests
from tests.e2e.configuring import reconfigure
from tests.e2e.counters import drops

pytestmark = pytest.mark.root

RATE = 800  # requests per second, each on a connection of its own
CONNECTIONS = 100
WITHIN = 60.0  # seconds
# Members that change their places: what a program of the other build would misread without a word.
MOVED = (
    ("server", "__u8 hop_mac[6];", "__u8 interface_mac[6];"),
    ("origin", "__u16 vip_row;", "__u16 server;"),
    ("traffic", "__u64 connections;", "__u64 bytes;"),
    ("handshake_row", "__u32 isn[HANDSHAKE_WAYS];", "__u32 last_tsval[HANDSHAKE_WAYS];"),
    ("connection", "__u64 packets_to_server;", "__u64 bytes_to_client;"),
)


def another_build(root: Path) -> Path:
    """Compile a poise whose tables lie otherwise in memory; returns where Python finds it."""
    here = Path(hatch_build.__file__).parent
    for part in ("bpf", "bench", "src"):
        shutil.copytree(here / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
    contract = root / "bpf" / "poise" / "contract.h"
    text = contract.read_text()
    for struct, one, other in MOVED:
        (body,) = re.findall(rf"^struct {struct} {{\n.*?^}};", text, re.MULTILINE | re.DOTALL)
        assert one in body
        assert other in body
        swapped = body.replace(one, "@").replace(other, one).replace("@", other)
        text = text.replace(body, swapped)
    contract.write_text(text)
    hatch_build.compile_objects(root)
    return root / "src"


def take_over(lab: ServersLab, balancer: Balancer, change: Callable[[], None], tolerated: float = 0) -> None:
    """Kill the daemon and start the next one amid requests: none fails, and no connection breaks.

    tolerated: the share of requests that may fail after all.
    """
    short = short_requests(lab.clients[0], lab.vip, lab.port, rate=RATE)
    lived = long_lived(lab.clients[1], lab.vip, lab.port, connections=CONNECTIONS, interval=0.2)
    lived.wait_until(lambda counts: counts.opened == CONNECTIONS, WITHIN)
    short.wait_until(lambda counts: counts.served > RATE, WITHIN)
    counted = sum(server["connections"] for server in balancer.client.servers())
    balancer.kill()
    change()
    balancer.start()
    served, answers = short.counts.served, lived.counts.answers
    short.wait_until(lambda counts: counts.served > served + RATE, WITHIN)
    lived.wait_until(lambda counts: counts.answers > answers + 2 * CONNECTIONS, WITHIN)
    requests, connections = short.finish(), lived.finish()
    assert requests.failed <= tolerated * requests.served, requests.reasons
    assert connections.reasons == {}
    # While connections were carried, what was not known yet had to be sent again.
    assert drops(balancer).keys() <= {"drop_connection_not_yet_known"}
    assert sum(server["connections"] for server in balancer.client.servers()) > counted
    assert not (lab.pins / "switched").exists()


# Of a table of connections in another size or layout: what is being opened right at the switch is with the
# former programs, and may meet another one in its slot.
BEING_OPENED = 0.001


@pytest.mark.parametrize("mode", ["stateless", "stateful"])
def test_the_next_program_takes_over(mode: str) -> None:
    """No request fails when programs are put in place of others with the same tables."""
    with ServersLab(3) as lab:
        balancer = lab.start_balancer(vips=[{**lab.vip_settings(), "mode": mode}])
        take_over(lab, balancer, lambda: None)


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        pytest.param("stateless", {"vip_limit": 128}, id="more-vips"),
        pytest.param(
            "stateless", {"vip_limit": 16, "handshake_rows": 32768}, id="rows", marks=pytest.mark.slow
        ),
        pytest.param("stateful", {"vip_limit": 16}, id="fewer-vips", marks=pytest.mark.slow),
        pytest.param("stateful", {"connection_rows": 128}, id="more-connections", marks=pytest.mark.slow),
        pytest.param("stateful", {"connection_rows": 32}, id="fewer-connections", marks=pytest.mark.slow),
    ],
)
def test_tables_of_another_size_take_over(mode: str, settings: dict[str, int]) -> None:
    """No connection breaks when limits change at a restart, and what was counted goes on."""
    with ServersLab(3) as lab:
        balancer = lab.start_balancer(vips=[{**lab.vip_settings(), "mode": mode}])
        tolerated = BEING_OPENED if "connection_rows" in settings else 0
        take_over(lab, balancer, lambda: reconfigure(balancer, **settings), tolerated)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stateless", "stateful"])
def test_another_build_takes_over(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection breaks when the next poise has its tables in other layouts, there and back."""
    path = os.pathsep.join([str(another_build(tmp_path)), os.environ.get("PYTHONPATH", "")])
    tolerated = BEING_OPENED if mode == "stateful" else 0
    with ServersLab(3) as lab:
        balancer = lab.start_balancer(vips=[{**lab.vip_settings(), "mode": mode}])
        take_over(lab, balancer, lambda: monkeypatch.setenv("PYTHONPATH", path), tolerated)
        take_over(lab, balancer, monkeypatch.undo, tolerated)
