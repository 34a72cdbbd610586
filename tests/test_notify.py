# SPDX-License-Identifier: Apache-2.0
import socket as sockets
from pathlib import Path

import pytest

from poise.notify import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:  # noqa: FBT001  # a case
    """The manager of services gets one datagram with a line for each assignment."""
    path = f"@{tmp_path}/notify" if abstract else f"{tmp_path}/notify"
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0"))
        manager.settimeout(5)
        notify("READY=1", "STATUS=2 VIPs, 4 servers")
        assert manager.recv(4096) == b"READY=1\nSTATUS=2 VIPs, 4 servers"


@pytest.mark.parametrize("path", [None, "", "vsock:2:1234", "/absent/notify"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    """Where nobody wants to know, nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if path is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify("READY=1")
