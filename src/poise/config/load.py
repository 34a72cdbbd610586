# SPDX-License-Identifier: Apache-2.0
"""Read poise.yaml, or say everything that is wrong with it."""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from poise.config import cross, yaml_lines
from poise.config.model import Config, InterfaceConfig, QuicIdsConfig, ServerConfig, VipConfig
from poise.config.wording import Place, Places, findings
from poise.errors import PoiseError

_MAXIMUM_BYTES: Final = 1 << 20  # some 20,000 servers
_PLACES: Final[Places] = {
    "": Place("the configuration", Config),
    "vips": Place("a VIP", VipConfig),
    "servers": Place("a server", ServerConfig),
    "quic_ids": Place("an item of quic_ids", QuicIdsConfig),
    "interfaces": Place("an interface", InterfaceConfig),
}


class Mistake(NamedTuple):
    """A mistake in a configuration; `line` counts from 1 and is None where the whole file is meant."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


class ConfigError(PoiseError):
    """A configuration that cannot be used; `mistakes` has all that is wrong, in the order of the file."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = sorted(mistakes, key=lambda mistake: mistake.line or 0)
        super().__init__("\n".join(map(str, self.mistakes)))


_EMPTY: Final = "the file is empty: write at least `interfaces` and `vips`"
_REASONS: Final = {
    errno.EACCES: "permission denied: run as root, or change the file's mode",
    errno.EISDIR: "this is a directory: give a file",
    errno.ENOENT: "there is no such file",
}


def load(path: Path) -> Config:
    """The configuration in a file.

    Raises ConfigError with every mistake, unless the YAML itself is broken: that hides what comes after.
    """
    document = yaml_lines.read(_read(path))
    mistakes = [Mistake(str(path), fault.line, fault.message) for fault in document.faults]
    if document.data is None:
        raise ConfigError(mistakes) if mistakes else _unusable(path, _EMPTY)
    found = [*cross.too_long(document), *cross.contradictions(document)]
    config = None
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        found += findings(error.errors(), _PLACES)
    spoilt = {fault.location for fault in document.faults}
    mistakes += [
        Mistake(str(path), document.line(location, at_key=at_key), message)
        for location, message, at_key in found
        if not any(location[:length] in spoilt for length in range(len(location) + 1))
    ]
    if config is None or mistakes:
        raise ConfigError(mistakes)
    return config


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise _unusable(path, _REASONS.get(error.errno or 0, f"cannot be read: {error.strerror}")) from error
    except ValueError as error:  # a zero byte in the path
        raise _unusable(path, "a file cannot be called so: check the path") from error
    if len(content) > _MAXIMUM_BYTES:
        raise _unusable(path, "the file is larger than 1 MiB: is it a poise configuration?")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        message = f"byte 0x{byte:02x} is not UTF-8 text: save the file as UTF-8"
        raise ConfigError([Mistake(str(path), line, message)]) from error


def _unusable(path: Path, message: str) -> ConfigError:
    return ConfigError([Mistake(str(path), None, message)])
