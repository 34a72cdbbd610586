# SPDX-License-Identifier: Apache-2.0
"""The cookie in Python: the reference for bpf/poise/cookie.h, and the part of it that the tables hold.

cookie = (server id XOR SipHash-1-3(VIP's end, client's address and port)) mod 2^9, in the low bits
of the server's TCP timestamps, below a mark that is 0 on a SYN-ACK and 1 on everything later.
"""

from poise.servers.model import Address

_MASK = (1 << 64) - 1
_CONSTANTS = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)

COOKIE_MASK = 0x1FF
COOKIE_MARK = 0x200
COOKIE_BITS = COOKIE_MASK | COOKIE_MARK

State = tuple[int, int, int, int]


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _first_half(state: State) -> State:
    v0, v1, v2, v3 = state
    v0 = (v0 + v1) & _MASK
    v1 = _rotate(v1, 13) ^ v0
    return _rotate(v0, 32), v1, v2, v3


def _second_half(state: State) -> State:
    v0, v1, v2, v3 = state
    v2 = (v2 + v3) & _MASK
    v3 = _rotate(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotate(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotate(v1, 17) ^ v2
    v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


def _round(state: State) -> State:
    return _second_half(_first_half(state))


def initial_state(key: bytes) -> State:
    """Return SipHash's state for a 16-byte key, before any of the message."""
    k0, k1 = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    c0, c1, c2, c3 = _CONSTANTS
    return k0 ^ c0, k1 ^ c1, k0 ^ c2, k1 ^ c3


def absorb(state: State, block: int, rounds: int = 1) -> State:
    """Return the state after the next 8 bytes of the message, given as a little-endian number."""
    v0, v1, v2, v3 = state
    state = (v0, v1, v2, v3 ^ block)
    for _ in range(rounds):
        state = _round(state)
    v0, v1, v2, v3 = state
    return v0 ^ block, v1, v2, v3


def siphash(key: bytes, message: bytes, compression: int = 1, finalisation: int = 3) -> int:
    """Return SipHash of a message as a 64-bit number; SipHash-1-3 unless other rounds are given.

    Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012.
    """
    state = initial_state(key)
    whole = len(message) // 8 * 8
    for at in range(0, whole, 8):
        state = absorb(state, int.from_bytes(message[at : at + 8], "little"), compression)
    last = int.from_bytes(message[whole:], "little") | (len(message) & 0xFF) << 56
    v0, v1, v2, v3 = absorb(state, last, compression)
    return _finished((v0, v1, v2 ^ 0xFF, v3), finalisation)


def _finished(state: State, rounds: int) -> int:
    for _ in range(rounds):
        state = _round(state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def vip_state(key: bytes, vip: bytes) -> State:
    """Return what is the same for all connections of a VIP, and so is worked out once: see siphash.h.

    The state after the VIP's bytes, and after that half of the next round which does not depend on
    the client. vip as `end_bytes` gives it.
    """
    state = initial_state(key)
    for at in range(0, len(vip), 8):
        state = absorb(state, int.from_bytes(vip[at : at + 8], "little"))
    return _first_half(state)


def end_bytes(address: Address, port: int, protocol: int) -> bytes:
    """Return address, port and protocol in network order, filled up to a multiple of 8 bytes."""
    end = address.packed + port.to_bytes(2, "big") + bytes((protocol,))
    return end.ljust(-(-len(end) // 8) * 8, b"\0")


def flow_hash(key: bytes, vip: bytes, client: Address, port: int) -> int:
    """Return the hash of a connection; vip as `end_bytes` gives it."""
    return siphash(key, vip + client.packed + port.to_bytes(2, "big"))


def resumed_hash(state: State, client: Address, port: int) -> int:
    """Return what `flow_hash` does, from the `vip_state` of a VIP whose address is of the client's family."""
    rest = client.packed + port.to_bytes(2, "big")
    length = (8 if client.version == 4 else 24) + len(rest)
    blocks = [int.from_bytes(rest[at : at + 8], "little") for at in range(0, len(rest), 8)]
    blocks[-1] |= (length & 0xFF) << 56
    for number, block in enumerate(blocks):
        v0, v1, v2, v3 = state if number == 0 else _first_half(state)
        v0, v1, v2, v3 = _second_half((v0, v1, v2, v3 ^ block))
        state = v0 ^ block, v1, v2, v3
    v0, v1, v2, v3 = state
    return _finished((v0, v1, v2 ^ 0xFF, v3), 3)


def server_of(tsecr: int, flow: int) -> int:
    """Return the server id that an echo names."""
    return (tsecr ^ flow) & COOKIE_MASK


def stamp(tsval: int, flow: int, server: int, *, is_synack: bool) -> int:
    """Return the server's TSval with the cookie in its low bits."""
    mark = 0 if is_synack else COOKIE_MARK
    return tsval & ~COOKIE_BITS | mark | (server ^ flow) & COOKIE_MASK


def strip(tsecr: int) -> int:
    """Return what the server gets for an echo of anything but a SYN-ACK."""
    return tsecr | COOKIE_BITS
