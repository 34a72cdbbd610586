# SPDX-License-Identifier: Apache-2.0
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from poise.demo.servers import Outcome, report
from poise.errors import PoiseError
from poise.lab.long_lived import LongLivedCounts
from poise.lab.namespaces import NETNS
from poise.lab.short_requests import ShortRequestsCounts

POISE = str(Path(sys.executable).with_name("poise"))


def test_a_connection_that_poise_broke_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo does not gloss over its own failure: it prints what was counted, and ends with a sentence."""
    broken = Outcome(LongLivedCounts(opened=2000, broken=3, reasons={"reset": 3}), ShortRequestsCounts())
    whole = Outcome(LongLivedCounts(opened=2000), ShortRequestsCounts(served=5000))
    with pytest.raises(PoiseError, match="poise broke 3 of 2000 connections: 3 reset"):
        report("json", broken, whole)
    assert json.loads(capsys.readouterr().out)["poise"]["broken"] == 3
    report("table", whole, broken)
    assert "3 reset" in capsys.readouterr().out


@pytest.mark.root
@pytest.mark.slow
def test_poise_breaks_no_connection_where_a_plain_hash_breaks_most() -> None:
    """The promise of the whole level as a user first sees it, in one JSON value that the clients counted."""
    done = subprocess.run(
        [POISE, "demo", "-o", "json"], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["poise"]["opened"] == told["hash"]["opened"] == 2000
    assert told["poise"]["broken"] == 0
    assert told["poise"]["failed_requests"] == 0
    assert told["hash"]["broken"] > 1000
    for outcome in told.values():
        assert outcome["requests"] > 3000
        assert 0 < outcome["p99_ms"] < 1000


@pytest.mark.root
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_demo_cleans_up(number: int, code: int) -> None:
    """Ctrl-C in the middle of the demo leaves neither namespaces nor programs nor files."""
    demo = subprocess.Popen(
        [POISE, "demo", "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert demo.stderr is not None
    told = ""
    while "connections are open" not in told and (line := demo.stderr.readline()):
        told += line
    demo.send_signal(number)
    stdout, _ = demo.communicate(timeout=30)
    assert demo.returncode == code, told
    assert not stdout
    left = re.compile(rf"poise-lab-{demo.pid}-")
    for directory in (NETNS, Path(tempfile.gettempdir()), Path("/sys/fs/bpf")):
        assert [path for path in directory.iterdir() if left.match(path.name)] == []
    assert not processes_mentioning(f"poise-lab-{demo.pid}-")


def processes_mentioning(text: str) -> list[str]:
    """The command lines of running processes that name something of the lab."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in command:
            found.append(command)
    return found
