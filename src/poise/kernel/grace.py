# SPDX-License-Identifier: Apache-2.0
"""Waiting until no BPF program still works with what a map held before: a grace period of RCU."""

import ctypes
import errno
import os
import platform
from functools import cache

from poise.errors import PoiseError
from poise.kernel.library import check, library

_SYSCALLS = {"x86_64": 324, "aarch64": 283, "riscv64": 283}  # membarrier(2), asm/unistd.h
_GLOBAL = 1 << 0  # MEMBARRIER_CMD_GLOBAL: synchronize_rcu()
_ARRAY, _ARRAY_OF_MAPS = 2, 12  # BPF_MAP_TYPE_*


class _CreateOptions(ctypes.Structure):
    """The first members of struct bpf_map_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def wait() -> None:
    """Return once every program that was running has ended: in milliseconds, under load in tens of them."""
    number = _SYSCALLS.get(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    if number and not libc.syscall(ctypes.c_long(number), ctypes.c_int(_GLOBAL), ctypes.c_int(0)):
        return
    error = ctypes.get_errno() if number else errno.ENOSYS
    if error not in (errno.EINVAL, errno.ENOSYS):
        raise PoiseError(f"cannot wait for running BPF programs to end: membarrier: {os.strerror(error)}")
    wait_by_map()  # a kernel with nohz_full= refuses the other way


def wait_by_map() -> None:
    """Do the same in another way: the kernel waits whenever a map in a map is replaced."""
    outer, inner = _maps()
    key, value = ctypes.c_uint32(0), ctypes.c_uint32(inner)
    result = library().bpf_map_update_elem(outer, ctypes.byref(key), ctypes.byref(value), ctypes.c_uint64(0))
    check("wait for running BPF programs to end", result)


@cache
def _maps() -> tuple[int, int]:
    """Return the file descriptors of an array of maps and of a map to be put in; they go with the process."""
    inner = check("make a map", library().bpf_map_create(_ARRAY, b"inner", 4, 4, 1, None))
    options = _CreateOptions(sz=ctypes.sizeof(_CreateOptions), inner_map_fd=inner)
    made = library().bpf_map_create(_ARRAY_OF_MAPS, b"outer", 4, 4, 1, ctypes.byref(options))
    return check("make a map of maps", made), inner
