# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP server: GET /load and GET /metrics."""

import hmac
import json
import socket
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore
from typing import Any, Final

_AT_ONCE: Final = 64  # connections
_PATIENCE: Final = 5.0  # seconds, with a client that is slow or silent

Load = Mapping[str, float | None]
"""cpu, run_queue, in_flight, latency_ms: None of what is not measured."""

_HELP: Final = {
    "cpu": "Which part of the processors was busy in the last second, 0 to 1.",
    "run_queue": "Tasks that ran or waited for a processor in the last second, for each processor.",
    "in_flight": "Established connections of the service.",
    "latency_ms": "Milliseconds in which the service answers the probe, median of the last five.",
}


class Server(ThreadingHTTPServer):
    """Answers each connection in a thread of its own, of which there are few."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], family: int, load: Callable[[], Load], token: str | None
    ) -> None:
        """Listen; raises OSError. load: what to tell. token: what callers must send, if anything."""
        self.address_family = family
        self.load, self.token = load, token
        self._slots = BoundedSemaphore(_AT_ONCE)
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - socketserver's types
        """Begin to answer, or close at once if too many are being answered."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """A client that goes away is no error."""


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "poise-agent", ""
    timeout = _PATIENCE

    def setup(self) -> None:
        """Have the head and the body of an answer leave together."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        """Answer a GET."""
        path = self.path.partition("?")[0]
        if self.server.token is not None and not self._is_known():
            self._answer(401, "text/plain", "a bearer token is needed: Authorization: Bearer TOKEN\n")
        elif path == "/load":
            self._answer(
                200, "application/json", json.dumps({**self.server.load(), "at": time.time()}) + "\n"
            )
        elif path == "/metrics":
            self._answer(200, "text/plain; version=0.0.4", metrics(self.server.load()))
        else:
            self._answer(404, "text/plain", f"there is nothing at {path}: ask for /load or /metrics\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: balancers ask each second."""

    def _is_known(self) -> bool:
        wanted = f"Bearer {self.server.token}".encode()
        return hmac.compare_digest(self.headers.get("Authorization", "").encode(), wanted)

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)


def metrics(load: Load) -> str:
    """Return a load in Prometheus' text format."""
    lines = []
    for name, value in load.items():
        if value is not None:
            lines += [f"# HELP poise_agent_{name} {_HELP[name]}", f"# TYPE poise_agent_{name} gauge"]
            lines.append(f"poise_agent_{name} {value:g}")
    return "".join(f"{line}\n" for line in lines)
