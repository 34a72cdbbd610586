# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.agent import main
from poise.agent.measure import Meter, read
from poise.agent.probe import Probe
from poise.agent.sockets import established
from poise.errors import PoiseError
from poise.servers.care import LoadKind, LoadSource
from poise.servers.load.fetch import fetch
from poise.servers.load.report import read as read_report
from tests.servers.load.raw import raw_server

STAT = "cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3 4\nprocs_running {running}\nprocs_blocked 0\n"


@contextmanager
def agent(**arguments: str) -> Iterator[str]:
    """An agent in a process of its own, as nobody where this is root; yields its URL."""
    code = f"from pathlib import Path\nfrom poise.agent import main\nmain(**{arguments!r})"
    code = re.sub(r"'token_file': ('[^']*')", r"'token_file': Path(\1)", code)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            line = process.stderr.readline()
            assert line.startswith("poise agent: serving http://"), line + process.stderr.read()
            yield line.split()[-1].removesuffix("/load")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def get(url: str, **headers: str) -> str:
    """The body of an answer."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:  # noqa: S310
        return str(answer.read().decode())


def test_a_balancer_reads_what_an_agent_says() -> None:
    """What the agent serves is what the balancer understands, with connections and latency of the service."""
    with raw_server(None) as port, socket.create_connection(("127.0.0.1", port)):  # noqa: SIM117
        with agent(listen="127.0.0.1:0", service=f"127.0.0.1:{port}") as url:
            load = json.loads(get(f"{url}/load"))
            assert load["in_flight"] == 1
            assert 0 <= load["cpu"] <= 1
            assert load["run_queue"] >= 0
            assert load["latency_ms"] is None
            assert abs(load["at"] - time.time()) < 60
            body = anyio.run(fetch, f"{url}/load", None, 5.0)
            for metric in ("cpu", "run_queue", "in_flight"):
                source = LoadSource(LoadKind.AGENT, metric=metric)
                assert read_report(body, source, url).load >= 0


def test_metrics_are_prometheus_text() -> None:
    """Each number is a gauge; what is not measured is left out."""
    with agent(listen="[::1]:0") as url:
        text = get(f"{url}/metrics")
    names = re.findall(r"^# TYPE (\w+) gauge$", text, re.MULTILINE)
    assert names == ["poise_agent_cpu", "poise_agent_run_queue"]
    for name in names:
        assert re.search(rf"^{name} [0-9.e+-]+$", text, re.MULTILINE)


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    """With a token file, nobody is answered without its token."""
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text("abc\n")
    with agent(listen="127.0.0.1:0", token_file=str(path)) as url:
        for headers in ({}, {"Authorization": "Bearer abd"}, {"Authorization": "abc"}):
            with pytest.raises(urllib.error.HTTPError) as error:
                get(f"{url}/load", **headers)
            assert error.value.code == 401
            error.value.close()
        assert "cpu" in get(f"{url}/load", Authorization="Bearer abc")


def test_unknown_paths_are_told() -> None:
    """What there is not is answered with what there is."""
    with agent(listen="127.0.0.1:0") as url:
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{url}/x")
        assert error.value.code == 404
        assert error.value.read() == b"there is nothing at /x: ask for /load or /metrics\n"
        error.value.close()


def test_silent_clients_keep_nobody_out_for_long() -> None:
    """Beyond 64 connections the agent closes new ones, silent ones after five seconds: it answers again."""
    with agent(listen="127.0.0.1:0") as url:
        port = int(url.rpartition(":")[2])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(70)]
        deadline = time.monotonic() + 20
        while True:
            try:
                assert "cpu" in get(f"{url}/load")
                break
            except OSError:
                assert time.monotonic() < deadline
                silent[0].settimeout(1)
        for each in silent:
            each.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"listen": "9110"},
            "--listen 9110: 9110 has no address; write ADDRESS:PORT, of IPv6 [ADDRESS]:PORT",
        ),
        ({"listen": "127.0.0.1:70000"}, "--listen 127.0.0.1:70000: a port is a number from 0 to 65535"),
        (
            {"service": "web:80"},
            "--service web:80: web:80 has no address; write ADDRESS:PORT, of IPv6 [ADDRESS]:PORT",
        ),
        ({"service": "127.0.0.1:0"}, "--service 127.0.0.1:0: a port is a number from 1 to 65535"),
        ({"probe": "web"}, "--probe web is not a URL: write http://ADDRESS:PORT/PATH"),
        ({"probe": "http://a:b/"}, "--probe http://a:b/ is not a URL: write http://ADDRESS:PORT/PATH"),
        (
            {"listen": "192.0.2.1:9110"},
            "the agent cannot listen at 192.0.2.1:9110: Cannot assign requested address",
        ),
    ],
)
def test_mistakes_are_sentences(arguments: dict[str, str], sentence: str) -> None:
    """What cannot be done is refused before anything is served."""
    with pytest.raises(PoiseError) as error:
        main(**{"listen": "127.0.0.1:0", **arguments})  # type: ignore[arg-type]
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (b"abc", 0o644, "{} holds a token that others may read: chmod 600 {}"),
        (b"\n", 0o600, "{} holds no token: write one word into it, of at most 4,096 characters"),
        (b"two words", 0o600, "{} holds no token: write one word into it, of at most 4,096 characters"),
        (b"\xff\xfe", 0o600, "{} holds no token: it is not text"),
        (None, 0, "{} cannot be read: No such file or directory"),
    ],
)
def test_token_files_are_checked(tmp_path: Path, content: bytes | None, mode: int, sentence: str) -> None:
    """A token that others may read, or that is none, is refused."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(PoiseError) as error:
        main("127.0.0.1:0", token_file=path)
    assert str(error.value) == sentence.replace("{}", str(path))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 500))
