# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from poise.lab.faults import drop_all
from poise.lab.long_lived import OTHER_SERVER
from poise.lab.namespaces import LabError
from poise.lab.network import ServersLab
from poise.lab.short_requests import percentile
from poise.lab.traffic import long_lived, short_requests

# Answers each connection's first request with one name, and all further ones with another.
TWO_FACED = """
import socketserver, sys
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        name = b"first"
        while self.rfile.readline() and all(iter(lambda: self.rfile.readline().strip(), b"")):
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(name), name))
            name = b"second"
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
server = Server(("0.0.0.0", 8080), Answer)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture
def lab() -> Iterator[ServersLab]:
    """One client, two servers."""
    with ServersLab(2, clients=1) as built:
        yield built


@pytest.mark.root
def test_connections_to_a_healthy_server_do_not_break(lab: ServersLab) -> None:
    """Each connection asks once an interval, and nothing is counted as broken that works."""
    server = lab.servers[0]
    traffic = long_lived(lab.clients[0], server.address, server.port, connections=200, interval=0.2)
    traffic.wait_until(lambda counts: counts.answers >= 2000, 10)
    counts = traffic.finish()
    assert (counts.opened, counts.not_opened, counts.broken) == (200, 0, 0)
    assert counts.servers == {"web1": 200}
    assert lab.clients[0].counters()["TcpActiveOpens"] == 200


@pytest.mark.root
def test_connections_of_a_killed_server_are_broken_and_those_of_another_are_not(lab: ServersLab) -> None:
    """A crash breaks exactly the connections of the crashed server, each of them counted once."""
    killed, kept = (
        long_lived(lab.clients[0], server.address, server.port, connections=100, interval=0.2)
        for server in lab.servers
    )
    for traffic in (killed, kept):
        traffic.wait_until(lambda counts: counts.opened == 100, 10)
    lab.servers[0].kill()
    killed.wait_until(lambda counts: counts.broken == 100, 10)
    counts = killed.finish()
    assert counts.broken == 100
    assert sum(counts.reasons.values()) == 100
    assert set(counts.reasons) <= {"closed", "reset"}
    assert kept.finish().broken == 0


@pytest.mark.root
def test_an_answer_from_another_server_breaks_a_connection(lab: ServersLab) -> None:
    """A connection knows its server by its first answer, and any other name afterwards counts as broken."""
    server = lab.servers[0]
    process = server.namespace.popen(["python3", "-uc", TWO_FACED], stdout=-1)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "ready\n"
    traffic = long_lived(lab.clients[0], server.address, 8080, connections=10, interval=0.2)
    traffic.wait_until(lambda counts: counts.broken == 10, 10)
    counts = traffic.finish()
    assert counts.opened == 10
    assert counts.reasons == {OTHER_SERVER: 10}
    assert counts.servers == {"first": 0}


@pytest.mark.root
def test_silence_breaks_a_connection(lab: ServersLab) -> None:
    """An answer that does not come in time counts as broken, also when the end of the run is awaited."""
    server = lab.servers[0]
    traffic = long_lived(lab.clients[0], server.address, server.port, connections=50, interval=0.2, timeout=1)
    traffic.wait_until(lambda counts: counts.opened == 50, 10)
    with drop_all(lab.clients[0], f"ip saddr {server.address}"):
        traffic.wait_until(lambda counts: counts.broken > 0, 5)
        counts = traffic.finish()
    assert counts.reasons == {"timed out": 50}
    assert counts.broken == 50


@pytest.mark.root
def test_a_connection_that_never_opened_is_not_broken(lab: ServersLab) -> None:
    """Refused connections are told apart from broken ones."""
    traffic = long_lived(lab.clients[0], lab.servers[0].address, 81, connections=20)
    traffic.wait_until(lambda counts: counts.not_opened == 20, 10)
    counts = traffic.finish()
    assert (counts.opened, counts.broken) == (0, 0)
    assert counts.reasons == {"refused": 20}


@pytest.mark.root
def test_short_requests_are_served_at_the_rate_that_was_asked_for(lab: ServersLab) -> None:
    """Every request is a new connection, and each is counted as served or failed."""
    server = lab.servers[0]
    traffic = short_requests(lab.clients[0], server.address, server.port, rate=200)
    traffic.wait_until(lambda counts: counts.served >= 300, 10)
    counts = traffic.finish()
    assert counts.failed == 0
    assert counts.servers == {"web1": counts.served}
    assert 0 < counts.p50_ms <= counts.p99_ms <= counts.max_ms < 5000
    assert lab.clients[0].counters()["TcpActiveOpens"] == counts.served


@pytest.mark.root
def test_short_requests_to_a_killed_server_fail(lab: ServersLab) -> None:
    """A refused request is a failed one, and the stream goes on."""
    server = lab.servers[0]
    server.kill()
    traffic = short_requests(lab.clients[0], server.address, server.port, rate=100)
    traffic.wait_until(lambda counts: counts.failed >= 100, 10)
    server.start()
    traffic.wait_until(lambda counts: counts.served >= 20, 10)
    counts = traffic.finish()
    assert counts.reasons == {"refused": counts.failed}


@pytest.mark.root
def test_short_requests_without_an_answer_time_out(lab: ServersLab) -> None:
    """A request whose answer is lost is counted as failed once its time is over."""
    server = lab.servers[0]
    with drop_all(lab.clients[0], f"ip saddr {server.address}"):
        traffic = short_requests(lab.clients[0], server.address, server.port, rate=50, timeout=0.5)
        traffic.wait_until(lambda counts: counts.failed >= 10, 10)
        counts = traffic.finish()
    assert counts.served == 0
    assert counts.reasons == {"timed out": counts.failed}


@pytest.mark.root
def test_a_traffic_program_that_fails_is_told(lab: ServersLab) -> None:
    """Waiting for a program that has died ends at once, with what it said."""
    traffic = short_requests(lab.clients[0], lab.servers[0].address, 80, rate=float("nan"))
    with pytest.raises(LabError, match="ValueError"):
        traffic.wait_until(lambda counts: counts.served > 0, 10)


@pytest.mark.root
def test_unfinished_traffic_ends_with_its_lab() -> None:
    """A lab that is left while traffic flows ends the traffic too."""
    with ServersLab(1, clients=1) as lab:
        server = lab.servers[0]
        traffic = short_requests(lab.clients[0], server.address, server.port, rate=100)
        traffic.wait_until(lambda counts: counts.served > 0, 10)
    with pytest.raises(LabError, match="did not finish"):
        traffic.finish()


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.99, 0.0),
        ([7.0], 0.5, 7.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([float(value) for value in range(1, 101)], 0.99, 99.0),
        ([float(value) for value in range(1, 101)], 1.0, 100.0),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    """A percentile is a value that was measured, never one between two."""
    assert percentile(values, share) == expected
