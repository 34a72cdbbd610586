# SPDX-License-Identifier: Apache-2.0
"""What must outlive a reboot: which id is which server's, and the key of the cookie."""

import secrets
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from poise import durable
from poise.errors import PoiseError
from poise.servers.model import Model

KEY_BYTES = 16
_MODEL = TypeAdapter(Model)


def load_model(path: Path) -> Model:
    """Return the model that was saved there, or an empty one; PoiseError if the file is damaged."""
    try:
        return _MODEL.validate_json(path.read_bytes())
    except FileNotFoundError:
        return Model()
    except (OSError, ValidationError) as error:
        raise PoiseError(
            f"cannot read the server ids in {path} ({_first_line(error)}): restore it from a backup, or "
            "delete it, which breaks the connections that are open"
        ) from None


def save_model(path: Path, model: Model) -> None:
    """Save the model, so that a power cut leaves the old file or the new one."""
    durable.write(path, _MODEL.dump_json(model, indent=1))


def load_key(path: Path) -> bytes:
    """Return the 16-byte key of the cookie, made at first use; PoiseError if others may read the file."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text().strip()
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_BYTES)
        durable.write(path, key.hex().encode() + b"\n", 0o600)
        return key
    except OSError as error:
        raise PoiseError(f"cannot read the cookie key {path}: {error.strerror}") from None
    if mode & 0o077:
        raise PoiseError(f"the cookie key {path} can be read by others (mode {mode:o}): `chmod 600 {path}`")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise PoiseError(f"the cookie key {path} is not {KEY_BYTES} bytes in hexadecimal: restore it")
    return key


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
