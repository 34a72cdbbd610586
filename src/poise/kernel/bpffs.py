# SPDX-License-Identifier: Apache-2.0
"""The BPF file system, where maps and links are pinned so that they outlive a process."""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from poise.errors import PoiseError
from poise.kernel.library import check, library

BPFFS = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h


def _is_bpffs(path: Path) -> bool:
    # os.statvfs() does not tell the type; the first word of struct statfs does.
    buffer = (ctypes.c_long * 32)()
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    return libc.statfs(os.fsencode(path), buffer) == 0 and buffer[0] == _BPF_FS_MAGIC


def make_directory(path: Path) -> bool:
    """Have a directory for pins, mounting /sys/fs/bpf if it is not; return whether it is new.

    PoiseError if the path is not below a BPF file system: its root is not poise's alone.
    """
    if path.is_relative_to(BPFFS) and not _is_bpffs(BPFFS):
        _mount()
    try:
        nearest = next(place for place in (path, *path.parents) if place.exists())
        if path.is_mount() or not _is_bpffs(nearest):
            raise PoiseError(
                f"the pin directory {path} must be a directory below a BPF file system, like {BPFFS}/poise"
            )
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:  # EPERM for a name that no pin may have
        raise PoiseError(f"cannot create the pin directory {path}: {error.strerror}") from None
    return True


def _mount() -> None:
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    if libc.mount(b"bpf", os.fsencode(BPFFS), b"bpf", 0, None):
        reason = os.strerror(ctypes.get_errno())
        raise PoiseError(f"cannot mount the BPF file system on {BPFFS}: {reason}")


def pins_in(directory: Path) -> list[Path]:
    """Return what is pinned in a directory; nothing if there is no such directory."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def is_map(path: Path) -> bool:
    """Whether a map is pinned there, not a link or a program."""
    if not path.is_file():
        return False
    fd = check(f"open what is pinned at {path}", library().bpf_obj_get(os.fsencode(path)))
    try:
        return Path(f"/proc/self/fd/{fd}").readlink() == Path("anon_inode:bpf-map")
    finally:
        os.close(fd)


def remove_pins(directory: Path, names: Iterable[str]) -> None:
    """Remove these pins from a directory, and the directory if that leaves it empty.

    Harmless if they are not there; what is not in a BPF file system is left alone.
    """
    if not _is_bpffs(directory):
        return
    for name in names:
        (directory / name).unlink(missing_ok=True)
    if not pins_in(directory):
        directory.rmdir()
