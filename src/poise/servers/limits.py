# SPDX-License-Identifier: Apache-2.0
"""How large the balancer's tables are: set before its BPF object is loaded."""

from dataclasses import dataclass
from typing import Any, Final

from poise.kernel.libbpf import Object
from poise.servers.samples import ONE_IN

_COMPILED_FOR = 64  # DEFAULT_VIPS of contract.h
_BY_VIP: Final = (
    *("vips", "vip_addresses", "servers", "server_addresses", "origins", "pools", "maglevs", "turns"),
    *("quic_configs", "quic_ciphers", "server_clocks", "traffic", "lives", "open_connections"),
)


@dataclass(frozen=True)
class Limits:
    """How much the tables hold: rows of each, and flows that a CPU may begin to remember per second.

    Powers of two: handshake_rows, connection_rows and vip_limit (VIPs, 16 to 512). sample_mask: a power of
    two less one; every flow whose hash has none of these bits is sampled.
    """

    handshake_rows: int = 16384
    flow_rows: int = 131072
    flow_rate: int = 10000
    connection_rows: int = 64
    vip_limit: int = 64
    sample_mask: int = ONE_IN - 1

    def configure(self, balancer: Object) -> None:
        """Give the tables of an object that is not loaded yet their sizes."""
        for name in _BY_VIP:
            compiled, _, _ = balancer.wanted_map(name)
            balancer.set_max_entries(name, compiled.max_entries // _COMPILED_FOR * self.vip_limit)
        balancer.set_constant("vip_limit_log2", self.vip_limit.bit_length() - 1)
        balancer.set_max_entries("handshakes", self.handshake_rows)
        balancer.set_max_entries("flows", self.flow_rows)
        balancer.set_max_entries("connections", self.connection_rows)

    def settings(self, token: bytes, *, renewing: bool = False) -> dict[str, Any]:
        """Return struct settings; token: 6 bytes, by which XDP hands packets to the slow path."""
        return {
            "renewing": int(renewing),
            "token": token,
            "handshake_mask": self.handshake_rows - 1,
            "flow_rate": self.flow_rate,
            "connection_mask": self.connection_rows - 1,
            "sample_mask": self.sample_mask,
        }
