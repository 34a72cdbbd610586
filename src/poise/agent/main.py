# SPDX-License-Identifier: Apache-2.0
"""The agent's process: measure, serve, and end on SIGTERM or SIGINT."""

from pathlib import Path


def main(
    listen: str = "127.0.0.1:9110",
    service: str | None = None,
    probe: str | None = None,
    token_file: Path | None = None,
) -> None:
    """Serve GET /load and GET /metrics at `listen` until SIGTERM or SIGINT.

    listen, service: ADDRESS:PORT, of IPv6 [ADDRESS]:PORT. service: whose established connections are counted.
    probe: URL whose answers are timed. token_file: what callers must send as a bearer token. Raises PoiseError.
    """
