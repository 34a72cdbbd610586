# SPDX-License-Identifier: Apache-2.0
"""XDP programs on interfaces: attached by a pinned link, so that they stay when the process ends."""

import ctypes
import errno
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

from poise.errors import PoiseError
from poise.kernel.libbpf import Link, Program
from poise.kernel.library import BpfError, check, library

Mode = Literal["native", "generic"]

# XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE, linux/if_link.h
_FLAGS: dict[Mode, int] = {"generic": 1 << 1, "native": 1 << 2}
_ATTACHED_NATIVE = 1  # XDP_ATTACHED_DRV


class _QueryOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_id", ctypes.c_uint32),
        ("drv_prog_id", ctypes.c_uint32),
        ("hw_prog_id", ctypes.c_uint32),
        ("skb_prog_id", ctypes.c_uint32),
        ("attach_mode", ctypes.c_uint8),
    )


def _query(ifindex: int) -> _QueryOptions:
    options = _QueryOptions(sz=ctypes.sizeof(_QueryOptions))
    check(
        f"ask for the XDP program of interface {ifindex}",
        library().bpf_xdp_query(ifindex, 0, ctypes.byref(options)),
    )
    return options


def attach(
    program: Program, interface: str, ifindex: int, mode: Literal["auto", "native", "generic"], pin: Path
) -> tuple[Mode, str | None]:
    """Attach the program, or put it in place of the one that this pin holds, without a gap.

    Returns the mode, and the reason if `auto` could not be native. PoiseError if another
    program is on the interface, or the driver refuses the mode that was asked for.
    """
    adopted = _adopt(program, ifindex, mode, pin)
    if adopted:
        return adopted, None
    if mode != "auto":
        _attach(program, interface, ifindex, mode, pin)
        return mode, None
    try:
        _attach(program, interface, ifindex, "native", pin)
    except BpfError as error:
        _attach(program, interface, ifindex, "generic", pin)
        return "generic", str(error)
    return "native", None


def replace(program: Program, pins: Iterable[Path]) -> None:
    """Put the program in place of those that these pins hold, all of them as fast as it goes."""
    with ExitStack() as stack:
        links = [stack.enter_context(closing(Link.open_pinned(pin))) for pin in pins]
        for link in links:
            link.update(program)


def _adopt(
    program: Program, ifindex: int, mode: Literal["auto", "native", "generic"], pin: Path
) -> Mode | None:
    if not pin.exists():
        return None
    with closing(Link.open_pinned(pin)) as link:
        if link.ifindex == ifindex:
            running: Mode = "native" if _query(ifindex).attach_mode == _ATTACHED_NATIVE else "generic"
            if mode in ("auto", running):
                link.update(program)
                return running
    detach(pin)  # from an interface that is gone, or in the mode that is no longer wanted
    return None


def _attach(program: Program, interface: str, ifindex: int, mode: Mode, pin: Path) -> None:
    try:
        link = Link.attach_xdp(program, ifindex, _FLAGS[mode])
    except BpfError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            other = _query(ifindex).prog_id
            raise PoiseError(
                f"{interface} already has an XDP program (id {other}): remove it first, "
                f"for instance with `ip link set dev {interface} xdp off`"
            ) from None
        raise BpfError(f"attach to {interface} in {mode} XDP mode", error.errno, error.log) from None
    with closing(link):
        link.pin(pin)


def detach(pin: Path) -> None:
    """End the attachment that this pin holds, and remove the pin.

    Removing it would be enough in the end, but the kernel detaches some time after.
    """
    with closing(Link.open_pinned(pin)) as link:
        link.detach()
    pin.unlink()


def interface_of(pin: Path) -> int:
    """Return the interface (ifindex) of a pinned link; 0 if that interface is gone."""
    with closing(Link.open_pinned(pin)) as link:
        return link.ifindex
