# SPDX-License-Identifier: Apache-2.0
"""A server on loopback that answers each connection with the same bytes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def raw_server(answer: bytes | None) -> Iterator[int]:
    """Answer with these bytes and close, or with None keep silent; yields the port."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    if answer is None:
                        kept.append(connection)
                        continue
                    with connection, suppress(OSError):
                        connection.recv(4096)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()
