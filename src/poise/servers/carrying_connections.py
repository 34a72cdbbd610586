# SPDX-License-Identifier: Apache-2.0
"""The connections of stateful VIPs, carried into a table of another size or layout: see connections.h."""

import numpy as np

from poise.kernel.maps import Map
from poise.kernel.records import Records, converted


def fill(rows: Records, fresh: Map, vips: Records) -> None:
    """Write all connections into a table that no program uses yet."""
    if len(rows) == fresh.max_entries:
        fresh.write_rows(np.arange(len(rows)), converted(rows, fresh.dtype, partly=True))


def follow(rows: Records, before: Records | None, fresh: Map, vips: Records) -> None:
    """Enter what is new in the former table, and note there what ended."""
