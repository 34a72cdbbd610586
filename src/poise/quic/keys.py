# SPDX-License-Identifier: Apache-2.0
"""Keys of QUIC connection ids, given to the kernel's own ciphers."""

import errno

from poise.errors import PoiseError
from poise.kernel.libbpf import Object

_PROGRAM = "quic_set_key"


class QuicKeyError(PoiseError):
    """A key that the kernel did not take."""


def set_key(balancer: Object, row: int, key: bytes | None) -> None:
    """Give a row of a loaded object its key, or take it away; QuicKeyError if the kernel cannot.

    The key goes into the kernel's cipher, and cannot be read back from there. Set it before the row of
    quic_configs, and take it away after that row.
    """
    layout = balancer.btf.struct("quic_key")
    given = {"row": row, "remove": 1} if key is None else {"row": row, "key": key}
    result = balancer.program(_PROGRAM).call(layout.pack(given))
    if result == -errno.EOPNOTSUPP and key is None:
        return
    if result in (-errno.EOPNOTSUPP, -errno.ENOENT):
        raise QuicKeyError(
            "this kernel cannot decrypt QUIC connection ids: it lacks AES for BPF programs, which came with "
            "Linux 6.10 and needs CONFIG_CRYPTO_AES and CONFIG_CRYPTO_ECB; use ids without a key"
        )
    if result:
        raise QuicKeyError(
            f"the kernel did not take a key of QUIC connection ids: {errno.errorcode[-result]}"
        )
