# SPDX-License-Identifier: Apache-2.0
import socket
from collections.abc import Iterator

import pytest

from tests.bpf import icmp
from tests.bpf.balancer import Balancer, Direct
from tests.bpf.changes import Operator
from tests.bpf.network import DIRECT, DIRECT6, Site
from tests.bpf.services import KEY, MODEL, hops


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The network around the balancer."""
    with Site() as site:
        yield site


@pytest.fixture(scope="session")
def loaded(site: Site) -> Iterator[Balancer]:
    """The programs, with their tables still empty."""
    with site.here.enter():
        balancer = Balancer()
    yield balancer
    balancer.close()


@pytest.fixture(scope="module")
def servers_ifindex(site: Site) -> int:
    """The interface towards servers."""
    with site.here.enter():
        return socket.if_nametoindex("eth1")


@pytest.fixture(scope="module")
def balancer(site: Site, loaded: Balancer, servers_ifindex: int) -> Iterator[Balancer]:
    """The balancer of `services.MODEL`; while a module's tests run, this thread lives where it is."""
    direct: Direct = frozenset({DIRECT, DIRECT6})
    with site.here.enter():
        loaded.fill(MODEL, hops(MODEL, servers_ifindex), KEY, direct)
        loaded.start_afresh()
        yield loaded


@pytest.fixture(scope="session")
def icmp_site() -> Iterator[icmp.Site]:
    """The network around the balancer of both IP versions."""
    with icmp.Site() as site:
        yield site


@pytest.fixture(scope="module")
def icmp_loaded(icmp_site: icmp.Site) -> Iterator[Balancer]:
    """The balancer of `icmp.MODEL`; while a module's tests run, this thread lives where it is."""
    with icmp_site.here.enter():
        balancer = Balancer()
        icmp.fill(balancer)
        yield balancer
        balancer.close()


@pytest.fixture
def icmp_balancer(icmp_loaded: Balancer) -> Balancer:
    """The same, with nothing remembered."""
    icmp_loaded.start_afresh()
    return icmp_loaded


@pytest.fixture
def operator(balancer: Balancer, servers_ifindex: int) -> Iterator[Operator]:
    """Somebody who changes the model, which is put back at the end."""
    operator = Operator(balancer, servers_ifindex)
    yield operator
    operator.finish()
    operator.lose()
    operator.link({})
    operator.change(MODEL)
