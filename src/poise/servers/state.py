# SPDX-License-Identifier: Apache-2.0
"""What must outlive a reboot: which id is which server's, and the key of the cookie."""

import secrets
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from poise import durable
from poise.errors import PoiseError
from poise.servers.model import SERVER_IDS, Model

KEY_BYTES = 16
_MODEL = TypeAdapter(Model)


def load_model(path: Path) -> Model:
    """Return the model that was saved there, or an empty one; PoiseError if the file is damaged."""
    try:
        model = _MODEL.validate_json(path.read_bytes())
    except FileNotFoundError:
        return Model()
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    except ValidationError as error:
        raise _unreadable(path, error.errors()[0]["msg"]) from None
    if not _is_consistent(model):
        raise _unreadable(path, "an id is there twice or out of range")
    return model


def _unreadable(path: Path, why: str | None) -> PoiseError:
    return PoiseError(
        f"cannot read the server ids in {path} ({why}): restore it from a backup, or delete it, which breaks "
        "the connections that are open"
    )


def _is_consistent(model: Model) -> bool:
    indices = [vip.index for vip in model.vips]
    ids = [(vip.index, server.id) for vip, server in model.servers()]
    in_range = all(0 <= server_id < SERVER_IDS for _, server_id in ids) and min(indices, default=0) >= 0
    return in_range and len(set(indices)) == len(indices) and len(set(ids)) == len(ids)


def save_model(path: Path, model: Model) -> None:
    """Save the model, so that a power cut leaves the old file or the new one."""
    durable.write(path, _MODEL.dump_json(model, indent=1))


def load_key(path: Path) -> bytes:
    """Return the 16-byte key of the cookie, made at first use; PoiseError if others may read the file."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(errors="replace").strip()
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
