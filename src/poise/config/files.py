# SPDX-License-Identifier: Apache-2.0
"""The files of a configuration, and what is said of their mistakes."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from poise.config.values import show
from poise.errors import PoiseError

MAXIMUM_BYTES: Final = 4 << 20  # of a file: some 60,000 servers
MAXIMUM_FILES: Final = 4096
MAXIMUM_BYTES_TOGETHER: Final = 64 << 20  # of all of them: 512 VIPs of 512 servers take some 25 MB
_REASONS: Final = {
    errno.EACCES: "permission denied: run as root, or change the file's mode",
    errno.EISDIR: "this is a directory: give a file",
    errno.ENOENT: "there is no such file",
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
    """A configuration that cannot be used; `mistakes` has all that is wrong, in the order of the files."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = list(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


def read(path: Path) -> bytes:
    """The content of a file; ConfigError if there is none, or too much."""
    try:
        with path.open("rb") as file:
            size = min(os.fstat(file.fileno()).st_size, MAXIMUM_BYTES)  # 0 of a pipe
            content = file.read(size + 1)
            if len(content) > size:
                content += file.read(MAXIMUM_BYTES - size)
    except OSError as error:
        raise unusable(path, _REASONS.get(error.errno or 0, f"cannot be read: {error.strerror}")) from error
    except ValueError as error:  # a zero byte in the path
        raise unusable(path, "a file cannot be called so: check the path") from error
    if len(content) > MAXIMUM_BYTES:
        raise unusable(path, "the file is larger than 4 MiB: is it a poise configuration?")
    return content


def text_of(path: Path, content: bytes) -> str:
    """The content as text; ConfigError where it is none."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        message = f"byte 0x{byte:02x} is not UTF-8 text: save the file as UTF-8"
        raise ConfigError([Mistake(str(path), line, message)]) from error


def unusable(path: Path, message: str) -> ConfigError:
    """What is wrong with a whole file."""
    return ConfigError([Mistake(str(path), None, message)])


def included(directory: Path) -> list[Path]:
    """The files NAME.yaml of a directory, by name; ConfigError where another one seems to be meant, too."""
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))  # noqa: PTH208  # fast
    except (OSError, ValueError) as error:
        reason = "there is no such directory: make it, or leave `include` out"
        if not isinstance(error, FileNotFoundError):
            reason = f"cannot be read as a directory: {getattr(error, 'strerror', error)}"
        raise unusable(directory, reason) from error
    misnamed = [
        Mistake(
            str(directory / name),
            None,
            f"is not read: call it {name.rpartition('.')[0]}.yaml, or move it away",
        )
        for name in names
        if name.lower().endswith((".yml", ".yaml")) and not name.endswith(".yaml")
    ]
    misnamed += [
        Mistake(str(directory), None, f"the file {show(name)} cannot be told in messages: rename it")
        for name in names
        if name.endswith(".yaml") and not name.isprintable()
    ]
    if misnamed:
        raise ConfigError(misnamed)
    files = [directory / name for name in names if name.endswith(".yaml")]
    if len(files) > MAXIMUM_FILES:
        raise unusable(directory, f"{len(files)} files are too many: write at most {MAXIMUM_FILES}")
    return files
