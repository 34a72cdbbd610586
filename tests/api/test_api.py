# SPDX-License-Identifier: Apache-2.0
import http.client
import json
import os
import signal
import socket as sockets
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from poise.api.client import Client
from poise.api.server import serve
from poise.errors import PoiseError
from tests.api.serving import ListController, serving

WEB1 = IPv4Address("10.0.0.1")


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where the server of a test listens."""
    return tmp_path / "run" / "poise.sock"


@pytest.fixture
def controller() -> ListController:
    """What the server of a test serves."""
    return ListController()


@pytest.fixture
def client(socket: Path, controller: ListController) -> Iterator[Client]:
    """A client of a running server."""
    with serving(socket, controller) as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of one server, with a server web1, for all tests that must not change it."""
    socket = tmp_path_factory.mktemp("shared") / "poise.sock"
    controller = ListController()
    with serving(socket, controller) as client:
        client.add(WEB1, 80, name="web1")
        before = json.dumps(controller.rows)
        yield socket
    assert json.dumps(controller.rows) == before


def ask(socket: Path, method: str, path: str, body: str | bytes | None = None) -> tuple[int, object]:
    """The status and JSON that the server answers to a request which the client would not make."""
    connection = http.client.HTTPConnection("poise")
    connection.sock = sockets.socket(sockets.AF_UNIX)
    connection.sock.connect(str(socket))
    connection.request(method, path, body)
    with connection.getresponse() as response:
        answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_every_call(client: Client, controller: ListController) -> None:
    """Each method of the client reaches its method of the controller and returns what that returns."""
    added = client.add(WEB1, 80, name="web1", vip="web")
    assert added == controller.rows[0]
    assert client.add(IPv4Address("10.0.0.2"), 80)["name"] == "10.0.0.2:80"
    heavy = client.add(IPv6Address("2001:db8::1"), 80, weight=7)
    assert (heavy["name"], heavy["weight"]) == ("[2001:db8::1]:80", 7)
    assert client.drain("[2001:db8::1]:80", vip="web")["state"] == "drain"
    assert client.drain("web1")["state"] == "drain"
    assert client.drain("10.0.0.2:80", vip="web")["state"] == "drain"
    assert client.remove("web1")["state"] == "removed"
    assert client.remove("web1", vip="web", now=True)["state"] == "cut"
    assert client.servers() == controller.rows
    assert client.counters() == controller.counted


@pytest.mark.parametrize("name", ["ghost", "a b", "a/b", "%2e", "ü", "..", "a?now=true"])
def test_unknown_server(shared: Path, name: str) -> None:
    """A name that no server has is refused with the controller's sentence, whatever is in the name."""
    client = Client(shared)
    with pytest.raises(PoiseError) as raised:
        client.drain(name)
    assert str(raised.value) == f"there is no server {name}"
    with pytest.raises(PoiseError) as raised:
        client.remove(name)
    assert str(raised.value) == f"there is no server {name}"


@pytest.mark.usefixtures("client")
def test_status_of_refusals(controller: ListController, socket: Path) -> None:
    """What is not there is 404, what cannot be done now is 409, each with the controller's sentence."""
    controller.capacity = 0
    assert ask(socket, "POST", "/servers/x/drain") == (404, {"error": "there is no server x"})
    status, answer = ask(socket, "POST", "/servers", '{"address": "10.0.0.1", "port": 80}')
    assert (status, answer) == (409, {"error": "all ids are taken: remove a server and let its id rest"})


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (("POST", "/servers", "{"), "not JSON"),
        (("POST", "/servers", ""), "not JSON"),
        (("POST", "/servers", b"\xff"), "not JSON"),
        (("POST", "/servers", "[" * 100_000), "not JSON"),
        (("POST", "/servers", "[]"), "the request must have keys"),
        (("POST", "/servers", '{"port": 80}'), 'the request has no "address"'),
        (("POST", "/servers", '{"address": "10.0.0.1", "port": "80"}'), "is not a plain number"),
        (("POST", "/servers", '{"address": "10.0.0.1", "port": true}'), "is not a plain number"),
        (("POST", "/servers", '{"address": "10.0.0.1", "port": NaN}'), "is not a plain number"),
        (("POST", "/servers", '{"address": "10.0.0.1", "port": 0}'), "port 0 is out of range"),
        (("POST", "/servers", '{"address": "224.0.0.1", "port": 80}'), "a multicast address"),
        (("POST", "/servers", '{"address": "fe80::1", "port": 80}'), "a link-local address"),
        (("POST", "/servers", '{"address": "10.0.0.1", "port": 80, "weight": 101}'), "weight 101 is out of"),
        (("POST", "/servers", '{"address": 1, "port": 80}'), "not text"),
        (("POST", "/servers", '{"address": "10.0.0.1", "port": 80, "nmae": "a"}'), 'did you mean "name"?'),
        (("POST", "/servers", '{"address": "10.0.0.1", "port": 80, "vip": "a b"}'), 'name "a b"'),
        (("POST", "/servers/web1/drain", '{"vip": 1}'), "not text"),
        (("POST", "/servers/web1/drain", "null"), "the request must have keys"),
        (("DELETE", "/servers/web1?now=yes", None), 'now "yes" is unknown'),
        (("DELETE", "/servers/web1?nwo=true", None), 'did you mean "now"?'),
    ],
)
def test_bad_requests(shared: Path, wrong: tuple[str, str, str | bytes | None], part: str) -> None:
    """A request that cannot be understood is 400 with a sentence, and changes nothing."""
    status, answer = ask(shared, *wrong)
    assert status == 400
    assert isinstance(answer, dict)
    assert part in answer["error"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("PUT", "/servers", 405)])
