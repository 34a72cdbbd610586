# SPDX-License-Identifier: Apache-2.0
"""Files that outlive a power cut."""

import os
from pathlib import Path

from poise.errors import PoiseError


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file as a whole: it is on the disk when this returns, and the old one until then.

    Makes the directory that it is to be in. Raises PoiseError if it cannot be written.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)  # what a power cut has left may be open to others
        new.touch(mode, exist_ok=False)
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise PoiseError(f"cannot write {path}: {error.strerror}") from None
