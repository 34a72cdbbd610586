# SPDX-License-Identifier: Apache-2.0
"""BPF maps, read and written with the layouts that BTF gives."""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.errors import PoiseError
from poise.kernel.btf import Layout
from poise.kernel.library import check, library
from poise.kernel.pinned import MapInfo, about, layouts
from poise.kernel.records import Records, converted, dtype_of, octets, widened

PERCPU_KINDS = (5, 6, 10)  # BPF_MAP_TYPE_PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
BATCH = 4096
_BATCH_BYTES = 1 << 22
_NEW = 1  # BPF_NOEXIST
_LOCKED = 4  # BPF_F_LOCK


class MapError(PoiseError):
    """An access to a BPF map that the kernel refused."""

    def __init__(self, doing: str, name: str, error: int) -> None:
        """Say what was being done to which map, and the (positive) errno."""
        self.errno = error
        self.is_full = error == errno.E2BIG
        reason = "it is full" if self.is_full else errno.errorcode.get(error, str(error))
        super().__init__(f"cannot {doing} the BPF map {name}: {reason}")


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map holds for a key; the kernel's possible CPUs."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


class _BatchOptions(ctypes.Structure):
    _fields_ = (("sz", ctypes.c_size_t), ("elem_flags", ctypes.c_uint64), ("flags", ctypes.c_uint64))


