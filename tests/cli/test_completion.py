# SPDX-License-Identifier: Apache-2.0
"""What a shell gets when it asks `poise` how to complete a command line."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.api.serving import ListFacade
from tests.cli.program import POISE


def completed(*words: str) -> list[str]:
    """What bash would offer for the last word, as the script of `--show-completion bash` asks for it."""
    asking = {
        "_POISE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [POISE], env=os.environ | asking, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("command", ["ready", "drain", "maint", "remove"])
def test_servers(command: str) -> None:
    """Names of servers are completed where one is wanted."""
    assert completed("poise", "servers", command, "web4") == [
        "web4",
        *(f"web4{digit}" for digit in range(10)),
    ]


@pytest.mark.usefixtures("running")
def test_servers_of_a_vip() -> None:
    """With --vip, only its servers are offered."""
    assert completed("poise", "servers", "drain", "--vip", "shop", "web") == []
    assert completed("poise", "servers", "drain", "--vip", "web", "web50") == ["web50"]


@pytest.mark.usefixtures("running")
def test_vips() -> None:
    """Names of VIPs are completed after --vip."""
    assert completed("poise", "servers", "list", "--vip", "") == ["shop", "web"]
    assert completed("poise", "servers", "add", "10.0.0.1:80", "--vip", "w") == ["web"]


def test_other_socket(running: ListFacade, tmp_path: Path) -> None:
    """The socket that the command line names is asked, not the usual one."""
    assert running.rows
    absent = str(tmp_path / "absent.sock")
    assert completed("poise", "servers", "drain", "--socket", absent, "web1") == []


@pytest.mark.parametrize("socket", ["absent.sock", "file", "file/x", "x" * 200])
def test_silent_on_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, socket: str) -> None:
    """Without a poise that answers, nothing is offered and nothing is said."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("POISE_SOCKET", str(tmp_path / socket))
    assert completed("poise", "servers", "drain", "w") == []


def test_commands() -> None:
    """Commands are completed as well."""
    assert completed("poise", "re") == ["reload"]
    assert completed("poise", "servers", "re") == ["ready", "remove"]


def test_script_for_the_shell() -> None:
    """The script that makes a shell ask is printed for it."""
    done = subprocess.run(
        [POISE, "--show-completion", "bash"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, "_POISE_COMPLETE=complete_bash" in done.stdout) == (0, True)
