# SPDX-License-Identifier: Apache-2.0
"""Waiting for what poise does not announce."""

import time
from collections.abc import Callable

_PERIOD = 0.05  # seconds


def wait_until(so: Callable[[], bool], seconds: float) -> None:
    """Return as soon as it is so; an AssertionError after that many seconds."""
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(_PERIOD)
