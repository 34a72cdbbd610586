# SPDX-License-Identifier: Apache-2.0
"""The installed `poise` program, run as a user runs it."""

import os
import re
import signal
import socket as sockets
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.program import POISE, poise

EXAMPLES = Path(__file__).parents[2] / "examples"
NOBODY = 65534


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
        ("servers", "list", "-o", "text"),
        ("servers", "list", "--vpi", "web"),
        ("servers", "why", "10.0.0.1:1", "web"),
        ("servers", "why", "10.0.0.1:1"),
        ("events", "--since", "-1"),
        ("bench", "decision", "--flows", "1,many"),
        ("bench", "decision", "--flows", "0"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    """A command that is written wrongly ends with 2, and with one sentence on stderr that names the help."""
    done = poise(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    [sentence] = done.stderr.splitlines()
    assert re.fullmatch(r"poise: [a-z].*, see `poise[a-z ]* --help`", sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("servers", "list", "--vpi", "x"),
            "no such option --vpi: did you mean --vip?, see",
        ),
        (("counters", "-o", "xml"), "invalid value for '-o' / '--output': 'xml' is not one of 'table'"),
        (("servers", "drain"), "missing argument 'NAME'"),
        (("servers", "why", "web", "a"), "invalid value for SRC:PORT: web is not ADDRESS:PORT, like"),
        (("fly",), "no such command 'fly'"),
    ],
)
def test_sentences_of_usage_errors(arguments: tuple[str, ...], sentence: str) -> None:
    """The sentence says what is wrong and, where it can be told, what was meant."""
    assert poise(*arguments).stderr.startswith(f"poise: {sentence}")


@pytest.mark.parametrize("arguments", [(), ("servers",), ("vips",), ("bench",)])
def test_nothing_to_do(arguments: tuple[str, ...]) -> None:
    """A command that lacks a verb ends with its help on stderr, and with 2."""
    done = poise(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: poise ")


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
def test_not_permitted(tmp_path: Path) -> None:
    """Who may open neither the configuration nor the socket is told what to do about that."""
    file, socket = tmp_path / "poise.yaml", tmp_path / "poise.sock"
    file.write_bytes((EXAMPLES / "minimal.yaml").read_bytes())
    file.chmod(0)
    may_not = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    with sockets.socket(sockets.AF_UNIX) as listening:
        listening.bind(str(socket))
        listening.listen()
        socket.chmod(0)
        said = [
            subprocess.run([*may_not, str(POISE), *arguments], capture_output=True, text=True, check=False)
            for arguments in (("plan", "-c", file, "--socket", socket), ("check", "-c", file))
        ]
    assert [done.returncode for done in said] == [1, 1]
    assert said[0].stderr == f"poise: cannot open {socket}: permission denied, run it with sudo\n"
    assert said[1].stdout == f"{file}: permission denied: run as root, or change the file's mode\n"


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
@pytest.mark.parametrize("arguments", ["'list', '--help'", "'list', '-o', 'json'", "'list'"])
def test_answers_at_once(arguments: str) -> None:
    """Commands for the running poise import nothing slow that they do not need."""
    program = f"""
import sys
from poise.cli import main
sys.argv = ["poise", "servers", {arguments}]
try:
    main()
except SystemExit:
    slow = {{"anyio", "numpy", "pyroute2", "rich", "starlette", "structlog", "uvicorn", "yaml"}}
    print(*slow & {{*sys.modules}}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout
    assert done.stderr == "\n"


def test_log_for_files() -> None:
    """A log that goes to a file has one line of key=value pairs an event, in the order time, level, event."""
    program = """
import structlog
from poise.cli.log import set_up_log
set_up_log()
structlog.get_logger().warning("server is unreachable", server="web1")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    time, rest = done.stderr.split(" ", 1)
    assert time.startswith("timestamp=20")
    assert rest == 'level=warning event="server is unreachable" server=web1\n'
