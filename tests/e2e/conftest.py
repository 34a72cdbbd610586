# SPDX-License-Identifier: Apache-2.0
"""A real network for the end-to-end tests: clients, a balancer and nginx servers in network namespaces."""

from collections.abc import Iterator

import pytest

from poise.lab.balancer import Balancer
from poise.lab.network import ServersLab


@pytest.fixture
def lab() -> Iterator[ServersLab]:
    """Two clients and three servers, web1 to web3; no poise runs yet."""
    with ServersLab(3) as built:
        yield built


@pytest.fixture
def balancer(lab: ServersLab) -> Balancer:
    """A running `poise up` before all servers of `lab`."""
    return lab.start_balancer()
