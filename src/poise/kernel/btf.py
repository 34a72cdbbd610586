# SPDX-License-Identifier: Apache-2.0
"""Layouts of C types, read from BTF, so that no layout is written down twice.

Format: the kernel's Documentation/bpf/btf.rst.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

INT, POINTER, ARRAY, STRUCT, UNION, ENUM, FORWARD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNCTION, PROTOTYPE, VARIABLE, SECTION, FLOAT, DECLARATION_TAG, TYPE_TAG, ENUM64 = range(12, 20)

# Bytes that follow the common header of a type: fixed, and per member.
_EXTRA = {
    INT: (4, 0),
    ARRAY: (12, 0),
    STRUCT: (0, 12),
    UNION: (0, 12),
    ENUM: (0, 8),
    PROTOTYPE: (0, 8),
    VARIABLE: (4, 0),
    SECTION: (0, 12),
    DECLARATION_TAG: (4, 0),
    ENUM64: (0, 12),
}
_QUALIFIERS = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
_NETWORK_ORDER = ("__be16", "__be32", "__be64")
_SIGNED = 1  # BTF_INT_SIGNED
_SCALARS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Layout(Protocol):
    """How a value of one C type lies in memory."""

    @property
    def size(self) -> int:
        """How many bytes it takes."""

    def pack(self, value: Any) -> bytes:
        """Return the bytes of the value."""

    def unpack(self, data: bytes) -> Any:
        """Return the value of the bytes."""


@dataclass(frozen=True)
class Scalar:
    """An integer or enumeration; a `__be` type keeps its number in host terms."""

    size: int
    format: str

    def pack(self, value: int) -> bytes:
        """Return the bytes of the number."""
        return struct.pack(self.format, value)

    def unpack(self, data: bytes) -> int:
        """Return the number."""
        number: int = struct.unpack(self.format, data)[0]
        return number


@dataclass(frozen=True)
class Bytes:
    """An array of single bytes."""

    size: int

    def pack(self, value: bytes) -> bytes:
        """Return the bytes, filled up with zeros."""
        if len(value) > self.size:
            msg = f"{len(value)} bytes do not fit {self.size}"
            raise ValueError(msg)
        return value.ljust(self.size, b"\0")

    def unpack(self, data: bytes) -> bytes:
        """Return the bytes."""
        return bytes(data)


@dataclass(frozen=True)
class Array:
    """A fixed number of equal elements; fewer are filled up with zeros."""

    size: int
    element: Layout

    def pack(self, value: Sequence[Any]) -> bytes:
        """Return the bytes of the elements."""
        data = b"".join(self.element.pack(item) for item in value)
        if len(data) > self.size:
            msg = f"{len(value)} elements do not fit {self.size // self.element.size}"
            raise ValueError(msg)
        return data.ljust(self.size, b"\0")

    def unpack(self, data: bytes) -> tuple[Any, ...]:
        """Return the elements."""
        step = self.element.size
        return tuple(self.element.unpack(data[at : at + step]) for at in range(0, self.size, step))


@dataclass(frozen=True)
class Struct:
    """A structure: members by name; those left out are zero."""

    name: str
    size: int
    members: Mapping[str, tuple[int, Layout]]

    def pack(self, value: Mapping[str, Any]) -> bytes:
        """Return the bytes of the members."""
        data = bytearray(self.size)
        for name, item in value.items():
            if name not in self.members:
                msg = f"struct {self.name} has no member {name}"
                raise KeyError(msg)
            offset, layout = self.members[name]
            data[offset : offset + layout.size] = layout.pack(item)
        return bytes(data)

    def unpack(self, data: bytes) -> dict[str, Any]:
        """Return the members by name."""
        return {
            name: layout.unpack(data[offset : offset + layout.size])
            for name, (offset, layout) in self.members.items()
        }


@dataclass(frozen=True)
class _Type:
    name: str
    kind: int
    size: int  # or the type that is referred to
    extra: bytes


class Btf:
    """The types of one BPF object."""

    def __init__(self, raw: bytes) -> None:
        """Parse raw BTF as it stands in the .BTF section."""
        magic, _, _, header, types, types_length, strings, _ = struct.unpack_from("=HBBIIIII", raw)
        if magic != 0xEB9F:
            msg = "this is not BTF of this machine's byte order"
            raise ValueError(msg)
        self._strings = raw[header + strings :]
        self._types: list[_Type] = [_Type("void", 0, 0, b"")]
        at, end = header + types, header + types + types_length
        while at < end:
            name, info, size = struct.unpack_from("=III", raw, at)
            kind = info >> 24 & 0x1F
            fixed, per_member = _EXTRA.get(kind, (0, 0))
            length = fixed + per_member * (info & 0xFFFF)
            self._types.append(_Type(self._string(name), kind, size, raw[at + 12 : at + 12 + length]))
            at += 12 + length

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def layout(self, type_id: int) -> Layout:
        """Return how a value of this type lies in memory; ValueError for what has no fixed layout."""
        entry = self._types[type_id]
        order = "="
        while entry.kind in _QUALIFIERS:
            if entry.name in _NETWORK_ORDER:
                order = "!"
            entry = self._types[entry.size]
        match entry.kind:
            case k if k in (INT, ENUM, ENUM64) and entry.size in _SCALARS:
                is_signed = k == INT and entry.extra[3] & _SIGNED
                letter = _SCALARS[entry.size]
                return Scalar(entry.size, order + (letter.lower() if is_signed else letter))
            case k if k == ARRAY:
                element_id, _, count = struct.unpack("=III", entry.extra)
                element = self.layout(element_id)
                size = element.size * count
                if element.size == 1:
                    return Bytes(size)
                return Array(size, element)
            case k if k == STRUCT:
                return Struct(entry.name, entry.size, self._members(entry))
        msg = f"BTF type {entry.name or type_id} has no layout that poise can read"
        raise ValueError(msg)

    def _members(self, entry: _Type) -> dict[str, tuple[int, Layout]]:
        members = {}
        for name, type_id, bits in struct.iter_unpack("=III", entry.extra):
            if bits % 8 or bits >> 24:  # the latter: how many bits it has
                msg = f"struct {entry.name} has bit fields, which poise cannot read"
                raise ValueError(msg)
            members[self._string(name)] = (bits // 8, self.layout(type_id))
        return members

    def struct(self, name: str) -> Layout:
        """Return the layout of `struct name`; KeyError if there is none."""
        return self.layout(self._find(name, STRUCT))

    def enum(self, name: str) -> dict[str, int]:
        """Return the enumerators of `enum name`, in order; KeyError if there is none."""
        entry = self._types[self._find(name, ENUM)]
        return {self._string(label): value for label, value in struct.iter_unpack("=Ii", entry.extra)}

    def variable(self, section: str, name: str) -> tuple[int, Layout]:
        """Return where a variable lies in a section like `.rodata`, and its layout. Raises KeyError."""
        entry = self._types[self._find(section, SECTION)]
        for type_id, offset, _ in struct.iter_unpack("=III", entry.extra):
            if self._types[type_id].name == name:
                return offset, self.layout(self._types[type_id].size)
        msg = f"no variable {name} in {section} of this object's BTF"
        raise KeyError(msg)

    def _find(self, name: str, kind: int) -> int:
        for type_id, entry in enumerate(self._types):
            if entry.name == name and entry.kind == kind:
                return type_id
        msg = f"no type {name} in this object's BTF"
        raise KeyError(msg)
