# SPDX-License-Identifier: Apache-2.0
"""How long the service takes to answer: one request a second, and the median of the last few."""

import http.client
import ssl
import threading
import time
from collections import deque
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from poise.errors import PoiseError

_INTERVAL: Final = 1.0  # seconds
_TIMEOUT: Final = 1.0
_KEPT: Final = 5


class Probe:
    """Times a GET of a URL; of HTTPS without a look at the certificate, as it goes to this machine."""

    def __init__(self, url: str) -> None:
        """Raises PoiseError if it is no URL of HTTP or HTTPS."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
            raise PoiseError(f"--probe {url} is not a URL: write http://ADDRESS:PORT/PATH")
        self._tls, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._times: deque[float] = deque(maxlen=_KEPT)

    def run(self, stop: threading.Event) -> None:
        """Ask each second until told to stop."""
        while not stop.wait(_INTERVAL):
            self.ask()

    def ask(self) -> None:
        """Ask once; what fails says nothing of the latency, and so do answers from before it."""
        begun = time.monotonic()
        try:
            self._get()
        except (OSError, http.client.HTTPException):
            self._times.clear()
            return
        self._times.append((time.monotonic() - begun) * 1000)

    @property
    def latency(self) -> float | None:
        """The latency in milliseconds; None while nothing answers."""
        times = list(self._times)
        return median(times) if times else None

    def _get(self) -> None:
        if self._tls:
            context = ssl._create_unverified_context()  # noqa: S323, SLF001 - the public way to do without
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_TIMEOUT, context=context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT)
        try:
            connection.request("GET", self._target)
            response = connection.getresponse()
            response.read(1)
            if response.status >= 500:
                raise http.client.HTTPException(response.status)
        finally:
            connection.close()