def test_no_such_route(shared: Path, method: str, path: str, status: int) -> None:
    """What the API does not have is refused with a sentence, too."""
    found, answer = ask(shared, method, path)
    assert found == status
    assert isinstance(answer, dict)
    assert path in answer["error"]


def test_never_nan(client: Client, controller: ListController) -> None:
    """A number that JSON does not have is a defect that is told as one, and the server goes on."""
    controller.counted["rate"] = float("nan")  # type: ignore[assignment]  # the defect
    with pytest.raises(PoiseError, match="a defect of poise"):
        client.counters()
    assert client.servers() == []


def test_one_call_after_another(client: Client, controller: ListController) -> None:
    """Clients that call at once are served one after another: each server gets an id of its own."""
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda port: client.add(WEB1, port), range(1, 65)))
    assert sorted(row["id"] for row in added) == list(range(64))
    assert len(controller.rows) == 64


def test_only_the_owner_may_connect(socket: Path, controller: ListController) -> None:
    """The socket is its owner's alone and its directory readable, whatever the umask."""
    umask = os.umask(0o077)
    try:
        with serving(socket, controller):
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o755
    finally:
        os.umask(umask)


def test_socket_is_removed_and_can_be_served_again(socket: Path, controller: ListController) -> None:
    """A server that ends leaves nothing behind that would keep the next from starting."""
    for _ in range(2):
        with serving(socket, controller) as client:
            assert client.servers() == []
        assert not socket.exists()


def test_stale_socket_is_replaced(socket: Path, controller: ListController) -> None:
    """The socket of a process that was killed does not keep the next from starting."""
    socket.parent.mkdir()
    with sockets.socket(sockets.AF_UNIX) as killed:
        killed.bind(str(socket))
    with serving(socket, controller) as client:
        assert client.servers() == []


def test_live_socket_is_left_alone(client: Client, socket: Path) -> None:
    """A second server on the same socket is refused, and the first goes on."""
    with pytest.raises(PoiseError, match="another process listens on"), serving(socket, ListController()):
        pass
    assert client.servers() == []


@pytest.mark.parametrize("name", ["file", "directory", "file/poise.sock", "x" * 200])
def test_places_where_no_socket_can_be(tmp_path: Path, name: str) -> None:
    """What is in the way of the socket is named and left as it is."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "directory").mkdir()
    with pytest.raises(PoiseError, match="cannot listen on"), serving(tmp_path / name, ListController()):
        pass
    assert (tmp_path / "file").read_text() == "precious"


def test_signals_are_left_to_the_process(socket: Path, controller: ListController) -> None:
    """Serving in the main thread does not take over signals."""

    async def run() -> object:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve, socket, controller)
            await anyio.to_thread.run_sync(Client(socket).servers)
            handler = signal.getsignal(signal.SIGTERM)
            tasks.cancel_scope.cancel()
        return handler

    before = signal.getsignal(signal.SIGTERM)
    assert anyio.run(run) is before


def test_nobody_there(tmp_path: Path) -> None:
    """Without a running poise the client says where it looked and what to check."""
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    for name in ("absent.sock", "dead.sock"):
        with pytest.raises(PoiseError, match=f"cannot reach poise at .*{name}: is `poise up` running"):
            Client(tmp_path / name).servers()


@pytest.mark.parametrize("answer", [b"", b"220 mail\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello"])
def test_somebody_else_there(tmp_path: Path, answer: bytes) -> None:
    """A socket that answers with something else is a sentence, too."""
    path = tmp_path / "other.sock"
    with sockets.socket(sockets.AF_UNIX) as listener, ThreadPoolExecutor(1) as thread:
        listener.bind(str(path))
        listener.listen()

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        answered = thread.submit(answer_once)
        with pytest.raises(PoiseError, match="cannot talk to poise at"):
            Client(path).servers()
        answered.result()