def test_load_is_that_of_the_last_second(user: int, idle: int, running: int) -> None:
    """The processor's part is what ticked busily between readings; the reader does not count as running."""
    texts = iter(
        [STAT.format(user=5, idle=7, running=1), STAT.format(user=5 + user, idle=7 + idle, running=running)]
    )
    meter = Meter(lambda: next(texts))
    meter.read()
    assert meter.cpu == pytest.approx(user / (user + idle) if user + idle else 0.0)
    assert meter.run_queue == pytest.approx(max(running - 1, 0) / 2 / (os.cpu_count() or 1))


def test_proc_is_as_expected() -> None:
    """/proc/stat of this kernel is understood."""
    reading = read(Path("/proc/stat").read_text())
    assert 0 < reading.busy < reading.total


@pytest.mark.parametrize(
    ("listen", "asked", "counted"),
    [
        ("127.0.0.1", "127.0.0.1", 3),
        ("127.0.0.1", "0.0.0.0", 3),  # noqa: S104 - asked about, not listened at
        ("127.0.0.1", "127.0.0.2", 0),
        ("::1", "::1", 3),
        ("::1", "::", 3),
        ("::1", "127.0.0.1", 0),
    ],
)
def test_established_connections_are_counted(listen: str, asked: str, counted: int) -> None:
    """Those to the service are counted, and neither those from it nor those to other addresses."""
    family = socket.AF_INET if "." in listen else socket.AF_INET6
    with socket.create_server((listen, 0), family=family) as listener:
        port = listener.getsockname()[1]
        clients = [socket.create_connection((listen, port)) for _ in range(3)]
        assert established(ip_address(asked), port) == counted
        for client in clients:
            client.close()


def test_ipv4_on_a_socket_of_ipv6_is_counted() -> None:
    """A service that listens at [::] has its connections over IPv4 counted under their IPv4 address."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert established(IPv4Address("127.0.0.1"), port) == 1
            assert established(IPv6Address("::"), port) == 1


def test_probes_time_answers() -> None:
    """A latency is known once the service answers, and no longer once it does not."""
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1") as port:
        probe = Probe(f"http://127.0.0.1:{port}/health?x=1")
        assert not probe.latency
        probe.ask()
        assert 0 < (probe.latency or 0.0) < 1000
    probe.ask()
    assert not probe.latency


def test_failures_are_not_latencies() -> None:
    """A service that answers 500 quickly is not a quick one."""
    with raw_server(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") as port:
        probe = Probe(f"http://127.0.0.1:{port}")
        probe.ask()
        assert probe.latency is None


def test_meters_read_until_told_to_stop() -> None:
    """The reading thread ends."""
    stop, meter = threading.Event(), Meter()
    thread = threading.Thread(target=meter.run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
