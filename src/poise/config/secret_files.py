# SPDX-License-Identifier: Apache-2.0
"""Secrets that poise.yaml only points to: files that others than their owner must not read, and variables."""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from poise.config.care import LoadConfig
from poise.config.parts import Source
from poise.config.yaml_lines import Finding, Location
from poise.errors import PoiseError

_LONGEST_TOKEN: Final = 4096


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


def load_token(load: LoadConfig) -> str | None:
    """The token that is sent along to ask for a load; None if there is none.

    Raises PoiseError if its file or environment variable is not there or cannot be used, or others may read
    the file.
    """
    if load.token_env is not None:
        what = f"the environment variable {load.token_env}"
        token = os.environ.get(load.token_env)
        if token is None:
            raise PoiseError(f"{what} of a token is not set: set it for poise, or write another token_env")
    elif load.token_file is not None:
        what = f"the token file {load.token_file}"
        if sentence := _exposure(str(load.token_file)):
            raise PoiseError(f"the token file {sentence}")
        try:
            with load.token_file.open("rb") as file:
                token = file.read(_LONGEST_TOKEN + 1).decode("ascii").strip()
        except OSError as error:
            raise PoiseError(f"cannot read {what}: {error.strerror}") from None
        except UnicodeDecodeError:
            token = ""
    else:
        return None
    if not 0 < len(token) <= _LONGEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise PoiseError(f"{what} holds no token: write one line of up to {_LONGEST_TOKEN} printed signs")
    return token
