# SPDX-License-Identifier: Apache-2.0
"""How numbers, names and times are put into words."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

_NAMED: Final = 10  # of a list; nobody reads five hundred names in a sentence


def count(number: int, what: str) -> str:
    """Write "1 server" or "2 servers"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def listed(names: Sequence[str]) -> str:
    """Write the first names of a list, and how many more there are."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def local_time(seconds: float | None) -> str | None:
    """Write seconds since 1970 as a time of the machine's zone."""
    if seconds is None:
        return None
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def percent(fraction: float | None) -> str | None:
    """Write a fraction of 0 to 1."""
    return None if fraction is None else f"{fraction:.1%}"
