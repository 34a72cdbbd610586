# SPDX-License-Identifier: Apache-2.0
"""Read poise.yaml and the files that it includes, or say everything that is wrong with them."""

import gc
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from poise.config import cross, files, secret_files
from poise.config.files import ConfigError, Mistake
from poise.config.model import Config
from poise.config.parts import Source
from poise.config.source import take_apart
from poise.config.yaml_lines import Finding

_NO_VIP: Final = "there is no VIP, neither in this file nor in that directory: write at least one"
_TOO_LARGE: Final = "the files are larger than 64 MiB together, up to this one: write less"

__all__ = ["ConfigError", "Loader", "Mistake", "load"]


def load(path: Path) -> Config:
    """The configuration in a file and those that it includes.

    Raises ConfigError with every mistake, unless the YAML of a file is broken: that hides what comes after.
    """
    return Loader(path).load()


class Loader:
    """Loads a configuration again and again: only files whose content has changed are taken apart anew.

    VIPs and pools of other files stay the very same objects.
    """

    def __init__(self, path: Path) -> None:
        """path: of the configuration; nothing is read yet."""
        self.path = path
        self.digest = ""
        """Of the contents of all files, as 16 hexadecimal digits; empty before the first load."""
        self._sources: dict[Path, Source] = {}
        self._census = cross.Census()

    def load(self) -> Config:
        """The configuration as it is written now; ConfigError with every mistake."""
        mistakes: list[Mistake] = []
        with _without_collection():
            sources = self._read(mistakes)
        whole = sources[self.path]
        found = list(cross.contradictions(list(sources.values()), self._census))
        found += secret_files.exposed(sources.values())
        if whole.include is not None and not mistakes and not any(source.vips for source in sources.values()):
            found.append((whole, Finding(("include",), _NO_VIP)))
        if found or mistakes or not all(source.is_clean for source in sources.values()):
            raise ConfigError([*_told(list(sources.values()), found), *mistakes])
        self.digest = _digest(sources.values())
        return _together(list(sources.values()))

    def _read(self, mistakes: list[Mistake]) -> dict[Path, Source]:
        """All files, the configuration first; those that cannot be read are mistakes."""
        whole = self._source(self.path, files.read(self.path), is_included=False)
        sources = {self.path: whole}
        size = len(whole.content)
        try:
            paths = [] if whole.include is None else files.included(self.path.parent / whole.include)
        except ConfigError as error:
            mistakes += error.mistakes
            paths = []
        for path in paths:
            try:
                content = files.read(path)
                size += len(content)
                if size > files.MAXIMUM_BYTES_TOGETHER:
                    mistakes += files.unusable(path, _TOO_LARGE).mistakes
                    break
                sources[path] = self._source(path, content, is_included=True)
            except ConfigError as error:
                mistakes += error.mistakes
        self._sources = sources
        return sources

    def _source(self, path: Path, content: bytes, *, is_included: bool) -> Source:
        before = self._sources.get(path)
        if before is not None and before.content == content:
            return before
        return take_apart(path, content, is_included=is_included)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Leave cyclic garbage: looking for it among 256,000 new servers takes as long as reading them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _told(sources: list[Source], found: list[tuple[Source, Finding]]) -> Iterator[Mistake]:
    """What is wrong, in the order of the files; values that a fault has spoilt are wrong only once."""
    for source in sources:
        spoilt = {fault.location for fault in source.document.faults if fault.location is not None}
        mistakes = [Mistake(source.name, fault.line, fault.message) for fault in source.document.faults]
        mistakes += [
            Mistake(source.name, source.line(location, at_key=at_key), message)
            for location, message, at_key in (
                *source.findings,
                *(finding for other, finding in found if other is source),
            )
            if not any(location[:length] in spoilt for length in range(len(location) + 1))
        ]
        yield from sorted(mistakes, key=lambda mistake: mistake.line or 0)


def _together(sources: list[Source]) -> Config:
    """The configuration that files without mistakes are."""
    models = (pool.model for source in sources for pool in source.pools)
    pools = {pool.name: pool for pool in models if pool is not None}
    resolved = (vip.resolved(pools.get(str(vip.pool))) for source in sources for vip in source.vips)
    vips = [vip for vip in resolved if vip is not None]
    settings = sources[0].settings
    if not isinstance(settings, Config):
        raise TypeError("a configuration that has mistakes")
    return settings.model_copy(update={"vips": vips, "pools": list(pools.values())})


def _digest(sources: Iterable[Source]) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for source in sources:
        whole.update(source.digest)
    return whole.hexdigest()
