# SPDX-License-Identifier: Apache-2.0
"""The connection ids that draft-ietf-quic-load-balancers-21 publishes."""

from dataclasses import dataclass

from poise.servers.model import QuicIds

KEY = bytes.fromhex("8f95f09245765f80256934e50c66207f")  # of appendix B.2
EXAMPLE_KEY = bytes.fromhex("fdf726a9893ec05c0632d3956680baf0")  # of section 5.4.2


@dataclass(frozen=True)
class Vector:
    """A connection id and what is in it; `ids` as its first byte says."""

    source: str
    ids: QuicIds
    server_id: int
    nonce: bytes
    connection_id: bytes


def _vector(source: str, server_id: str, nonce: str, connection_id: str, key: bytes | None = KEY) -> Vector:
    raw = bytes.fromhex(connection_id)
    ids = QuicIds(raw[0] >> 5, len(server_id) // 2, len(nonce) // 2, key)
    return Vector(source, ids, int(server_id, 16), bytes.fromhex(nonce), raw)


# The second one of appendix B.1 is left out: it is misprinted, its nonce has nine digits. The last one of B.2
# goes by the codepoint in its first byte, 0, not by that of its line, 3.
VECTORS = (
    _vector("B.1, 1", "c4605e", "4504cc4f", "07c4605e4504cc4f", None),
    _vector("B.2, 1", "ed793a", "ee080dbf", "0720b1d07b359d3c"),
    _vector("B.2, 2", "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
    _vector("B.2, 3", "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
    _vector("B.2, 4", "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
    _vector("5.4.2", "31441a", "9c69c275", "0767947d29be054a", EXAMPLE_KEY),
)
