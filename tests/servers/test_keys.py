# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.servers import keys


def test_a_key_is_made_once_and_for_root_alone(tmp_path: Path) -> None:
    """The key is random, stays the same, and nobody else can read it, whatever the umask."""
    before = os.umask(0)
    try:
        made = [keys.own_key(tmp_path / name) for name in ("a", "a", "b")]
    finally:
        os.umask(before)
    assert made[0] == made[1] != made[2]
    assert {len(key) for key in made} == {16}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_key_that_the_operator_named_is_not_made(tmp_path: Path) -> None:
    """A key that others are to share is not replaced by a new one where its path is wrong."""
    path = tmp_path / "shared.key"
    with pytest.raises(PoiseError, match=rf"^cannot read the cookie key {path}: No such file or directory$"):
        keys.load_key(path)
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Who knows the key can choose the server of a connection: a file that others can read is no key."""
    path = tmp_path / "cookie.key"
    keys.own_key(path)
    path.chmod(mode)
    with pytest.raises(
        PoiseError, match=rf"^the cookie key {path} can be read by others .*`chmod 600 {path}`$"
    ):
        keys.own_key(path)


@pytest.mark.parametrize("content", [b"", b"00", b"\xff" * 32, b"xy" * 16])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """A key that is no key is told, not made anew: another key would break every connection."""
    path = tmp_path / "cookie.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(
        PoiseError, match=rf"^the cookie key {path} is not 16 bytes in hexadecimal: restore it$"
    ):
        keys.own_key(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [bytes(range(16)), bytes(range(16)).hex().encode() + b"\n"])
def test_a_key_of_connection_ids_is_bytes_or_digits(tmp_path: Path, content: bytes) -> None:
    """A key file holds the 16 bytes themselves, or 32 hexadecimal digits."""
    path = tmp_path / "quic.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert keys.load_quic_key(path) == bytes(range(16))


@pytest.mark.parametrize(
    ("content", "mode", "mistake"),
    [
        (b"", 0o600, "is neither 16 bytes nor 32 hexadecimal digits"),
        (bytes(17), 0o600, "is neither 16 bytes nor 32 hexadecimal digits"),
        (b"0" * 31, 0o600, "is neither 16 bytes nor 32 hexadecimal digits"),
        (bytes(16), 0o640, "can be read by others"),
        (bytes(16), 0o604, "can be read by others"),
        (None, 0o600, "No such file"),
    ],
)
def test_a_key_of_connection_ids_that_is_none_is_refused(
    tmp_path: Path, content: bytes | None, mode: int, mistake: str
) -> None:
    """A key file that is missing, damaged or open to others is told, and none is made in its place."""
    path = tmp_path / "quic.key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(PoiseError, match=rf"{path}.*{mistake}"):
        keys.load_quic_key(path)
    assert path.exists() == (content is not None)
