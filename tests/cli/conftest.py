# SPDX-License-Identifier: Apache-2.0
"""A running API for the commands."""

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.api.serving import ListFacade, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListFacade]:
    """A running API with its socket in POISE_SOCKET, and 50 servers."""
    socket = tmp_path_factory.mktemp("cli") / "poise.sock"
    facade = ListFacade()
    for number in range(1, 51):
        facade.add("web", f"web{number}", IPv4Address(f"10.0.0.{number}"), 8080)
    with serving(socket, facade), pytest.MonkeyPatch.context() as patch:
        patch.setenv("POISE_SOCKET", str(socket))
        yield facade
