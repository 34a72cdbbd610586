# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of a map that somebody else may have made."""

import ctypes
from dataclasses import dataclass
from functools import lru_cache

from poise.kernel.btf import Btf, Bytes, Layout
from poise.kernel.library import check, check_pointer, library


class _MapInfo(ctypes.Structure):
    """The first members of struct bpf_map_info, linux/bpf.h."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class MapInfo:
    """A map's kind (enum bpf_map_type), sizes and flags, and where its layouts are told."""

    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    id: int = 0
    btf_id: int = 0
    key_type: int = 0
    value_type: int = 0

    def is_like(self, other: "MapInfo") -> bool:
        """Whether a program that was made for one of the two can use the other."""
        return (self.kind, self.key_size, self.value_size, self.max_entries, self.flags) == (
            *(other.kind, other.key_size, other.value_size, other.max_entries, other.flags),
        )


def about(fd: int, name: str) -> MapInfo:
    """Return what the kernel tells of a map."""
    info = _MapInfo()
    length = ctypes.c_uint32(ctypes.sizeof(info))
    result = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length))
    check(f"read about the map {name}", result)
    return MapInfo(
        kind=info.type,
        key_size=info.key_size,
        value_size=info.value_size,
        max_entries=info.max_entries,
        flags=info.map_flags,
        id=info.id,
        btf_id=info.btf_id,
        key_type=info.btf_key_type_id,
        value_type=info.btf_value_type_id,
    )


def layouts(info: MapInfo) -> tuple[Layout, Layout]:
    """Return the layouts of a map's keys and values: of its BTF, or plain bytes where that tells none."""
    return _layout(info.btf_id, info.key_type, info.key_size), _layout(
        info.btf_id, info.value_type, info.value_size
    )


def _layout(btf: int, type_id: int, size: int) -> Layout:
    if not btf or not type_id:
        return Bytes(size)
    try:
        return _kernel_btf(btf).layout(type_id)
    except ValueError:  # it has pointers
        return Bytes(size)


@lru_cache(maxsize=8)
def _kernel_btf(btf_id: int) -> Btf:
    lib = library()
    pointer = check_pointer("read the BTF of a map", lib.btf__load_from_kernel_by_id(btf_id))
    try:
        size = ctypes.c_uint32()
        data = check_pointer("read the BTF of a map", lib.btf__raw_data(pointer, ctypes.byref(size)))
        return Btf(ctypes.string_at(data, size.value))
    finally:
        lib.btf__free(pointer)
