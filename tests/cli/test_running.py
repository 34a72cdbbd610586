# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest

from tests.api.serving import ListFacade
from tests.cli.program import poise


def test_counters(running: ListFacade) -> None:
    """Counters are a table of name and number, or one JSON object."""
    assert poise("counters").stdout.split() == ["counter", "value", "packets", "0", "new_connections", "0"]
    assert json.loads(poise("counters", "-o", "json").stdout) == running.counted


@pytest.mark.usefixtures("running")
def test_events() -> None:
    """Events are listed with the time of the machine, those that were seen left out."""
    header, event = poise("events", "--since", "2").stdout.splitlines()
    assert header.split() == ["id", "at", "kind", "vip", "server", "message"]
    assert re.fullmatch(r" 3  20\d\d-\d\d-\d\d \d\d:\d\d:\d\d  down  web  web1    web1 is down", event)


@pytest.mark.usefixtures("running")
def test_status() -> None:
    """The status tells what runs, and why the last reload was refused."""
    lines = poise("status").stdout.splitlines()
    found = dict(re.split(r"  +", line, maxsplit=1) for line in lines)
    assert found["version"] == "1.2.3"
    assert found["interfaces"] == "eth0 (native)"
    assert found["servers"] == "4,000"
    assert found["last reload"].endswith(", refused")
    assert lines[-1].endswith("  poise.yaml:3: port 0 is out of range")


@pytest.mark.usefixtures("running")
def test_vips() -> None:
    """VIPs are listed one a line."""
    header, *rows = poise("vips", "list").stdout.splitlines()
    assert header.split()[:6] == ["name", "address", "port", "protocol", "mode", "policy"]
    assert [row.split()[0] for row in rows] == ["shop", "web"]
