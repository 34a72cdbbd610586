# SPDX-License-Identifier: Apache-2.0
"""A small layer over libbpf: objects, programs and links.

The structures are those of libbpf 1.0's headers; libbpf accepts any `sz` up to its own, so
later versions read them the same way.
"""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.kernel.btf import Btf, Layout
from poise.kernel.library import check, check_pointer, library
from poise.kernel.maps import Map
from poise.kernel.pinned import MapInfo

LINK_TYPE_XDP_ATTACHMENT = 37  # BPF_XDP of enum bpf_attach_type
_CONSTANTS = ".rodata"


class _LinkCreateOptions(ctypes.Structure):
    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("zero", ctypes.c_uint32))


class _TestRunOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class _LinkInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 60),
    )


class _ProgramInfo(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint32), ("id", ctypes.c_uint32), ("rest", ctypes.c_uint8 * 224))


@dataclass(frozen=True)
class TestRun:
    """What came out of a program: verdict, packet, and nanoseconds a run."""

    verdict: int
    packet: bytes
    nanoseconds: int


class Program:
    """A loaded BPF program."""

    def __init__(self, name: str, fd: int) -> None:
        """Wrap the file descriptor of a loaded program."""
        self.name = name
        self.fd = fd

    @property
    def id(self) -> int:
        """The kernel's number of this program."""
        info = _ProgramInfo()
        length = ctypes.c_uint32(ctypes.sizeof(info))
        check(
            f"read about BPF program {self.name}",
            library().bpf_obj_get_info_by_fd(self.fd, ctypes.byref(info), ctypes.byref(length)),
        )
        return int(info.id)

    def test_run(self, packet: bytes, repeat: int = 1) -> TestRun:
        """Run the program on a packet (Ethernet frame) without a network: BPF_PROG_TEST_RUN."""
        data = ctypes.create_string_buffer(packet, len(packet))
        out = ctypes.create_string_buffer(len(packet) + 256)
        options = _TestRunOptions(
            sz=ctypes.sizeof(_TestRunOptions),
            data_in=ctypes.addressof(data),
            data_size_in=len(packet),
            data_out=ctypes.addressof(out),
            data_size_out=len(out),
            repeat=repeat,
        )
        check(
            f"test-run BPF program {self.name}",
            library().bpf_prog_test_run_opts(self.fd, ctypes.byref(options)),
        )
        return TestRun(options.retval, out.raw[: options.data_size_out], options.duration)

    def call(self, argument: bytes) -> int:
        """Run a program of the section `syscall` with its argument; returns its signed result."""
        data = ctypes.create_string_buffer(argument, len(argument))
        options = _TestRunOptions(
            sz=ctypes.sizeof(_TestRunOptions), ctx_in=ctypes.addressof(data), ctx_size_in=len(argument)
        )
        check(
            f"run BPF program {self.name}", library().bpf_prog_test_run_opts(self.fd, ctypes.byref(options))
        )
        return ctypes.c_int32(options.retval).value


class Link:
    """An attachment of an XDP program that lives as long as somebody holds or pins it."""

    def __init__(self, fd: int) -> None:
        """Wrap the file descriptor of a BPF link."""
        self.fd = fd

    @classmethod
    def attach_xdp(cls, program: Program, ifindex: int, flags: int) -> "Link":
        """Attach the program to an interface; flags as XDP_FLAGS_* in linux/if_link.h."""
        options = _LinkCreateOptions(sz=ctypes.sizeof(_LinkCreateOptions), flags=flags)
        fd = library().bpf_link_create(program.fd, ifindex, LINK_TYPE_XDP_ATTACHMENT, ctypes.byref(options))
        return cls(check(f"attach BPF program {program.name}", fd))

    @classmethod
    def open_pinned(cls, path: Path) -> "Link":
        """Adopt the link that is pinned there."""
        return cls(check(f"open the pinned link {path}", library().bpf_obj_get(str(path).encode())))

    @property
    def ifindex(self) -> int:
        """The interface it is attached to; 0 once that interface is gone."""
        info = _LinkInfo()
        length = ctypes.c_uint32(ctypes.sizeof(info))
        check(
            "read about a BPF link",
            library().bpf_obj_get_info_by_fd(self.fd, ctypes.byref(info), ctypes.byref(length)),
        )
        return int(info.ifindex)

    def update(self, program: Program) -> None:
        """Put another program in place of the present one, without a packet in between."""
        check(
            f"put BPF program {program.name} in place of the running one",
            library().bpf_link_update(self.fd, program.fd, None),
        )

    def pin(self, path: Path) -> None:
        """Let the link outlive this process."""
        check(f"pin a link to {path}", library().bpf_obj_pin(self.fd, str(path).encode()))

    def detach(self) -> None:
        """End the attachment now, also if it is pinned; harmless if its interface is gone."""
        check("detach a BPF link", library().bpf_link_detach(self.fd))

    def close(self) -> None:
        """Let go of it; the attachment ends unless it is pinned."""
        os.close(self.fd)


