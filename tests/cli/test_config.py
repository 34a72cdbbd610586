# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from tests.cli.program import poise

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_check_of_a_valid_file() -> None:
    """A valid configuration is confirmed with what it has."""
    file = EXAMPLES / "minimal.yaml"
    assert poise("check", "-c", file).stdout == f"{file}: ok, 1 VIP, 2 servers\n"
    assert json.loads(poise("check", "-c", file, "-o", "json").stdout) == {"ok": True, "mistakes": []}


def test_check_of_mistakes(tmp_path: Path) -> None:
    """Mistakes are printed one a line after file and line, or as JSON, and end with 1."""
    file = tmp_path / "poise.yaml"
    file.write_text("interfaces: [eth0]\nvips:\n  - {address: 10.0.0.1, port: 0, servers: []}\n  - 1\n")
    text = poise("check", "-c", file)
    assert (text.returncode, text.stderr) == (1, "")
    first, second = text.stdout.splitlines()
    assert first.startswith(f"{file}:3: port 0 is out of range")
    assert second.startswith(f"{file}:4: a VIP must have keys")
    structured = poise("check", "-c", file, "-o", "json")
    assert (structured.returncode, structured.stderr) == (1, "")
    answer = json.loads(structured.stdout)
    assert answer["ok"] is False
    assert [f"{m['file']}:{m['line']}: {m['message']}" for m in answer["mistakes"]] == [first, second]


def test_check_without_a_file() -> None:
    """A file that is not there is one sentence, or one mistake without a line."""
    assert poise("check", "-c", "absent.yaml").stdout == "absent.yaml: there is no such file\n"
    [mistake] = json.loads(poise("check", "-c", "absent.yaml", "-o", "json").stdout)["mistakes"]
    assert mistake == {"file": "absent.yaml", "line": None, "message": "there is no such file"}


@pytest.mark.usefixtures("running")
def test_plan() -> None:
    """A plan has a sentence for each change, by VIP, and tells what moves and what needs a restart."""
    planned = poise("plan", "-c", EXAMPLES / "minimal.yaml")
    assert planned.stdout.splitlines() == [
        "VIP web:",
        "  web9 is added",
        "  new connections that another server gets: 12.5%",
        "  open connections: they go on",
        "VIP old:",
        "  VIP old is removed",
        "  open connections: all of them break",
        "a reload would be refused: only a restart changes interfaces, vip_limit",
    ]


@pytest.mark.usefixtures("running")
def test_plan_of_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with mistakes, named as seen from here, is refused with each of them."""
    (tmp_path / "wrong.yaml").write_text("interfaces: []\nvips: []\n")
    monkeypatch.chdir(tmp_path)
    done = poise("plan", "-c", "wrong.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split()[1] for line in done.stderr.splitlines()] == [
        f"{tmp_path}/wrong.yaml:1:",
        f"{tmp_path}/wrong.yaml:2:",
    ]


@pytest.mark.usefixtures("running")
def test_reload() -> None:
    """A reload tells which VIPs it added, changed and removed."""
    assert poise("reload").stdout == "added new; removed a, b (12 ms)\n"
