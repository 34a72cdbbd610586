# SPDX-License-Identifier: Apache-2.0
"""The installed `poise` program, run as a user runs it."""

import json
import os
import signal
import socket as sockets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.api.serving import ListController, serving

POISE = Path(sys.executable).with_name("poise")
EXAMPLES = Path(__file__).parent.parent / "examples"
NOBODY = 65534


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListController]:
    """A running API with its socket in POISE_SOCKET, and 50 servers."""
    socket = tmp_path_factory.mktemp("cli") / "poise.sock"
    controller = ListController()
    for number in range(1, 51):
        controller.add("web", f"web{number}", IPv4Address(f"10.0.0.{number}"), 8080)
    with serving(socket, controller), pytest.MonkeyPatch.context() as patch:
        patch.setenv("POISE_SOCKET", str(socket))
        yield controller


def poise(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What `poise` with these arguments prints, and its exit status."""
    return subprocess.run([POISE, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_version() -> None:
    """`poise --version` tells the version of the package."""
    assert poise("--version").stdout == f"poise {version('poise')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("check",),
        ("up", "-c", "x.yaml", "--xdp-mode", "fast"),
        ("servers", "add", "10.0.0.1"),
        ("servers", "add", "web1:80"),
        ("servers", "add", "10.0.0.1:+80"),
        ("servers", "add", "2001:db8::1"),
        ("servers", "add", "[2001:db8::1]"),
        ("servers", "add", "10.0.0.1:80", "--weight", "0"),
        ("servers", "list", "-o", "yaml"),
        ("bench", "decision", "--flows", "1,many"),
        ("bench", "decision", "--flows", "0"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    """A command that is written wrongly ends with 2, a hint on stderr and nothing on stdout."""
    done = poise(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize("command", ["up", "down"])
def test_mistakes_elsewhere(tmp_path: Path, command: str) -> None:
    """Other commands tell every mistake on stderr and do nothing."""
    file = tmp_path / "poise.yaml"
    file.write_text("interfaces: []\nvips: []\n")
    done = poise(command, "-c", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == ["poise:", "poise:"]
    assert f"poise: {file}:1: " in done.stderr
    assert f"poise: {file}:2: " in done.stderr


@pytest.mark.root
@pytest.mark.parametrize("command", ["up", "down"])
def test_without_root(command: str) -> None:
    """Without root the commands that need it say so in one sentence."""
    # The interpreter may be in a directory of root: somebody else, who may read it nevertheless.
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    program = "from poise.cli import main; main()"
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write((EXAMPLES / "minimal.yaml").read_bytes())
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        somebody = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", *may_read]
        command_line = [*somebody, sys.executable, "-c", program, command, "-c", file.name]
        done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    sentence = f"poise: poise {command} needs root (CAP_NET_ADMIN and CAP_BPF): run it with sudo\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


@pytest.mark.root
def test_failure_of_the_daemon(tmp_path: Path) -> None:
    """What fails inside `poise up` is one sentence, too, and leaves the socket unserved."""
    file = tmp_path / "poise.yaml"
    places = "".join(f"{key}: {tmp_path}/{key}\n" for key in ("socket", "state_directory"))
    vips = "vips: [{address: 192.0.2.10, port: 80, servers: []}]\n"
    pins = f"pin_directory: /sys/fs/bpf/{tmp_path.name}\n"
    file.write_text(f"interfaces: [absent0]\n{vips}{places}{pins}")
    command = ["unshare", "--net", str(POISE), "up", "-c", str(file)]  # in a network namespace of its own
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("poise: no interface absent0")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "socket").exists()


@pytest.mark.usefixtures("running")
def test_list() -> None:
    """A list has one line a server under the names of its columns, however narrow the screen would be."""
    header, *rows = poise("servers", "list").stdout.splitlines()
    columns = ["vip", "name", "address", "port", "id", "weight", "state", "reachable"]
    assert header.split()[:8] == columns
    assert len(rows) == 50
    assert rows[6].split() == ["web", "web7", "10.0.0.7", "8080", "6", "1", "ready", "yes", "0", "0", "0"]


def test_list_for_programs(running: ListController) -> None:
    """As JSON, a list is the array of the API."""
    assert json.loads(poise("servers", "list", "-o", "json").stdout) == running.rows


def test_changes(running: ListController) -> None:
    """Each change tells in a sentence what it did, and reaches the running poise."""
    told = [
        poise("servers", "add", "10.0.1.1:8080", "--name", "new", "--vip", "shop"),
        poise("servers", "add", "[2001:DB8::1]:8080", "--weight", "9"),
        poise("servers", "drain", "new"),
        poise("servers", "remove", "new", "--vip", "shop"),
        poise("servers", "remove", "new", "--now"),
    ]
    assert [done.stdout for done in told] == [
        "new (10.0.1.1:8080) gets new connections of VIP shop\n",
        "[2001:db8::1]:8080 ([2001:db8::1]:8080) gets new connections of VIP web\n",
        "new gets no new connections of VIP shop, those it has go on\n",
        "new is removed from VIP shop, connections it still has go on\n",
        "new is removed from VIP shop, and its connections are cut\n",
    ]
    assert running.rows.pop()["weight"] == 9
    assert running.rows.pop()["state"] == "cut"


def test_changes_for_programs(running: ListController) -> None:
    """As JSON, each change prints the server as it now is."""
    for arguments, state in [
        (("add", "10.0.1.1:8080"), "ready"),
        (("drain", "10.0.1.1:8080"), "drain"),
        (("remove", "10.0.1.1:8080"), "removed"),
    ]:
        server = json.loads(poise("servers", *arguments, "-o", "json").stdout)
        assert server == running.rows[-1] | {"state": state}
    running.rows.pop()


def test_counters(running: ListController) -> None:
    """Counters are a table of name and number, or one JSON object."""
    assert poise("counters").stdout.split() == ["counter", "value", "packets", "0", "new_connections", "0"]
    assert json.loads(poise("counters", "-o", "json").stdout) == running.counted


@pytest.mark.usefixtures("running")
def test_refusals() -> None:
    """What poise refuses is its sentence on stderr, also when JSON was asked for."""
    done = poise("servers", "drain", "ghost", "-o", "json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "poise: there is no server ghost\n"
    done = poise("servers", "add", "224.0.0.1:80")
    assert done.stderr.startswith("poise: address 224.0.0.1 is a multicast address")


def test_nothing_runs(tmp_path: Path) -> None:
    """Without a running poise, a command names the socket it tried."""
    socket = tmp_path / "absent.sock"
    done = poise("servers", "list", "--socket", socket)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"poise: cannot reach poise at {socket}: is `poise up` running?\n"


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("arguments", [("servers", "list"), ("servers", "list", "-o", "json"), ("--help",)])
def test_reader_that_goes_away(arguments: tuple[str, ...]) -> None:
    """A pipe that nobody reads ends the command without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        done = subprocess.run(
            [POISE, *arguments], stdout=broken, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends a waiting command without a word, as the shell expects: with 130."""
    path = tmp_path / "silent.sock"
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with subprocess.Popen(
            [POISE, "counters", "--socket", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as waiting:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1)
                waiting.send_signal(signal.SIGINT)
                assert waiting.communicate() == (b"", b"")
                assert waiting.returncode == 130


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("arguments", ["'list', '--help'", "'list', '-o', 'json'"])
def test_answers_at_once(arguments: str) -> None:
    """Commands for the running poise import nothing slow that they do not need."""
    program = f"""
import sys
from poise.cli import main
sys.argv = ["poise", "servers", {arguments}]
try:
    main()
except SystemExit:
    slow = {{"anyio", "pyroute2", "rich", "starlette", "structlog", "uvicorn", "yaml"}}
    print(*slow & {{*sys.modules}}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout
    assert done.stderr == "\n"


def test_log_for_files() -> None:
    """A log that goes to a file has one line of key=value pairs an event, in the order time, level, event."""
    program = """
import structlog
from poise.cli_log import set_up_log
set_up_log()
structlog.get_logger().warning("server is unreachable", server="web1")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    time, rest = done.stderr.split(" ", 1)
    assert time.startswith("timestamp=20")
    assert rest == 'level=warning event="server is unreachable" server=web1\n'
