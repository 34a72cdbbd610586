# SPDX-License-Identifier: Apache-2.0
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.lab.namespaces import Lab
from poise.lab.nginx import Nginx
from poise.servers.care import Check, CheckKind
from poise.servers.health.response import LONGEST_BODY
from poise.servers.health.target import Target
from tests.servers.health.serving import (
    Behaviour,
    once,
    refusing,
    say,
    say_and_wait,
    say_for_ever,
    serving,
    target,
)

CHECK = Check(CheckKind.HTTP, timeout=0.4)
WITH_BODY = replace(CHECK, body="we(l+)")
OK = b"HTTP/1.1 200 OK\r\n"
SILENCE = "gave no answer within 0.4 s"


@pytest.fixture(scope="module")
def nginx() -> Iterator[Target]:
    """An nginx that answers GET / with web1, and a namespace that this thread is in."""
    with Lab() as lab:
        namespace = lab.namespace("web")
        address = target(80).address
        server = Nginx(namespace, "web1", address, lab.directory / "web1")
        server.start()
        server.put_file("file", 1)
        (server.directory / "files" / "folder").mkdir()
        with namespace.enter():
            yield target(80)


def ask(behave: Behaviour, check: Check) -> tuple[bool, str]:
    """What a check finds of a server that behaves so."""
    with serving(behave) as server:
        result = once(server, check)
    return result.ok, result.reason


@pytest.mark.root
@pytest.mark.parametrize(
    ("check", "ok", "reason"),
    [
        (CHECK, True, "answered 200"),
        (replace(CHECK, body="^web[0-9]$|^web1\n"), True, "answered 200"),
        (replace(CHECK, body="^shop"), False, "answered 200 with a body in which '^shop' is not found"),
        (replace(CHECK, path="/absent"), False, "answered 404, wanted 200-399"),
        (replace(CHECK, path="/absent", statuses=((404, 404),)), True, "answered 404"),
        (replace(CHECK, method="HEAD"), True, "answered 200"),
        (replace(CHECK, method="POST", path="/files/file", statuses=((405, 405),)), True, "answered 405"),
        (replace(CHECK, path="/files/folder"), True, "answered 301"),
        (
            replace(CHECK, path="/files/folder", statuses=((200, 299), (404, 404))),
            False,
            "answered 301, wanted 200-299, 404",
        ),
        (replace(CHECK, host="no such host"), False, "answered 400, wanted 200-399"),
    ],
)
def test_nginx_is_judged_by_its_status_and_body(
    nginx: Target,
    check: Check,
    ok: bool,  # noqa: FBT001
    reason: str,
) -> None:
    """A real server: any wanted status will do, redirects are not followed, and a body must match."""
    result = once(nginx, check)
    assert (result.ok, result.reason) == (ok, reason)


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (say_and_wait(), f"{SILENCE} (waiting for a status line)"),
        (say_and_wait(b"HTTP/1.1 200"), f"{SILENCE} (waiting for a status line)"),
        (say_and_wait(OK, b"Server: x\r\n"), f"{SILENCE} (waiting for the rest of the head)"),
        (say(), "closed the connection before the end of a status line"),
        (say(b"HTTP/1.1 2"), "closed the connection before the end of a status line"),
        (say(OK, b"Server: x\r\n"), "closed the connection before the end of its head"),
        (say(b"SSH-2.0-OpenSSH\r\n"), "answered something that is not HTTP/1.1: 'SSH-2.0-OpenSSH\\r\\n'"),
        (say_and_wait(b"\0\1\2"), "answered something that is not HTTP/1.1: '\\x00\\x01\\x02'"),
        (say(b"HTTP/2 200\r\n\r\n"), "answered something that is not HTTP/1.1: 'HTTP/2 200\\r\\n\\r\\n'"),
        (
            say(b"HTTP/1.1 9999 ?\r\n\r\n"),
            "answered something that is not HTTP/1.1: 'HTTP/1.1 9999 ?\\r\\n\\r\\n'",
        ),
        (say_for_ever(b"HTTP/1.1 200 ", b"a" * 999), "answered with a status line of more than 4096 bytes"),
        (say_for_ever(OK, b"Again: and again\r\n" * 99), "answered with a head of more than 65536 bytes"),
        (say(b"HTTP/1.1 503 Gone fishing\r\n\r\n"), "answered 503, wanted 200-399"),
        (say(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 500 X\r\n\r\n"), "answered 500, wanted 200-399"),
    ],
)
def test_a_server_that_does_not_speak_http_is_not_well(behave: Behaviour, reason: str) -> None:
    """Silence, garbage, half an answer, an endless one, a wrong status: each is told in its own words."""
    assert ask(behave, CHECK) == (False, reason)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"\r\n",
        b"HTTP/1.0 204\r\n\r\n",
        b"HTTP/1.1 302 Found\nLocation: /elsewhere\n\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_the_head_of_an_answer_will_do_where_no_body_is_wanted(answer: bytes) -> None:
    """Whatever else would come: a server that answers a wanted status is well."""
    with serving(say_and_wait(answer)) as server:
        assert once(server, CHECK).ok


