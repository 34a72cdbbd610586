# SPDX-License-Identifier: Apache-2.0
"""How a traffic program talks to the lab: JSON lines on its stdout; the end of its stdin means stop."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable

PERIOD = 0.25  # seconds between two progress lines


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line that all traffic programs share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds after which an answer is missed")
    return parser


async def report_until_told_to_stop(snapshot: Callable[[], object]) -> None:
    """Print a progress line each PERIOD until stdin ends."""
    stop = asyncio.Event()

    def readable() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            stop.set()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), readable)
    while not stop.is_set():
        tell(snapshot())
        try:
            await asyncio.wait_for(stop.wait(), PERIOD)
        except TimeoutError:
            continue


def tell(snapshot: object, *, final: bool = False) -> None:
    """Print the attributes of `snapshot` as one line; `final` if no other follows."""
    sys.stdout.write(json.dumps({"final": final, "counts": vars(snapshot)}) + "\n")
    sys.stdout.flush()
