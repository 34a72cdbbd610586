# SPDX-License-Identifier: Apache-2.0
import socket as sockets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poise.api.client import Client
from poise.errors import PoiseError


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
