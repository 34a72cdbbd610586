# SPDX-License-Identifier: Apache-2.0
"""Plans taken apart, so that tests can look at the tables, or fail, between any two rows."""

from collections.abc import Iterable, Iterator

from poise.servers.tables import Write


def singles(steps: Iterable[Write]) -> Iterator[Write]:
    """The same writes, each of a single key."""
    for table, keys, values in steps:
        for at in range(len(keys)):
            yield Write(table, keys[at : at + 1], values[at : at + 1])
