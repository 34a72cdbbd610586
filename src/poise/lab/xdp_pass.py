# SPDX-License-Identifier: Apache-2.0
"""The smallest XDP program, for the far end of a veth on which another XDP program answers by XDP_TX.

What a program sends back out of its own interface waits in the veth's ring until the peer's NAPI runs, and
the kernel wakes that for XDP_TX only if the peer has an XDP program too (veth_xdp_flush). GRO on the peer,
which is enough for a redirect from another interface, is not enough here. Network cards need nothing of the
kind.
"""

import os
import socket

from poise.kernel.library import check, library
from poise.lab.namespaces import Namespace

# linux/bpf.h, linux/if_link.h
_BPF_PROG_TYPE_XDP = 6
_XDP_FLAGS_DRV_MODE = 1 << 2
# Two instructions: return XDP_PASS.
_PROGRAM = bytes.fromhex("b700000002000000 9500000000000000")


def pass_everything(namespace: Namespace, interface: str) -> None:
    """Attach a program that passes every packet on; it stays as long as the interface."""
    bpf = library()
    program = check(
        "load the lab's XDP program",
        bpf.bpf_prog_load(_BPF_PROG_TYPE_XDP, b"pass", b"GPL", _PROGRAM, len(_PROGRAM) // 8, None),
    )
    try:
        with namespace.enter():
            ifindex = socket.if_nametoindex(interface)
            check(
                f"attach XDP to {interface}", bpf.bpf_xdp_attach(ifindex, program, _XDP_FLAGS_DRV_MODE, None)
            )
    finally:
        os.close(program)