class Object:
    """A compiled BPF object file: opened, then configured, then loaded."""

    def __init__(self, path: Path) -> None:
        """Open the file; BpfError if it is no BPF object."""
        self._lib = library()
        self._doing = f"load {path.name}"
        self._pointer = check_pointer(
            f"open {path}", self._lib.bpf_object__open_file(str(path).encode(), None)
        )
        self.btf = Btf(self._raw_btf())

    def _raw_btf(self) -> bytes:
        size = ctypes.c_uint32()
        btf = ctypes.c_void_p(self._lib.bpf_object__btf(self._pointer))
        data = check_pointer(f"{self._doing}: read its BTF", self._lib.btf__raw_data(btf, ctypes.byref(size)))
        return ctypes.string_at(data, size.value)

    def close(self) -> None:
        """Let go of the object; what is pinned or attached by a pinned link stays."""
        self._lib.bpf_object__close(self._pointer)

    def _map_pointers(self) -> Iterator[tuple[str, ctypes.c_void_p]]:
        pointer = self._lib.bpf_object__next_map(self._pointer, None)
        while pointer:
            current = ctypes.c_void_p(pointer)
            yield self._lib.bpf_map__name(current).decode(), current
            pointer = self._lib.bpf_object__next_map(self._pointer, current)

    def _map_pointer(self, name: str) -> ctypes.c_void_p:
        return check_pointer(
            f"find the BPF map {name}",
            self._lib.bpf_object__find_map_by_name(self._pointer, name.encode()),
        )

    def set_max_entries(self, name: str, entries: int) -> None:
        """Give a map another size than it was compiled with; before loading."""
        check(f"resize the map {name}", self._lib.bpf_map__set_max_entries(self._map_pointer(name), entries))

    def set_constant(self, name: str, value: Any) -> None:  # noqa: ANN401  of whatever type the program has it
        """Give a `const volatile` variable of the programs another value; before loading."""
        offset, layout = self.btf.variable(_CONSTANTS, name)
        section = next(pointer for found, pointer in self._map_pointers() if found.endswith(_CONSTANTS))
        size = ctypes.c_size_t()
        memory = check_pointer(
            f"set the constant {name}", self._lib.bpf_map__initial_value(section, ctypes.byref(size))
        )
        ctypes.memmove((memory.value or 0) + offset, layout.pack(value), layout.size)

    def share_map(self, name: str, other: "Object") -> None:
        """Use the other object's map of this name instead of one's own; before loading."""
        self.use_map(name, other.map(name).fd)

    def use_map(self, name: str, fd: int) -> None:
        """Use this map, which must be like the object's own, instead of making one; before loading."""
        check(f"share the map {name}", self._lib.bpf_map__reuse_fd(self._map_pointer(name), fd))

    def wanted_map(self, name: str) -> tuple[MapInfo, Layout | None, Layout | None]:
        """Return what a map will be, with the layouts of keys and values, None if poise cannot read one."""
        pointer, lib = self._map_pointer(name), self._lib
        info = MapInfo(
            kind=lib.bpf_map__type(pointer),
            key_size=lib.bpf_map__key_size(pointer),
            value_size=lib.bpf_map__value_size(pointer),
            max_entries=lib.bpf_map__max_entries(pointer),
            flags=lib.bpf_map__map_flags(pointer),
            key_type=lib.bpf_map__btf_key_type_id(pointer),
            value_type=lib.bpf_map__btf_value_type_id(pointer),
        )
        return info, self._layout(info.key_type), self._layout(info.value_type)

    def _layout(self, type_id: int) -> Layout | None:
        try:
            return self.btf.layout(type_id)
        except ValueError:  # it has pointers
            return None

    def map_names(self) -> list[str]:
        """Return the names of all maps but the compiler's own (constants), which belong to one program."""
        return [name for name, pointer in self._map_pointers() if not self._lib.bpf_map__is_internal(pointer)]

    def pin_maps(self, directory: Path) -> None:
        """Have all of these maps pinned there, or taken from there if they are; before loading."""
        for name in self.map_names():
            path = str(directory / name).encode()
            check(f"pin the map {name}", self._lib.bpf_map__set_pin_path(self._map_pointer(name), path))

    def pin_map(self, name: str, path: Path) -> None:
        """Let a map outlive this process; after loading."""
        fd = self._lib.bpf_map__fd(self._map_pointer(name))
        check(f"pin the map {name}", self._lib.bpf_obj_pin(fd, str(path).encode()))

    def load(self) -> None:
        """Create the maps and load the programs; BpfError with the verifier's log if refused."""
        check(self._doing, self._lib.bpf_object__load(self._pointer))

    def program(self, name: str) -> Program:
        """Return a loaded program by its name."""
        pointer = check_pointer(
            f"find the BPF program {name}",
            self._lib.bpf_object__find_program_by_name(self._pointer, name.encode()),
        )
        return Program(name, check(f"use the BPF program {name}", self._lib.bpf_program__fd(pointer)))

    def map(self, name: str) -> Map:
        """Return a created map by its name, with the layouts of its keys and values."""
        pointer = self._map_pointer(name)
        return Map(
            name=name,
            fd=check(f"use the BPF map {name}", self._lib.bpf_map__fd(pointer)),
            kind=self._lib.bpf_map__type(pointer),
            max_entries=self._lib.bpf_map__max_entries(pointer),
            key=self.btf.layout(self._lib.bpf_map__btf_key_type_id(pointer)),
            value=self.btf.layout(self._lib.bpf_map__btf_value_type_id(pointer)),
        )
