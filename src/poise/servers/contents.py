# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables, written by the steps of a plan and read back, in the layouts of the BPF object."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from poise.kernel.maps import Map
from poise.kernel.records import Records, converted
from poise.servers import maglev
from poise.servers.ends import GONE
from poise.servers.rows import Pool, address_row
from poise.servers.tables import RECORDS, Network, Present, Shape, Write

NAMES: Final = (*RECORDS, "pools", "maglevs", "links", "direct", "direct6")
"""The tables that Python fills, by what it knows."""


def shape_of(tables: Mapping[str, Map]) -> Shape:
    """Return how large tables are."""
    rows = (tables[name].max_entries for name in ("vip_addresses", "vips", "origins"))
    return Shape(*rows)


def carry_out(step: Write, tables: Mapping[str, Map]) -> None:
    """Write the values of a step into the kernel's tables."""
    table, keys, values = step
    match table:
        case "links":
            for key, value in zip(keys, values, strict=True):
                _set(tables["links"], key, value)
        case "direct":
            for key, there in zip(keys, values, strict=True):
                _set(*_prefix(tables, key), 1 if there else None)
        case "pools":
            tables[table].write_rows(np.array(keys), _pool_records(values, tables[table]))
        case "maglevs":
            _write_maglevs(keys, values, tables[table])
        case _:
            tables[table].write_rows(np.asarray(keys), np.asarray(values))


def _set(table: Map, key: Any, value: Any) -> None:  # noqa: ANN401  of whatever type the table has them
    if value is None:
        table.delete(key)
    else:
        table.set(key, value)


def _pool_records(pools: Sequence[Pool] | Records, table: Map) -> Records:
    records = np.zeros(len(pools), table.dtype)
    for record, pool in zip(records, pools, strict=True):
        record["size"], record["turns"] = len(pool.ids), len(pool.turns)
        record["ids"][: len(pool.ids)] = pool.ids
        record["weights"][: len(pool.ids)] = pool.weights
        record["schedule"][: len(pool.turns)] = pool.turns
    return records


def _write_maglevs(numbers: Sequence[int] | Records, weights: Sequence[Any] | Records, table: Map) -> None:
    # One by one: each is large, and only a few are at hand at a time.
    for number, of_servers in zip(numbers, weights, strict=True):
        record = np.zeros(1, table.dtype)
        record["ids"][0, : maglev.ROWS] = _maglev_ids(tuple(sorted(of_servers.items())))
        table.write_rows(np.array([number]), record)


@lru_cache(maxsize=32)
def _maglev_ids(weights: tuple[tuple[int, int], ...]) -> NDArray[np.uint16]:
    return np.array(maglev.table(dict(weights)), np.uint16)


def read(tables: Mapping[str, Map]) -> Present:
    """Return what the kernel's tables hold; members that are not in their layouts are zero."""
    present = Present.empty(shape_of(tables))
    for name, dtype in RECORDS.items():
        setattr(present, name, converted(tables[name].rows(), dtype, partly=True))
    for number in present.vips["pool"][present.vips["end"] > GONE].tolist():
        present.pools[number] = _pool(tables["pools"].rows(number, 1))
    present.links = {key: _without_padding(row) for key, row in tables["links"].items()}
    present.direct = {*_prefixes(tables["direct"]), *_prefixes(tables["direct6"])}
    return present


def _pool(records: Records) -> Pool:
    record = records[0]
    ids = tuple(record["ids"][: record["size"]].tolist())
    # What is in use without turns was written by a poise that took the servers themselves in turn.
    turns = record["schedule"][: record["turns"]] if "schedule" in record.dtype.names else record["ids"][:0]
    return Pool(ids, tuple(record["weights"][: len(ids)].tolist()), tuple(turns.tolist()) or ids)


def _prefix(tables: Mapping[str, Map], network: Network) -> tuple[Map, dict[str, Any]]:
    """Return the table that a `direct:` prefix belongs in, and its key there."""
    if network.version == 4:
        return tables["direct"], {"length": network.prefixlen, "address": int(network.network_address)}
    return tables["direct6"], {"length": network.prefixlen, "address": address_row(network.network_address)}


def _prefixes(table: Map) -> Iterator[Network]:
    for prefix, _ in table.items():  # noqa: PERF102  a map, not a dict
        address = prefix["address"]
        if isinstance(address, dict):
            packed = b"".join(word.to_bytes(4, "big") for word in address["word"])
            yield IPv6Network((packed, prefix["length"]))
        else:
            yield IPv4Network((address, prefix["length"]))


def _without_padding(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "zero"}


def contents_of(present: Present) -> Iterable[Write]:
    """Yield writes that bring all of a content into empty tables."""
    for name in RECORDS:
        records: Records = getattr(present, name)
        rows = np.flatnonzero(records.view(np.uint8).reshape(len(records), -1).any(axis=1))
        yield Write(name, rows, records[rows])
    numbers, pools = list(present.pools), list(present.pools.values())
    yield Write("maglevs", numbers, [dict(zip(pool.ids, pool.weights, strict=True)) for pool in pools])
    yield Write("pools", numbers, pools)
    yield Write("links", list(present.links), list(present.links.values()))
    yield Write("direct", list(present.direct), [True] * len(present.direct))