def test_an_answer_may_come_byte_by_byte() -> None:
    """Where packets are cut makes no difference."""

    def drip(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\na w\r\n3\r\nell\r\n0\r\n\r\n":
            connection.sendall(bytes([byte]))

    assert ask(drip, WITH_BODY) == (True, "answered 200")


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 4\r\n\r\nwell",
        OK + b"\r\nall is well",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nwe\r\n2\r\nll\r\n0\r\n\r\n",
    ],
)
def test_a_body_is_found_however_it_is_framed(answer: bytes) -> None:
    """By its length, by the end of the connection, and in chunks."""
    assert ask(say(answer), WITH_BODY) == (True, "answered 200")


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (say(OK, b"Content-Length: 4\r\n\r\nsick"), "with a body in which 'we(l+)' is not found"),
        (say(OK, b"Content-Length: 9\r\n\r\nwell"), "closed the connection before the end of its body"),
        (say_and_wait(OK, b"Content-Length: 9\r\n\r\nwell"), f"{SILENCE} (waiting for the body)"),
        (say(OK, b"Transfer-Encoding: chunked\r\n\r\n4\r\nwell"), "closed the connection before the end of"),
        (
            say(OK, b"Transfer-Encoding: chunked\r\n\r\nwell\r\n"),
            "answered with a broken chunk: 'well\\r\\n'",
        ),
        (
            say(OK, b"Transfer-Encoding: chunked\r\n\r\n2\r\nwell\r\n"),
            "answered with a broken chunk: 'll\\r\\n'",
        ),
        (say(b"HTTP/1.1 204 No Content\r\n\r\n"), "with a body in which 'we(l+)' is not found"),
        (say_for_ever(OK + b"\r\n", b"no end" * 999), "with a body in which 'we(l+)' is not found"),
        (
            say_for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"6\r\nno end\r\n" * 99),
            "with a body in which 'we(l+)' is not found",
        ),
        (
            say_for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"no end" * 999),
            "with a body in which 'we(l+)' is not found",
        ),
    ],
)
def test_a_wrong_broken_or_slow_body_is_not_well(behave: Behaviour, reason: str) -> None:
    """The body must be complete, in time, and hold what is wanted in what is looked at of it."""
    ok, said = ask(behave, WITH_BODY)
    assert not ok
    assert reason in said


def test_only_the_beginning_of_a_long_body_is_looked_at() -> None:
    """A body of any length costs no more memory than what is looked at."""
    long = OK + b"Content-Length: 999999999999\r\n\r\n" + b"." * (LONGEST_BODY - 4)
    assert ask(say(long + b"well"), WITH_BODY)[0]
    assert not ask(say(long + b"fair, and well"), WITH_BODY)[0]


def test_a_server_that_resets_the_connection_is_not_well() -> None:
    """A reset after the request is no answer."""

    def reset(connection: socket.socket) -> None:
        connection.recv(1)  # not all of it: closing with unread data resets

    with serving(reset) as server:
        result = once(server, CHECK)
    assert (result.ok, result.reason) == (False, "broke the connection off (connection reset by peer)")


def test_a_server_that_refuses_is_not_well() -> None:
    """Without a connection there is no request."""
    assert once(refusing(), CHECK).reason == "does not take connections (connection refused)"


def test_a_slow_server_is_cut_off_at_the_time_out() -> None:
    """One that keeps saying a little gets no longer than one that says nothing."""

    def dawdle(connection: socket.socket) -> None:
        connection.sendall(OK)
        connection.settimeout(0.02)
        while True:
            connection.sendall(b"Slow: 1\r\n")
            try:
                if not connection.recv(65_536):
                    return
            except TimeoutError:
                continue

    began = time.monotonic()
    assert ask(dawdle, CHECK) == (False, f"{SILENCE} (waiting for the rest of the head)")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("check", "lines"),
    [
        (CHECK, [b"GET / HTTP/1.1", b"Host: 127.0.0.1:%d", b"Connection: close"]),
        (
            replace(CHECK, method="HEAD", path="/a?b=c", host="shop.example"),
            [b"HEAD /a?b=c HTTP/1.1", b"Host: shop.example"],
        ),
    ],
)
def test_the_request_is_what_was_asked_for(check: Check, lines: list[bytes]) -> None:
    """Method, path and host go to the server as configured; the default host is the server's address."""
    asked = []

    def note(connection: socket.socket) -> None:
        asked.append(connection.recv(65_536))

    with serving(note) as server:
        once(server, check)
        wanted = [line % server.port if b"%d" in line else line for line in lines]
    assert set(wanted) <= set(asked[0].split(b"\r\n"))
    assert asked[0].endswith(b"\r\n\r\n")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.binary(min_size=1, max_size=40) | st.sampled_from([OK, b"\r\n", b"HTTP/1.1", b" 200"]), max_size=6
    )
)
def test_no_answer_breaks_a_check(parts: list[bytes]) -> None:
    """Whatever a server says, a check comes to a result with a reason of one line."""
    with serving(say(*parts)) as server:
        result = once(server, WITH_BODY)
    assert result.reason
    assert "\n" not in result.reason
