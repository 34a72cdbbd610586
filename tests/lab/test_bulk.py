# SPDX-License-Identifier: Apache-2.0
import threading
from ipaddress import IPv4Address

import pytest

from poise.lab.bulk import download, upload
from poise.lab.namespaces import LabError
from poise.lab.network import ServersLab

pytestmark = pytest.mark.root

SIZE = 10_000_000


def test_transfers_are_whole_and_name_their_server() -> None:
    """Goodput counts the octets of the body, and says who served or took them."""
    with ServersLab(2, clients=1, files={"some": SIZE}) as lab:
        server = lab.servers[1]
        fetched = download(lab.clients[0], server.address, server.port, "some")
        assert (fetched.octets, fetched.server) == (SIZE, "web2")
        assert fetched.mbit_per_s == pytest.approx(SIZE * 8 / fetched.seconds / 1e6)
        sent = upload(lab.clients[0], server.address, server.port, SIZE)
        assert sent.server == "web2"
        stored = lab.directory / "web2" / "uploads" / "file"
        assert stored.stat().st_size == sent.octets == pytest.approx(SIZE, rel=0.02)


def test_a_transfer_that_breaks_is_an_error() -> None:
    """A server that dies in the middle of a download does not pass for a short download."""
    with ServersLab(1, clients=1, files={"large": 2_000_000_000}) as lab:
        (server,) = lab.servers
        killing = threading.Timer(0.2, server.kill)
        killing.start()
        with pytest.raises(LabError, match=r"download of large from .* (broke|ended after)"):
            download(lab.clients[0], server.address, server.port, "large")
        killing.join()


def test_an_unreachable_server_is_an_error() -> None:
    """A refused connection is told in one sentence."""
    with ServersLab(1, clients=1) as lab, pytest.raises(LabError, match=r"cannot connect to 10\.2\.0\.11:81"):
        download(lab.clients[0], IPv4Address("10.2.0.11"), 81, "none")
