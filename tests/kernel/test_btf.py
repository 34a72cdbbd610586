# SPDX-License-Identifier: Apache-2.0
import struct

import pytest

from poise.kernel.btf import Btf, Layout
from tests.kernel.programs import opened

SOURCE = """
enum colour { RED, GREEN = 5, BLUE = -1 };
enum wide { NARROW, WIDE = 1ULL << 40 };
typedef const volatile __u32 number;

struct inner {
	__u8 a;
	__u16 b;
};

struct outer {
	__be16 port;
	__be32 address;
	__u64 many;
	number const_number;
	__s32 temperature;
	__u8 mac[6];
	struct inner pair[2];
	enum colour colour;
	enum wide wide;
	_Bool yes;
} __attribute__((aligned(8)));

struct bits {
	__u32 low : 4, high : 28;
};

struct pointing {
	__u64 *where;
};

struct overlaid {
	union {
		__u32 a;
		__u32 b;
	} either;
};

struct huge {
	__int128 number;
};

struct outer outer SEC(".data.outer");
struct bits bits SEC(".data.bits");
struct pointing pointing SEC(".data.pointing");
struct overlaid overlaid SEC(".data.overlaid");
struct huge huge SEC(".data.huge");
"""
VALUE = {
    "port": 80,
    "address": 0x0A000001,
    "many": 1 << 63,
    "const_number": 7,
    "temperature": -40,
    "mac": bytes(range(6)),
    "pair": ({"a": 1, "b": 2}, {"a": 3, "b": 4}),
    "colour": 5,
    "wide": 1 << 40,
    "yes": 1,
}
BYTES = (
    struct.pack("!Hxx I", 80, 0x0A000001)
    + struct.pack("=Q I i", 1 << 63, 7, -40)
    + bytes(range(6))
    + struct.pack("=BxH BxH", 1, 2, 3, 4)
    + bytes(2)
    + struct.pack("=I 4x Q B 7x", 5, 1 << 40, 1)
)


@pytest.fixture(scope="module")
def btf() -> Btf:
    """The types of the source above."""
    return opened(SOURCE).btf


@pytest.fixture(scope="module")
def outer(btf: Btf) -> Layout:
    """The layout with everything in it."""
    return btf.struct("outer")


def test_a_struct_lies_in_memory_as_the_compiler_laid_it_out(outer: Layout) -> None:
    """Values become the very bytes that C has, with padding, and network order where the type says so."""
    assert outer.size == len(BYTES)
    assert outer.pack(VALUE) == BYTES
    assert outer.unpack(BYTES) == VALUE


def test_members_that_are_left_out_are_zero(outer: Layout) -> None:
    """A part of a struct is enough, and the rest is zero."""
    assert outer.pack({"port": 80}) == struct.pack("!H", 80).ljust(outer.size, b"\0")
    assert outer.unpack(bytes(outer.size))["pair"] == ({"a": 0, "b": 0}, {"a": 0, "b": 0})


def test_short_arrays_are_filled_up_and_long_ones_refused(outer: Layout) -> None:
    """Arrays may be shorter than they are in C, never longer."""
    assert outer.unpack(outer.pack({"mac": b"\1", "pair": [{"a": 9}]})) == outer.unpack(bytes(outer.size)) | {
        "mac": bytes((1, 0, 0, 0, 0, 0)),
        "pair": ({"a": 9, "b": 0}, {"a": 0, "b": 0}),
    }
    with pytest.raises(ValueError, match=r"^7 bytes do not fit 6$"):
        outer.pack({"mac": bytes(7)})
    with pytest.raises(ValueError, match=r"^3 elements do not fit 2$"):
        outer.pack({"pair": [{}] * 3})


def test_a_member_that_is_not_there_is_refused(outer: Layout) -> None:
    """A wrong name is told with that of the struct."""
    with pytest.raises(KeyError, match=r"struct outer has no member prot"):
        outer.pack({"prot": 80})


def test_enumerators_have_their_numbers(btf: Btf) -> None:
    """Enumerators are read by name, negative ones too."""
    assert btf.enum("colour") == {"RED": 0, "GREEN": 5, "BLUE": -1}


@pytest.mark.parametrize("name", ["bits", "pointing", "overlaid", "huge"])
def test_what_cannot_be_read_is_refused(btf: Btf, name: str) -> None:
    """Bit fields, pointers, unions and giant numbers are refused, never misread."""
    with pytest.raises(ValueError, match=r" that poise can read$|^struct bits has bit fields"):
        btf.struct(name)


def test_types_that_are_not_there_are_refused(btf: Btf) -> None:
    """A type that the object does not have is told by its name."""
    with pytest.raises(KeyError, match="no type ghost in this object's BTF"):
        btf.struct("ghost")
    with pytest.raises(KeyError, match="no type outer in this object's BTF"):
        btf.enum("outer")


def test_foreign_bytes_are_refused() -> None:
    """What is no BTF, or is that of a machine with the other byte order, is refused."""
    with pytest.raises(ValueError, match=r"^this is not BTF of this machine's byte order$"):
        Btf(b"\xeb\x9f" + bytes(30))
