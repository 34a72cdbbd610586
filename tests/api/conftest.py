# SPDX-License-Identifier: Apache-2.0
"""A server of the API for a test, and its parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from poise.api.client import Client
from tests.api.serving import ListFacade, serving


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where the server of a test listens."""
    return tmp_path / "run" / "poise.sock"


@pytest.fixture
def facade() -> ListFacade:
    """What the server of a test serves."""
    return ListFacade()


@pytest.fixture
def client(socket: Path, facade: ListFacade) -> Iterator[Client]:
    """A client of a running server."""
    with serving(socket, facade) as client:
        yield client
