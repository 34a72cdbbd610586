# SPDX-License-Identifier: Apache-2.0
"""What the packet side is to know of QUIC connection ids: rows of quic_configs, and their keys."""

from collections.abc import Mapping
from typing import Final

from poise.quic.connection_id import BLOCK
from poise.servers.model import Vip

CODEPOINTS = 8  # rows of a VIP, QUIC_CODEPOINTS in contract.h
PLAINTEXT: Final = 1  # enum quic_algorithm
SINGLE_PASS: Final = 2
FOUR_PASS: Final = 3


def configs(vip: Vip) -> Mapping[int, dict[str, int]]:
    """Return the VIP's rows of quic_configs, without those that are zero."""
    rows = {}
    for ids in vip.quic_ids:
        algorithm = PLAINTEXT
        if ids.key is not None:
            algorithm = SINGLE_PASS if ids.server_id_length + ids.nonce_length == BLOCK else FOUR_PASS
        rows[vip.index * CODEPOINTS + ids.config] = {
            "algorithm": algorithm,
            "server_id_length": ids.server_id_length,
            "nonce_length": ids.nonce_length,
        }
    return rows


def keys(vip: Vip) -> Mapping[int, bytes]:
    """Return the keys of the VIP by the row of quic_configs that they belong to."""
    return {vip.index * CODEPOINTS + ids.config: ids.key for ids in vip.quic_ids if ids.key is not None}
