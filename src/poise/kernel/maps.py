# SPDX-License-Identifier: Apache-2.0
"""BPF maps, read and written with the layouts that BTF gives."""

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from poise.errors import PoiseError
from poise.kernel.btf import Bytes, Layout
from poise.kernel.library import check, library

PERCPU_KINDS = (5, 6, 10)  # BPF_MAP_TYPE_PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
BATCH = 4096


class MapError(PoiseError):
    """An access to a BPF map that the kernel refused."""

    def __init__(self, doing: str, name: str, error: int) -> None:
        """Say what was being done to which map, and the (positive) errno."""
        self.errno = error
        reason = "it is full" if error == errno.E2BIG else errno.errorcode.get(error, str(error))
        super().__init__(f"cannot {doing} the BPF map {name}: {reason}")


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map holds for a key; the kernel's possible CPUs."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


class _BatchOptions(ctypes.Structure):
    _fields_ = (("sz", ctypes.c_size_t), ("elem_flags", ctypes.c_uint64), ("flags", ctypes.c_uint64))


class _MapInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class Map:
    """A BPF map; of a per-CPU map, a value is the list of its values on each CPU."""

    name: str
    fd: int
    kind: int
    max_entries: int
    key: Layout
    value: Layout

    @property
    def _copies(self) -> int:
        return possible_cpus() if self.kind in PERCPU_KINDS else 1

    @property
    def _stride(self) -> int:
        return (self.value.size + 7) & ~7 if self.kind in PERCPU_KINDS else self.value.size

    def _decode(self, data: bytes) -> Any:
        if self._copies == 1:
            return self.value.unpack(data)
        parts = range(0, self._copies * self._stride, self._stride)
        return [self.value.unpack(data[at : at + self.value.size]) for at in parts]

    def _encode(self, value: Any) -> bytes:
        if self._copies == 1:
            return self.value.pack(value)
        return b"".join(self.value.pack(one).ljust(self._stride, b"\0") for one in value)

    def _check(self, doing: str, result: int) -> None:
        if result < 0:
            raise MapError(doing, self.name, -result)

    def get(self, key: Any) -> Any:
        """Return the value of a key, or None."""
        value = ctypes.create_string_buffer(self._copies * self._stride)
        result = library().bpf_map_lookup_elem(self.fd, self.key.pack(key), value)
        if result == -errno.ENOENT:
            return None
        self._check("read", result)
        return self._decode(value.raw)

    def raw(self, key: Any) -> bytes:
        """Return the bytes of an array's element, for values too large to be decoded as a whole."""
        value = ctypes.create_string_buffer(self.value.size)
        self._check("read", library().bpf_map_lookup_elem(self.fd, self.key.pack(key), value))
        return value.raw

    def set(self, key: Any, value: Any) -> None:
        """Write one value; MapError if the map is full."""
        self._check(
            "write", library().bpf_map_update_elem(self.fd, self.key.pack(key), self._encode(value), 0)
        )

    def delete(self, key: Any) -> None:
        """Remove a key, if it is there."""
        result = library().bpf_map_delete_elem(self.fd, self.key.pack(key))
        if result != -errno.ENOENT:
            self._check("delete from", result)

    def update(self, entries: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        """Write many values with few system calls."""
        pairs = list(entries.items() if isinstance(entries, Mapping) else entries)
        options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
        for at in range(0, len(pairs), BATCH):
            part = pairs[at : at + BATCH]
            keys = b"".join(self.key.pack(key) for key, _ in part)
            values = b"".join(self._encode(value) for _, value in part)
            length = ctypes.c_uint32(len(part))
            self._check(
                "write",
                library().bpf_map_update_batch(
                    self.fd, keys, values, ctypes.byref(length), ctypes.byref(options)
                ),
            )

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield all keys and values; of an array, every element."""
        for key, value in self._raw():
            yield self.key.unpack(key), self._decode(value)

    def nonzero(self) -> Iterator[tuple[Any, Any]]:
        """Yield the keys and values of an array that are not all zero, without decoding the rest."""
        for key, value in self._raw():
            if any(value):
                yield self.key.unpack(key), self._decode(value)

    def _raw(self) -> Iterator[tuple[bytes, bytes]]:
        stride = self._copies * self._stride
        keys = ctypes.create_string_buffer(BATCH * self.key.size)
        values = ctypes.create_string_buffer(BATCH * stride)
        # The kernel's own place marker between two batches: as wide as a key, at least four bytes.
        marker = ctypes.create_string_buffer(max(self.key.size, 4))
        options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
        before = None
        while True:
            length = ctypes.c_uint32(BATCH)
            result = library().bpf_map_lookup_batch(
                self.fd, before, marker, keys, values, ctypes.byref(length), ctypes.byref(options)
            )
            if result != -errno.ENOENT:
                self._check("read", result)
            raw_keys, raw_values = keys.raw, values.raw
            for i in range(length.value):
                key = raw_keys[i * self.key.size : (i + 1) * self.key.size]
                yield key, raw_values[i * stride : (i + 1) * stride]
            if result == -errno.ENOENT:
                return
            before = marker


@contextmanager
def open_pinned(path: Path) -> Iterator[Map]:
    """Open the map that is pinned there, whoever made it: its keys and values are plain bytes."""
    fd = check(f"open the pinned map {path}", library().bpf_obj_get(str(path).encode()))
    try:
        info = _MapInfo()
        length = ctypes.c_uint32(ctypes.sizeof(info))
        result = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length))
        check(f"read about the pinned map {path}", result)
        key, value = Bytes(info.key_size), Bytes(info.value_size)
        yield Map(path.name, fd, info.type, info.max_entries, key, value)
    finally:
        os.close(fd)
