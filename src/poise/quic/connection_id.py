# SPDX-License-Identifier: Apache-2.0
"""Server ids in QUIC connection ids, after draft-ietf-quic-load-balancers-21, section 5.

A connection id is one byte with the codepoint of its configuration, then the server id and a nonce. Without
a key these two stand as they are; with one they are encrypted, if they have 16 bytes together as one block of
AES-128, else by a Feistel network of four rounds, each of which encrypts a block made from one half.
"""

import os
from collections.abc import Iterable

from poise.errors import PoiseError
from poise.servers.model import QuicIds

LONGEST = 20  # bytes of a connection id in QUIC 1 and 2: RFC 9000, section 17.2
UNROUTABLE = 0b111  # the codepoint of a server without configuration
BLOCK = 16  # bytes
KEY = 16


class QuicIdError(PoiseError):
    """A configuration, server id or nonce that makes no connection id."""


def check(ids: QuicIds) -> None:
    """Raise QuicIdError for a configuration that the draft does not allow."""
    total = ids.server_id_length + ids.nonce_length
    if not 0 <= ids.config < UNROUTABLE:
        raise QuicIdError(f"the codepoint of a QUIC id configuration must be 0 to 6, not {ids.config}")
    if ids.server_id_length < 1 or ids.nonce_length < 4 or total >= LONGEST:
        raise QuicIdError(
            "a QUIC connection id needs a server id of 1 byte or more and a nonce of 4 bytes or more, "
            f"at most 19 together, not {ids.server_id_length} and {ids.nonce_length}"
        )
    if ids.key is not None and len(ids.key) != KEY:
        raise QuicIdError(f"the key of a QUIC id configuration must have 16 bytes, not {len(ids.key)}")


def length(ids: QuicIds) -> int:
    """Return how many bytes the connection ids of a configuration have."""
    return 1 + ids.server_id_length + ids.nonce_length


def encode(ids: QuicIds, server_id: int, nonce: bytes) -> bytes:
    """Return the connection id; its first byte tells the length, as the draft allows a server to.

    Under one configuration and server id a nonce must not be used twice. Without a key it must look random.
    Raises QuicIdError if the server id or the nonce does not fit.
    """
    check(ids)
    if not 0 <= server_id < 1 << 8 * ids.server_id_length:
        raise QuicIdError(f"the server id {server_id} does not fit {ids.server_id_length} bytes")
    if len(nonce) != ids.nonce_length:
        raise QuicIdError(f"the nonce must have {ids.nonce_length} bytes, not {len(nonce)}")
    plain = server_id.to_bytes(ids.server_id_length, "big") + nonce
    return bytes([ids.config << 5 | len(plain)]) + _encrypt(ids.key, plain)


def decode(ids: QuicIds, connection_id: bytes) -> tuple[int, bytes] | None:
    """Return server id and nonce; None for an id of another configuration, or one that is too short.

    Of the first byte only the codepoint counts; a server may append bytes of its own.
    """
    check(ids)
    if len(connection_id) < length(ids) or connection_id[0] >> 5 != ids.config:
        return None
    plain = _decrypt(ids.key, connection_id[1 : length(ids)])
    return int.from_bytes(plain[: ids.server_id_length], "big"), plain[ids.server_id_length :]


def server_of(configurations: Iterable[QuicIds], connection_id: bytes) -> int | None:
    """Return the server id that a connection id names under one of these configurations, else None."""
    for ids in configurations:
        decoded = decode(ids, connection_id)
        if decoded:
            return decoded[0]
    return None


def unroutable(total: int) -> bytes:
    """Return a connection id of `total` bytes, 1 to 20, that names no server: section 3.2 of the draft."""
    return bytes([UNROUTABLE << 5 | (total - 1)]) + os.urandom(total - 1)


def _encrypt(key: bytes | None, plain: bytes) -> bytes:
    if key is None:
        return plain
    if len(plain) == BLOCK:
        return _aes(key, plain)
    return _join(*_rounds(key, _split(plain), len(plain), (1, 2, 3, 4)), len(plain))


def _decrypt(key: bytes | None, coded: bytes) -> bytes:
    if key is None:
        return coded
    if len(coded) == BLOCK:
        return _aes(key, coded, decrypt=True)
    return _join(*_rounds(key, _split(coded), len(coded), (4, 3, 2, 1)), len(coded))


def _rounds(
    key: bytes, halves: tuple[bytes, bytes], total: int, numbers: Iterable[int]
) -> tuple[bytes, bytes]:
    """Change one half after the other; odd rounds change the right one, even ones the left one."""
    left, right = halves
    for number in numbers:
        source, target = (left, right) if number % 2 else (right, left)
        block = source.ljust(BLOCK - 2, b"\0") + bytes([total, number])
        changed = bytes(a ^ b for a, b in zip(target, _aes(key, block), strict=False))
        if number % 2:
            right = bytes([changed[0] & 0x0F]) + changed[1:] if total % 2 else changed
        else:
            left = changed[:-1] + bytes([changed[-1] & 0xF0]) if total % 2 else changed
    return left, right


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Cut into halves; of an odd number of bytes, each half gets a nibble of the middle one."""
    half = len(data) // 2
    if len(data) % 2 == 0:
        return data[:half], data[half:]
    middle = data[half]
    return data[:half] + bytes([middle & 0xF0]), bytes([middle & 0x0F]) + data[half + 1 :]


def _join(left: bytes, right: bytes, total: int) -> bytes:
    if total % 2 == 0:
        return left + right
    return left[:-1] + bytes([left[-1] | right[0]]) + right[1:]


def _aes(key: bytes, block: bytes, *, decrypt: bool = False) -> bytes:
    # Only the encrypted algorithms need the library, and the balancer itself not even for these.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415

    # The draft's choice: ECB on single blocks, each of which is used once.
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305
    context = cipher.decryptor() if decrypt else cipher.encryptor()
    return context.update(block) + context.finalize()
