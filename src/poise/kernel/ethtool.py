# SPDX-License-Identifier: Apache-2.0
"""Offload features and the driver of an interface (SIOCETHTOOL, <linux/ethtool.h>).

Features go by the kernel's own names (netdev_features_strings[]: "rx-gro", "rx-lro", "rx-vlan-hw-parse"), all
of which `ethtool -K` takes. `ethtool -k` shows the older ones by an alias: "generic-receive-offload",
"large-receive-offload", "rx-vlan-offload".
"""

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from poise.errors import PoiseError

_SIOCETHTOOL = 0x8946
_NOBODY = "there is no such interface"
_GDRVINFO, _GSTRINGS, _GSSET_INFO, _GFEATURES, _SFEATURES = 0x03, 0x1B, 0x37, 0x3A, 0x3B
_SET_OF_FEATURES = 4  # ETH_SS_FEATURES
_NAME = 32  # ETH_GSTRING_LEN, and the length of a driver's name
_DRVINFO = 196  # sizeof(struct ethtool_drvinfo)
_HEAD = struct.Struct("=II")  # command, size
_GET_BLOCK = struct.Struct("=IIII")  # ethtool_get_features_block: available, requested, active, never_changed
_SET_BLOCK = struct.Struct("=II")  # ethtool_set_features_block: valid, requested


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of an interface: whether it is in effect, and whether it cannot be changed ("[fixed]")."""

    active: bool
    fixed: bool


def features(interface: str) -> dict[str, Feature]:
    """Every feature that this kernel knows, by name, as it is on this interface.

    A feature that the device does not have is there too: not active, and fixed. Raises PoiseError where the
    interface does not exist.
    """
    names = _feature_names(interface)
    words = (len(names) + 31) // 32
    buffer = ctypes.create_string_buffer(_HEAD.pack(_GFEATURES, words), _HEAD.size + words * _GET_BLOCK.size)
    _ioctl(interface, buffer, "read the features")
    found = {}
    for bit, name in enumerate(names):
        block = _HEAD.size + bit // 32 * _GET_BLOCK.size
        available, _, active, never_changed = _GET_BLOCK.unpack_from(buffer, block)
        mask = 1 << bit % 32
        changeable = available & mask and not never_changed & mask
        found[name] = Feature(active=bool(active & mask), fixed=not changeable)
    return found


def set_features(interface: str, wanted: Mapping[str, bool]) -> list[str]:
    """Turn features on or off; returns a sentence for each that then is not as wanted: fixed, or absent.

    Raises PoiseError where the interface does not exist, or the kernel refuses.
    """
    names = _feature_names(interface)
    bits = {name: bit for bit, name in enumerate(names) if name in wanted}
    blocks = [[0, 0] for _ in range((len(names) + 31) // 32)]
    for name, bit in bits.items():
        blocks[bit // 32][0] |= 1 << bit % 32
        blocks[bit // 32][1] |= wanted[name] << bit % 32
    packed = _HEAD.pack(_SFEATURES, len(blocks)) + b"".join(_SET_BLOCK.pack(*block) for block in blocks)
    _ioctl(interface, ctypes.create_string_buffer(packed, len(packed)), "change the features")
    now = features(interface)
    return [
        _unlike(interface, name, now.get(name))
        for name, on in wanted.items()
        if name not in now or now[name].active != on
    ]


def driver(interface: str) -> str | None:
    """The name of the interface's driver; None where it has none ("lo") or is not there."""
    buffer = ctypes.create_string_buffer(_HEAD.pack(_GDRVINFO, 0), _DRVINFO)
    try:
        _ioctl(interface, buffer, "read the driver")
    except PoiseError:
        return None
    return buffer.raw[4 : 4 + _NAME].split(b"\0")[0].decode() or None


def _unlike(interface: str, name: str, feature: Feature | None) -> str:
    if feature is None:
        return f"{interface} has no feature {name}: this kernel does not know it"
    state = "on" if feature.active else "off"
    return f"{name} of {interface} stays {state}: " + (
        "the device cannot change it" if feature.fixed else "another feature or the driver demands it"
    )


def _feature_names(interface: str) -> list[str]:
    # struct ethtool_sset_info: command, reserved, mask of sets, then the length of each set asked for
    size = ctypes.create_string_buffer(struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SET_OF_FEATURES, 0), 20)
    _ioctl(interface, size, "count the features")
    (count,) = struct.unpack_from("=I", size, 16)
    # struct ethtool_gstrings: command, set, length, then the names
    head = struct.pack("=III", _GSTRINGS, _SET_OF_FEATURES, count)
    strings = ctypes.create_string_buffer(head, 12 + count * _NAME)
    _ioctl(interface, strings, "name the features")
    starts = range(12, 12 + count * _NAME, _NAME)
    return [strings.raw[start : start + _NAME].split(b"\0")[0].decode() for start in starts]


def _ioctl(interface: str, buffer: "ctypes.Array[ctypes.c_char]", doing: str) -> None:
    name = interface.encode()
    if len(name) > 15:  # cut off, it could be another interface's
        raise PoiseError(f"cannot {doing} of {interface}: {_NOBODY}")
    # struct ifreq: the name and a zero, a pointer, and what other requests put beside it
    ifreq = bytearray(struct.pack("16sP16x", name, ctypes.addressof(buffer)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as kernel:
        try:
            fcntl.ioctl(kernel, _SIOCETHTOOL, ifreq)
        except OSError as error:
            reason = _NOBODY if error.errno == errno.ENODEV else error.strerror
            raise PoiseError(f"cannot {doing} of {interface}: {reason}") from None
