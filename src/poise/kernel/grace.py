# SPDX-License-Identifier: Apache-2.0
"""Waiting until no BPF program still works with what a map held before: a grace period of RCU."""

import ctypes
import os
import platform

from poise.errors import PoiseError

_SYSCALLS = {"x86_64": 324, "aarch64": 283, "riscv64": 283}  # membarrier(2), asm/unistd.h
_GLOBAL = 1 << 0  # MEMBARRIER_CMD_GLOBAL: synchronize_rcu()


def wait() -> None:
    """Return once every program that was running has ended: in milliseconds, under load in tens of them."""
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise PoiseError(f"poise does not know the system calls of {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), ctypes.c_int(_GLOBAL), ctypes.c_int(0), ctypes.c_int(0)) == 0:
        return
    error = ctypes.get_errno()
    raise PoiseError(f"cannot wait for running BPF programs to end: membarrier: {os.strerror(error)}")