@dataclass(frozen=True)
class Map:
    """A BPF map; of a per-CPU map, a value is the list of its values on each CPU."""

    name: str
    fd: int
    kind: int
    max_entries: int
    key: Layout
    value: Layout
    info: MapInfo | None = None

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

    def elements(self) -> tuple[Records, Records]:
        """Return all keys of a map that is not per CPU, and their values."""
        pairs = list(self._raw())
        keys = np.frombuffer(b"".join(key for key, _ in pairs), dtype_of(self.key))
        return keys, np.frombuffer(b"".join(value for _, value in pairs), self.dtype)

    def put(self, keys: Records, values: Records) -> None:
        """Write many values with few system calls; layouts as in `write_rows`."""
        packed = octets(converted(keys, dtype_of(self.key), partly=True))
        data = octets(converted(values, self.dtype, partly=True))
        options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
        for at in range(0, len(packed), BATCH):
            part = np.ascontiguousarray(packed[at : at + BATCH])
            some = np.ascontiguousarray(data[at : at + BATCH])
            length = ctypes.c_uint32(len(part))
            result = library().bpf_map_update_batch(
                self.fd, _pointer(part), _pointer(some), ctypes.byref(length), ctypes.byref(options)
            )
            self._check("write", result)

    def put_new(self, keys: Records, values: Records) -> None:
        """Write values whose keys are not there yet; layouts as in `write_rows`."""
        packed = octets(converted(keys, dtype_of(self.key), partly=True))
        data = octets(converted(values, self.dtype, partly=True))
        for key, value in zip(packed, data, strict=True):
            result = library().bpf_map_update_elem(self.fd, key.tobytes(), value.tobytes(), _NEW)
            if result != -errno.EEXIST:
                self._check("write", result)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The layout of a value, for numpy."""
        return dtype_of(self.value)

    def view(self) -> Records:
        """Return the elements of a mappable array as they are at each moment; they can be written to."""
        stride = (self.value.size + 7) & ~7
        size = -(-self.max_entries * stride // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(self.fd, size)
        dtype = widened(self.dtype, stride)
        found: Records = np.frombuffer(memory, dtype, self.max_entries)
        return found if dtype is self.dtype else found["value"]

    def rows(self, first: int = 0, number: int | None = None) -> Records:
        """Return elements of an array, those of a per-CPU array as [n, CPUs]; all unless told which."""
        end = self.max_entries if number is None else min(first + number, self.max_entries)
        dtype = widened(self.dtype, self._stride)
        found = np.zeros((max(0, end - first), self._copies), dtype)
        step = self._rows_at_once
        for at in range(first, end, step):
            data = self._read_batch(at, min(step, end - at))
            found[at - first : at - first + step] = data.view(dtype).reshape(-1, self._copies)
        values = found if dtype is self.dtype else found["value"]
        return np.asarray(values if self.kind in PERCPU_KINDS else values[:, 0])

    def sums(self, first: int = 0, number: int | None = None) -> Records:
        """Return elements of a per-CPU array of counters, each member summed over the CPUs."""
        of_cpus = self.rows(first, number)
        if self.dtype.names is None:
            return np.asarray(of_cpus.sum(axis=1, dtype=self.dtype))
        found = np.zeros(len(of_cpus), self.dtype)
        for name in self.dtype.names:
            found[name] = of_cpus[name].sum(axis=1)
        return found

    def write_rows(self, rows: NDArray[np.integer[Any]], records: Records) -> None:
        """Write elements of an array with few system calls, in this order; of a per-CPU array [n, CPUs].

        The records may have another layout: members are matched by name.
        """
        data = octets(np.ascontiguousarray(self._widened(records)))
        numbers = np.ascontiguousarray(rows, np.uint32)
        options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
        for at in range(0, len(numbers), self._rows_at_once):
            part = numbers[at : at + self._rows_at_once]
            length = ctypes.c_uint32(len(part))
            values = data[at : at + len(part)]
            result = library().bpf_map_update_batch(
                self.fd, _pointer(part), _pointer(values), ctypes.byref(length), ctypes.byref(options)
            )
            self._check("write", result)

    def _widened(self, records: Records) -> Records:
        """Return records as the system call takes them."""
        if self.kind not in PERCPU_KINDS:
            return converted(records, self.dtype)
        dtype = widened(self.dtype, self._stride)
        found = np.zeros((len(records), self._copies), dtype)
        (found if dtype is self.dtype else found["value"])[...] = records
        return found.view(np.dtype((np.void, self._copies * self._stride)))[:, 0]

    @contextmanager
    def changing(self, row: int) -> Iterator[Records]:
        """Yield a copy of an element that has a spin lock, [1], and write it back.

        Each under the lock, but what a program does in between is lost: do little there.
        """
        record = np.zeros(1, self.dtype)
        key, value = ctypes.byref(ctypes.c_uint32(row)), _pointer(record)
        self._check(
            "read", library().bpf_map_lookup_elem_flags(self.fd, key, value, ctypes.c_uint64(_LOCKED))
        )
        yield record
        self._check("write", library().bpf_map_update_elem(self.fd, key, value, ctypes.c_uint64(_LOCKED)))

    def clear(self, rows: NDArray[np.integer[Any]]) -> None:
        """Write zeros into elements of an array."""
        shape = (len(rows), self._copies) if self.kind in PERCPU_KINDS else len(rows)
        self.write_rows(rows, np.zeros(shape, self.dtype))

    @property
    def _rows_at_once(self) -> int:
        return max(1, _BATCH_BYTES // (self._copies * self._stride))

    def _read_batch(self, first: int, number: int) -> NDArray[np.uint8]:
        keys = np.empty(number, np.uint32)
        values = np.zeros(number * self._copies * self._stride, np.uint8)
        before = ctypes.c_uint32(first - 1)  # the kernel goes on after the place marker
        marker, length = ctypes.c_uint32(), ctypes.c_uint32(number)
        options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
        result = library().bpf_map_lookup_batch(
            self.fd,
            ctypes.byref(before) if first else None,
            ctypes.byref(marker),
            _pointer(keys),
            _pointer(values),
            ctypes.byref(length),
            ctypes.byref(options),
        )
        if result != -errno.ENOENT:
            self._check("read", result)
        return values

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


def _pointer(values: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


def with_layouts(name: str, fd: int, info: MapInfo) -> Map:
    """Return an existing map, whoever made it, with the layouts that its own BTF gives, or of plain bytes."""
    return Map(name, fd, info.kind, info.max_entries, *layouts(info), info)


@contextmanager
def open_pinned(path: Path) -> Iterator[Map]:
    """Open the map that is pinned there, whoever made it."""
    fd = check(f"open the pinned map {path}", library().bpf_obj_get(str(path).encode()))
    try:
        yield with_layouts(path.name, fd, about(fd, path.name))
    finally:
        os.close(fd)
