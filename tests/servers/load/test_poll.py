# SPDX-License-Identifier: Apache-2.0
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import anyio
import pytest

from poise.servers.care import LoadKind, LoadSource
from poise.servers.load.fetch import fetch
from poise.servers.load.poll import Heard, Poller
from poise.servers.load.report import BadReport, Report
from tests.servers.load.raw import raw_server

KEY = (0, 3)


class Answers(BaseHTTPRequestHandler):
    """Answers the paths below, and notes who asked."""

    asked: ClassVar[list[tuple[str, str | None]]] = []
    load: ClassVar[str] = "0.5"

    def do_GET(self) -> None:
        """Answer."""
        self.asked.append((self.path, self.headers["Authorization"]))
        status, body = {
            "/load": (200, self.load),
            "/redirect": (302, ""),
            "/secret": (200 if self.headers["Authorization"] == "Bearer abc" else 401, "1"),
        }.get(self.path, (500, "broken"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Where a server answers."""
    Answers.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run(poller: Poller, until: Callable[[], bool]) -> None:
    """Poll until something holds."""

    async def work() -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(poller.run)
                while not until():  # noqa: ASYNC110 - nothing tells when a report was heard
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()

    anyio.run(work)


def refused(url: str, within: float = 2.0) -> str:
    """What is wrong with an answer."""
    with pytest.raises(BadReport) as error:
        anyio.run(fetch, url, None, within)
    return str(error.value)


def test_reports_are_heard(url: str) -> None:
    """What a server says is known, with the time, and servers with one URL are asked once for all."""
    source = LoadSource(LoadKind.URL, interval=0.1, url=url)
    poller = Poller()
    poller.watch({KEY: (f"{url}/load", source), (1, 7): (f"{url}/load", source)})
    assert poller.heard(KEY) == Heard()
    run(poller, lambda: poller.heard(KEY).report is not None)
    assert poller.heard(KEY) == poller.heard((1, 7))
    assert poller.heard(KEY).report == Report(0.5)
    assert len(Answers.asked) <= 2


def test_a_bad_report_is_named_and_the_good_one_kept(url: str) -> None:
    """A report that cannot be read leaves the last good one as old as it is, until the next good one."""
    source = LoadSource(LoadKind.URL, interval=0.05, url=url)
    poller = Poller()
    poller.watch({KEY: (f"{url}/load", source)})
    run(poller, lambda: poller.heard(KEY).report is not None)
    Answers.load = "-1"
    try:
        run(poller, lambda: bool(poller.heard(KEY).fault))
    finally:
        Answers.load = "0.5"
    heard = poller.heard(KEY)
    assert heard.fault == f"the answer of {url}/load is -1, but a load is not negative"
    run(poller, lambda: not poller.heard(KEY).fault)
    assert poller.heard(KEY).at > heard.at


def test_servers_that_leave_are_forgotten(url: str) -> None:
    """Nobody is asked who is not watched."""
    source = LoadSource(LoadKind.URL, interval=0.05, url=url)
    poller = Poller()
    poller.watch({KEY: (f"{url}/load", source)})
    run(poller, lambda: poller.heard(KEY).report is not None)
    poller.watch({})
    assert poller.heard(KEY) == Heard()


def test_tokens_are_sent(url: str) -> None:
    """A token goes as a bearer token."""
    assert anyio.run(fetch, f"{url}/secret", "abc", 2.0) == b"1"
    assert refused(f"{url}/secret") == f"{url}/secret answered 401, not 200"


def test_statuses_other_than_200_are_no_load(url: str) -> None:
    """Neither an error nor a redirection says anything of a load."""
    assert refused(f"{url}/x?y") == f"{url}/x?y answered 500, not 200"
    assert refused(f"{url}/redirect") == f"{url}/redirect answered 302, not 200"


def test_nobody_there() -> None:
    """A closed port is told as such."""
    with raw_server(b"") as port:
        pass
    url = f"http://127.0.0.1:{port}/load"
    assert refused(url) == f"{url} cannot be reached: Connection refused"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "closed the connection before it had answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0.", "does not speak HTTP: "),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP: "),
        (None, "did not answer within 0.3 s"),
    ],
)
def test_broken_answers(answer: bytes | None, sentence: str) -> None:
    """Whatever a server sends, or does not, is told in a sentence in time."""
    with raw_server(answer) as port:
        url = f"http://127.0.0.1:{port}/load"
        assert refused(url, 0.3).startswith(f"{url} {sentence}")


def test_bodies_without_end_are_cut() -> None:
    """Of an answer without end, no more than 64 KiB are read."""
    with raw_server(b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * (1 << 20)) as port:
        body: bytes = anyio.run(fetch, f"http://127.0.0.1:{port}/", None, 5.0)
    assert 1 << 16 < len(body) < 1 << 17


def test_tls_to_a_server_without() -> None:
    """A failed TLS handshake is a sentence."""
    with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert f"https://127.0.0.1:{port}/ failed in TLS: " in refused(f"https://127.0.0.1:{port}/")
