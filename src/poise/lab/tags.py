# SPDX-License-Identifier: Apache-2.0
"""VLANs without the kernel's 8021q: TC programs push the tags of what an interface sends, and pop on ingress.

The tags stand in the bytes of the frames on the wire, where an XDP program at the other end of a veth looks
for them. XDP sees frames before their tags are popped here, and what it sends itself does not come by here:
it pushes its own.

On ingress, poise's filter (docs/decisions/006-classic-tc-filter.md) comes first, as it would before the
kernel's VLAN devices, and in both cases finds the outer tag in the socket buffer's `vlan_tci` instead of the
frame, where the kernel puts it before TC (__netif_receive_skb_core). What it takes must not depend on whether
its XDP program left the tags on; what it leaves loses its tags here. What it sends by an interface with tags
gets them on that interface's egress, unless it has tags already.
"""

import ctypes
import socket
from collections.abc import Sequence
from importlib.resources import as_file, files

from poise.kernel.libbpf import Object
from poise.kernel.library import check, library
from poise.lab.namespaces import LabError, Namespace

MTU = 1500
MOST = 2
# veth takes frames that exceed its MTU by one tag, not by two (is_skb_forwardable, xdp_ok_fwd_dev).
ROOM = 4
# As tc(8) has it by default, so behind poise's 0x706f.
_PRIORITY = 0xC000
# libbpf.h
_INGRESS, _EGRESS = 1, 2


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


def keep_tags_in_frames(namespace: Namespace, interface: str) -> None:
    """Have a veth send its tags in the bytes of the frames, not beside them; on each veth of the way."""
    offloads = ("txvlan", "rxvlan", "tx-vlan-stag-hw-insert", "rx-vlan-stag-hw-parse")
    namespace.run(["ethtool", "-K", interface, *(word for name in offloads for word in (name, "off"))])


def carry_tags(namespace: Namespace, interface: str, tags: Sequence[int]) -> None:
    """Have all frames of an interface carry these tags (VLAN ids, outer first), as long as it exists.

    It then hears no others. Its MTU, and its peer's, must have ROOM for the second of two tags. Raises
    LabError unless there are one or two tags.
    """
    if not 1 <= len(tags) <= MOST:
        raise LabError(f"an interface of the lab carries one or two tags, not {len(tags)}")
    namespace.run(["tc", "qdisc", "add", "dev", interface, "clsact"])
    with as_file(files("poise.objects") / "lab_tags.bpf.o") as path:
        program = Object(path)
    try:
        program.load()
        ids = [*tags, *[0] * (MOST - len(tags))]
        program.map("carried_tags").set(0, {"count": len(tags), "ids": ids})
        with namespace.enter():
            ifindex = socket.if_nametoindex(interface)
            _attach(program, "push_tags", ifindex, _EGRESS)
            _attach(program, "pop_tags", ifindex, _INGRESS)
    finally:
        program.close()


def _attach(program: Object, name: str, ifindex: int, point: int) -> None:
    hook = _Hook(sz=ctypes.sizeof(_Hook), ifindex=ifindex, attach_point=point)
    options = _Options(sz=ctypes.sizeof(_Options), prog_fd=program.program(name).fd, priority=_PRIORITY)
    result = library().bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
    check(f"attach {name} to interface {ifindex}", result)
