# SPDX-License-Identifier: Apache-2.0
"""What must outlive a reboot: which id is which server's, and the key of the cookie; and keys of others."""

import os
import secrets
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from poise import durable
from poise.errors import PoiseError
from poise.servers.model import SERVER_IDS, Model

KEY_BYTES = 16
_LONGEST_KEY = 256  # far more than any key takes
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
    """Save the model without its keys, so that a power cut leaves the old file or the new one."""
    # How connection ids are made is poise.yaml's alone to say, and their keys are not for everyone to read.
    vips = tuple(replace(vip, quic_ids=()) for vip in model.vips)
    durable.write(path, _MODEL.dump_json(Model(vips), indent=1))


def load_key(path: Path) -> bytes:
    """Return the 16-byte key of the cookie, made at first use; PoiseError if others may read the file."""
    if not path.exists():
        key = secrets.token_bytes(KEY_BYTES)
        durable.write(path, key.hex().encode() + b"\n", 0o600)
        return key
    content = _read_secret(path, "the cookie key")
    found = _from_hexadecimal(content)
    if found is None:
        raise PoiseError(f"the cookie key {path} is not {KEY_BYTES} bytes in hexadecimal: restore it")
    return found


def load_quic_key(path: Path) -> bytes:
    """Return the key in a `key_file` of poise.yaml, as 16 bytes or 32 hexadecimal digits.

    Raises PoiseError if the file is not there, holds something else, or may be read by others.
    """
    content = _read_secret(path, "the key of QUIC connection ids")
    key = content if len(content) == KEY_BYTES else _from_hexadecimal(content)
    if key is None:
        raise PoiseError(
            f"the key of QUIC connection ids {path} is neither {KEY_BYTES} bytes "
            f"nor {2 * KEY_BYTES} hexadecimal digits: write it so"
        )
    return key


def _read_secret(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            content = file.read(_LONGEST_KEY)
    except OSError as error:
        raise PoiseError(f"cannot read {what} {path}: {error.strerror}") from None
    if mode & 0o077:
        raise PoiseError(f"{what} {path} can be read by others (mode {mode:o}): `chmod 600 {path}`")
    return content


def _from_hexadecimal(content: bytes) -> bytes | None:
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None
