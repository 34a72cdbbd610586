# SPDX-License-Identifier: Apache-2.0
"""Secrets: the key of the cookie, which must outlive a reboot, and those that poise.yaml names files of."""

import os
import secrets
from pathlib import Path

from poise import durable
from poise.errors import PoiseError

KEY_BYTES = 16
_LONGEST_TOKEN = 4096


def own_key(path: Path) -> bytes:
    """Return the 16-byte key in a file that is made at first use; see `load_key`."""
    if not path.exists():
        key = secrets.token_bytes(KEY_BYTES)
        durable.write(path, key.hex().encode() + b"\n", 0o600)
        return key
    return load_key(path)


def load_key(path: Path) -> bytes:
    """Return the 16-byte key of the cookie; PoiseError if there is none or others may read the file."""
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
            content = file.read(_LONGEST_TOKEN + 1)
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


def load_token(path: Path) -> str:
    """Return the token in a `token_file` of poise.yaml; PoiseError if there is none or others may read it."""
    content = _read_secret(path, "the token")
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token.isprintable() or not token or len(content) > _LONGEST_TOKEN:
        raise PoiseError(f"the token {path} is not one line of at most {_LONGEST_TOKEN} letters: write it so")
    return token
