# SPDX-License-Identifier: Apache-2.0
"""BPF programs on the TC ingress of interfaces: classic filters, which kernels before 6.6 have too."""

import ctypes
import errno

from poise.kernel.libbpf import Program
from poise.kernel.library import BpfError, check, library

_INGRESS = 1  # BPF_TC_INGRESS
_BOTH = 3  # with BPF_TC_EGRESS: the clsact qdisc as a whole
_REPLACE = 1  # BPF_TC_F_REPLACE
# Where poise's filter sits; by these it is found again.
_HANDLE = 0x706F
_PRIORITY = 0x706F


class _Hook(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


def _hook(ifindex: int, point: int) -> _Hook:
    return _Hook(sz=ctypes.sizeof(_Hook), ifindex=ifindex, attach_point=point)


def attach_ingress(program: Program, ifindex: int) -> bool:
    """Attach the program, or put it in place of poise's earlier one; return whether clsact is new."""
    lib = library()
    hook = _hook(ifindex, _INGRESS)
    created = lib.bpf_tc_hook_create(ctypes.byref(hook))
    if created != -errno.EEXIST:
        check(f"create the clsact qdisc of interface {ifindex}", created)
    options = _Options(
        sz=ctypes.sizeof(_Options),
        prog_fd=program.fd,
        flags=_REPLACE,
        handle=_HANDLE,
        priority=_PRIORITY,
    )
    result = lib.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
    check(f"attach {program.name} to the ingress of interface {ifindex}", result)
    return bool(created == 0)


def detach_ingress(ifindex: int, *, with_clsact: bool) -> None:
    """Remove poise's filter, and the clsact qdisc if poise made it; harmless if they are gone."""
    lib = library()
    hook = _hook(ifindex, _INGRESS)
    options = _Options(sz=ctypes.sizeof(_Options), handle=_HANDLE, priority=_PRIORITY)
    doing = f"remove the filter from the ingress of interface {ifindex}"
    try:
        check(doing, lib.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options)))
        if with_clsact:
            check(doing, lib.bpf_tc_hook_destroy(ctypes.byref(_hook(ifindex, _BOTH))))
    except BpfError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise
