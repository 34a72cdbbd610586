# SPDX-License-Identifier: Apache-2.0
"""Tell systemd how the process does: the protocol of sd_notify(3), for units with Type=notify."""

import os
import socket as sockets
from contextlib import suppress


def notify(*assignments: str) -> None:
    """Send assignments like READY=1 to the manager of services; without one that listens, do nothing."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    # A manager that went away must not end what it managed.
    with suppress(OSError), sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as socket:
        socket.sendto("\n".join(assignments).encode(), address)
