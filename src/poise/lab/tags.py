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

import socket
from collections.abc import Sequence
from importlib.resources import as_file, files

from poise.kernel import tc
from poise.kernel.libbpf import Object
from poise.lab.namespaces import LabError, Namespace

MTU = 1500
MOST = 2
# veth takes frames that exceed its MTU by one tag, not by two (is_skb_forwardable, xdp_ok_fwd_dev).
ROOM = 4
# As tc(8) has it by default, so behind poise's 0x706f.
_PRIORITY = 0xC000


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
            tc.attach(program.program("push_tags"), ifindex, tc.EGRESS, _PRIORITY)
            tc.attach(program.program("pop_tags"), ifindex, tc.INGRESS, _PRIORITY)
    finally:
        program.close()
