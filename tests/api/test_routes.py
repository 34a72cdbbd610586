# SPDX-License-Identifier: Apache-2.0
import http.client
import json
import socket as sockets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from poise.api.client import Client
from poise.errors import PoiseError
from tests.api.serving import ListFacade, serving

EXAMPLES = Path(__file__).parents[2] / "examples"
WEB1 = IPv4Address("10.0.0.1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of one server, with a server web1, for all tests that must not change it."""
    socket = tmp_path_factory.mktemp("shared") / "poise.sock"
    facade = ListFacade()
    with serving(socket, facade) as client:
        client.add(WEB1, 80, name="web1")
        before = json.dumps(facade.rows)
        yield socket
    assert json.dumps(facade.rows) == before


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


def test_servers(client: Client, facade: ListFacade) -> None:
    """Each method that changes a server reaches the facade's and returns what that returns."""
    added = client.add(WEB1, 80, name="web1", vip="web")
    assert added == facade.rows[0]
    assert client.add(IPv4Address("10.0.0.2"), 80, vip="shop")["name"] == "10.0.0.2:80"
    heavy = client.add(IPv6Address("2001:db8::1"), 80, weight=7)
    assert (heavy["name"], heavy["weight"]) == ("[2001:db8::1]:80", 7)
    assert client.drain("[2001:db8::1]:80", vip="web")["state"] == "drain"
    assert client.drain("web1")["state"] == "drain"
    assert client.set_state("web1", "drain", deadline="1h", now=True)["state"] == "cut"
    assert client.set_state("web1", "maint", vip="web", now=True)["state"] == "cut"
    assert client.set_state("web1", "ready")["state"] == "ready"
    assert facade.asked[2:] == [("drain", 3600, True), ("maint", None, True), ("ready", None, False)]
    assert client.remove("web1")["state"] == "removed"
    assert client.remove("web1", vip="web", now=True)["state"] == "cut"
    assert client.servers() == facade.rows
    assert client.servers("shop") == facade.rows[1:2]


def test_views(client: Client, facade: ListFacade) -> None:
    """Each method that only looks returns what the facade's does."""
    assert client.vips() == facade.vips()
    assert client.connections() == facade.connections()
    assert client.counters() == facade.counted
    assert client.drains() == facade.drains()
    assert client.events() == facade.events()
    assert client.events(2) == facade.events(2)
    assert client.status() == facade.status()
    assert client.reload() == facade.reload()


def test_why(client: Client, facade: ListFacade) -> None:
    """Both ends, the time to wait and the protocol reach the facade, of IPv6 too."""
    here, there = (IPv6Address("2001:db8::7"), 40000), (IPv6Address("2001:db8::80"), 443)
    answer = client.why(here, there)
    assert (answer["client"], answer["server"]) == ("[2001:db8::7]:40000", "web1")
    assert "servers" not in client.why(here, there, wait=1.5, protocol="udp")
    assert facade.asked == [(here, there, None, "tcp"), (here, there, 1.5, "udp")]


@pytest.mark.usefixtures("client")
def test_drain_by_its_own_request(facade: ListFacade, socket: Path) -> None:
    """POST /servers/NAME/drain stands for the state, with or without a body."""
    facade.add("web", "web1", WEB1, 80)
    for body in (None, '{"vip": "web"}'):
        status, answer = ask(socket, "POST", "/servers/web1/drain", body)
        assert (status, answer) == (200, facade.rows[0])
    assert facade.asked == [("drain", None, False)] * 2


def test_plan(client: Client, facade: ListFacade, socket: Path, tmp_path: Path) -> None:
    """A file that may be the configuration is planned; of another one, each mistake is told with its line."""
    assert client.plan(EXAMPLES / "minimal.yaml") == facade.plan(EXAMPLES / "minimal.yaml")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("interfaces: []\nvips: []\n")
    with pytest.raises(PoiseError) as raised:
        client.plan(wrong)
    assert [line.split(" ")[0] for line in str(raised.value).splitlines()] == [f"{wrong}:1:", f"{wrong}:2:"]
    status, answer = ask(socket, "POST", "/plan", json.dumps({"path": str(wrong)}))
    assert status == 409
    assert isinstance(answer, dict)
    assert [(mistake["file"], mistake["line"]) for mistake in answer["mistakes"]] == [
        (str(wrong), 1),
        (str(wrong), 2),
    ]


def test_body_that_is_too_large(shared: Path) -> None:
    """What is longer than anything that has a meaning is refused before it is kept."""
    status, answer = ask(shared, "POST", "/servers", " " * 1_000_000)
    assert (status, answer) == (413, {"error": "the body of the request has more than 65536 bytes"})


@pytest.mark.parametrize("name", ["ghost", "a b", "a/b", "%2e", "ü", "..", "a?now=true"])
def test_unknown_server(shared: Path, name: str) -> None:
    """A name that no server has is refused with the facade's sentence, whatever is in the name."""
    client = Client(shared)
    with pytest.raises(PoiseError) as raised:
        client.drain(name)
    assert str(raised.value) == f"there is no server {name}"
    with pytest.raises(PoiseError) as raised:
        client.remove(name)
    assert str(raised.value) == f"there is no server {name}"


@pytest.mark.usefixtures("client")
def test_status_of_refusals(facade: ListFacade, socket: Path) -> None:
    """What is not there is 404, what cannot be done now is 409, each with the facade's sentence."""
    facade.capacity = 0
    assert ask(socket, "POST", "/servers/x/drain") == (404, {"error": "there is no server x"})
    status, answer = ask(socket, "POST", "/servers", '{"address": "10.0.0.1", "port": 80}')
    assert (status, answer) == (409, {"error": "all ids are taken: remove a server and let its id rest"})


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (("POST", "/servers", "{"), "not JSON"),
        (("POST", "/servers", ""), "not JSON"),
        (("POST", "/servers", b"\xff"), "not JSON"),
        (("POST", "/servers", "[" * 60_000), "not JSON"),
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
        (("POST", "/servers/web1/state", "{}"), 'the request has no "state"'),
        (("POST", "/servers/web1/state", '{"state": "down"}'), 'state "down" is unknown'),
        (("POST", "/servers/web1/state", '{"state": "drain", "deadline": "soon"}'), "is not understood"),
        (
            ("POST", "/servers/web1/state", '{"state": "maint", "deadline": "1h"}'),
            "only a drain has a deadline",
        ),
        (("POST", "/servers/web1/state", '{"state": "drain", "now": 1}'), "now 1 is unknown"),
        (("POST", "/servers/web1/state", '{"state": "ready", "now": true}'), "leave out now"),
        (("GET", "/servers?vpi=web", None), 'did you mean "vip"?'),
        (("GET", "/servers?vip=a%20b", None), 'name "a b"'),
        (("GET", "/vips?name=web", None), "the request has no key"),
        (("GET", "/events?since=-1", None), "is not the id of an event"),
        (("GET", "/why", None), 'has no "client"'),
        (("GET", "/why?client=10.0.0.1&vip=10.0.0.2:80", None), "is not ADDRESS:PORT"),
        (("GET", "/why?client=10.0.0.1:1&vip=10.0.0.2:80&wait=nan", None), 'wait "nan" is not understood'),
        (("GET", "/why?client=10.0.0.1:1&vip=10.0.0.2:80&wait=61", None), "at most 60"),
        (("POST", "/plan", '{"path": "poise.yaml"}'), "is not an absolute path"),
        (("POST", "/reload", '{"path": "/x"}'), "the request has no key"),
        (("GET", "/metrics?vip=", None), "name"),
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


def test_never_nan(client: Client, facade: ListFacade) -> None:
    """A number that JSON does not have is a defect that is told as one, and the server goes on."""
    facade.counted["rate"] = float("nan")  # type: ignore[assignment]  # the defect
    with pytest.raises(PoiseError, match="a defect of poise"):
        client.counters()
    assert client.servers() == []


def test_one_call_after_another(client: Client, facade: ListFacade) -> None:
    """Clients that call at once are served one after another: each server gets an id of its own."""
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda port: client.add(WEB1, port), range(1, 65)))
    assert sorted(row["id"] for row in added) == list(range(64))
    assert len(facade.rows) == 64
