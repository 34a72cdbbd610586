# SPDX-License-Identifier: Apache-2.0
"""BPF programs on the TC hooks of interfaces: classic filters, which kernels before 6.6 have too.

Filters hang on a qdisc of the interface that sees all packets and queues none: clsact, or the older ingress.
"""

import ctypes
import errno

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, rtnl

from poise.errors import PoiseError
from poise.kernel.libbpf import Program
from poise.kernel.library import BpfError, check, library
from poise.kernel.rtnetlink import NetlinkError, dump, request

INGRESS, EGRESS = 1, 2  # BPF_TC_INGRESS, BPF_TC_EGRESS
_REPLACE = 1  # BPF_TC_F_REPLACE
# Where poise's filter sits; by these it is found again.
_HANDLE = 0x706F
_PRIORITY = 0x706F

# linux/pkt_sched.h; clsact and ingress have the same place and handle, so that there is one of them at most.
_CLSACT_PARENT = 0xFFFFFFF1  # TC_H_CLSACT, TC_H_INGRESS
_CLSACT_HANDLE = 0xFFFF0000
_FILTER_PARENTS = (0xFFFFFFF2, 0xFFFFFFF3)  # TC_H_MIN_INGRESS and TC_H_MIN_EGRESS of it


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


def attach(program: Program, ifindex: int, point: int, priority: int, handle: int = 0) -> None:
    """Attach the program to INGRESS or EGRESS of an interface, which must have a clsact.

    Filters run in the order of their priorities. handle: 0 lets the kernel choose one; with another, the
    program takes the place of an earlier one. Raises BpfError.
    """
    flags = _REPLACE if handle else 0
    size = ctypes.sizeof(_Options)
    options = _Options(sz=size, prog_fd=program.fd, flags=flags, handle=handle, priority=priority)
    result = library().bpf_tc_attach(ctypes.byref(_hook(ifindex, point)), ctypes.byref(options))
    side = "ingress" if point == INGRESS else "egress"
    check(f"attach {program.name} to the {side} of interface {ifindex}", result)


def attach_ingress(program: Program, ifindex: int) -> None:
    """Attach the program, or put it in place of poise's earlier one; the interface must have a clsact."""
    attach(program, ifindex, INGRESS, _PRIORITY, _HANDLE)


def detach_ingress(ifindex: int) -> None:
    """Remove poise's filter; harmless if it is gone, or its interface is."""
    options = _Options(sz=ctypes.sizeof(_Options), handle=_HANDLE, priority=_PRIORITY)
    result = library().bpf_tc_detach(ctypes.byref(_hook(ifindex, INGRESS)), ctypes.byref(options))
    try:
        check(f"remove the filter from the ingress of interface {ifindex}", result)
    except BpfError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise


def has_clsact(ifindex: int) -> bool:
    """Whether filters can be hung on the interface's ingress; False also where there is no interface."""
    try:
        request(rtnl.RTM_GETQDISC, {"index": ifindex, "handle": _CLSACT_HANDLE})
    except NetlinkError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise
    return True


def create_clsact(ifindex: int) -> None:
    """Have a clsact on the interface, unless it has one. Raises PoiseError if that fails."""
    try:
        request(rtnl.RTM_NEWQDISC, *_clsact(ifindex), flags=NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise PoiseError(f"cannot add a clsact to interface {ifindex}: {error.reason}") from None


def destroy_clsact(ifindex: int) -> None:
    """Remove the interface's clsact with all filters on it; harmless if it is gone."""
    try:
        request(rtnl.RTM_DELQDISC, *_clsact(ifindex))
    except NetlinkError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise PoiseError(f"cannot remove the clsact of interface {ifindex}: {error.reason}") from None


def has_other_filters(ifindex: int) -> bool:
    """Whether somebody else has filters on the interface's clsact, in either direction."""
    return any(
        found.fields["info"] >> 16 != _PRIORITY or found.fields["handle"] not in (0, _HANDLE)
        for parent in _FILTER_PARENTS
        for found in dump(rtnl.RTM_GETTFILTER, {"index": ifindex, "parent": parent})
    )


def _clsact(ifindex: int) -> tuple[dict[str, int], dict[str, object]]:
    place = {"index": ifindex, "handle": _CLSACT_HANDLE, "parent": _CLSACT_PARENT}
    return place, {"TCA_KIND": "clsact"}
