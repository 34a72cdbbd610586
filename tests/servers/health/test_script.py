# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest

from poise.servers.care import Check, CheckKind
from poise.servers.health.judge import Result
from poise.servers.health.target import CannotCheck
from tests.e2e.waiting import wait_until
from tests.servers.health.serving import once, target

SERVER = target(8080)


def script(text: str, timeout: float = 2.0) -> Check:
    """A check by this script of the shell."""
    return Check(CheckKind.SCRIPT, timeout=timeout, command=("/bin/sh", "-c", text))


def run(text: str, timeout: float = 2.0) -> Result:
    """What a check by this script finds."""
    return once(SERVER, script(text, timeout))


@pytest.mark.parametrize(
    ("text", "ok", "reason"),
    [
        ("exit 0", True, "exited with 0"),
        ("exit 3", False, "exited with 3"),
        ("echo looking; echo 'all is well' >&2", True, "exited with 0: all is well"),
        ("echo 'disk full'; echo; exit 1", False, "exited with 1: disk full"),
        ("printf 'a\\033[31mb'; exit 1", False, "exited with 1: a?[31mb"),
        ("kill -9 $$", False, "was ended by signal 9"),
        ("cat; exit 4", False, "exited with 4"),
    ],
)
def test_a_script_decides_by_its_exit_status(
    text: str,
    ok: bool,  # noqa: FBT001
    reason: str,
) -> None:
    """0 is well, all else is not; the last line that it said is in the reason. Its input is empty."""
    result = run(text)
    assert (result.ok, result.reason) == (ok, reason)


def test_a_script_is_told_what_to_check_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the server in variables, and none of the daemon's, which may hold secrets."""
    monkeypatch.setenv("TOKEN", "secret")
    told = run('test -z "$TOKEN" && echo "$POISE_ADDRESS $POISE_PORT $POISE_VIP $POISE_SERVER"')
    assert told.reason == "exited with 0: 127.0.0.1 8080 shop web1"
    elsewhere = once(SERVER, replace(script("echo $POISE_PORT"), port=9))
    assert elsewhere.reason == "exited with 0: 9"


def test_a_script_that_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """At the time-out nothing of it is left, whatever signals it ignores."""
    pids = tmp_path / "pids"
    result = run(f"trap '' TERM; sleep 1000 & echo $! $$ >{pids}; wait", 0.3)
    assert (result.ok, result.reason) == (False, "did not end within 0.3 s")
    assert result.seconds < 1
    wait_until(lambda: not any(Path("/proc", pid).exists() for pid in pids.read_text().split()), 2)


def test_what_a_script_leaves_behind_is_killed_when_it_ends(tmp_path: Path) -> None:
    """A process in the background neither delays the result nor lives on."""
    pid = tmp_path / "pid"
    result = run(f"sleep 1000 & echo $! >{pid}")
    assert (result.ok, result.seconds < 1) == (True, True)
    wait_until(lambda: not Path("/proc", pid.read_text().strip()).exists(), 2)


def test_a_script_that_talks_without_end_is_not_kept_waiting() -> None:
    """Its output is read on, so that it is never stuck in a full pipe, and only the end is kept."""
    result = run("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo done")
    assert result.reason == "exited with 0: done"
    assert len(run("head -c 3000000 /dev/zero | tr '\\0' x").reason) < 300
    assert not run("yes", 0.3).ok


@pytest.mark.parametrize("mode", [None, 0o644])
def test_a_script_that_cannot_be_run_says_nothing_of_a_server(tmp_path: Path, mode: int | None) -> None:
    """A program that is missing, or may not be run, is not held against the servers."""
    path = tmp_path / "check"
    if mode is not None:
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    with pytest.raises(CannotCheck, match=f"{path} cannot be run: "):
        once(SERVER, Check(CheckKind.SCRIPT, command=(str(path),)))


def test_scripts_leave_no_files_open() -> None:
    """However a check ends, its pipe and its process are let go."""

    def files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = files()
    for text in ("exit 0", "exit 1", "sleep 10", "exec >&- 2>&-; sleep 0.1"):
        run(text, 0.3)
    assert files() == before
