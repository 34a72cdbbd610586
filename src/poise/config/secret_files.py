# SPDX-License-Identifier: Apache-2.0
"""Secrets that poise.yaml only points to: files that others than their owner must not read."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from poise.config.parts import Source
from poise.config.yaml_lines import Finding, Location


def exposed(sources: Iterable[Source]) -> Iterator[tuple[Source, Finding]]:
    """The files with secrets that others may read; one that is not there is for `poise up` to refuse."""
    seen = lru_cache(maxsize=None)(_exposure)
    for source in sources:
        for location, path in source.secrets:
            if sentence := seen(path):
                yield source, Finding(location, sentence)


def secrets_in(data: object) -> list[tuple[Location, str]]:
    """The files with secrets that a configuration names: where, and their paths."""
    found: list[tuple[Location, str]] = []

    def note(mapping: object, location: Location, key: str) -> None:
        path = mapping.get(key) if isinstance(mapping, dict) else None
        if isinstance(path, str) and path.startswith("/") and path.isprintable():
            found.append(((*location, key), path))

    note(data, (), "key_file")
    vips = data.get("vips") if isinstance(data, dict) else None
    for index, vip in enumerate(vips if isinstance(vips, list) else []):
        if not isinstance(vip, dict):
            continue
        note(vip.get("load"), ("vips", index, "load"), "token_file")
        ids = vip.get("quic_ids")
        for number, item in enumerate(ids if isinstance(ids, list) else []):
            note(item, ("vips", index, "quic_ids", number), "key_file")
    return found


def _exposure(path: str) -> str:
    """What is wrong with the mode of a file; nothing if that cannot be told."""
    try:
        mode = Path(path).stat().st_mode & 0o777
    except (OSError, ValueError):
        return ""
    return f"{path} can be read by others (mode {mode:o}): `chmod 600 {path}`" if mode & 0o077 else ""
