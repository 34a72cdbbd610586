# SPDX-License-Identifier: Apache-2.0
import errno
from ipaddress import IPv4Address
from typing import Any

import pytest

from poise.kernel.libbpf import Object
from poise.kernel.library import library
from poise.kernel.maps import BATCH, Map, MapError, possible_cpus
from tests.kernel.programs import loaded

pytestmark = pytest.mark.root

ROWS = 3 * BATCH  # more than one batch, and the last one is full
SOURCE = f"""
struct odd {{
	__be32 address;
	__u8 mac[6];
	__u16 port;
}};

struct prefix {{
	__u32 length;
	__be32 address;
}};

struct {{
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, {ROWS});
	__type(key, __u32);
	__type(value, struct odd);
}} array SEC(".maps");

struct {{
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct odd);
}} percpu SEC(".maps");

struct {{
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, {ROWS});
	__type(key, struct odd);
	__type(value, __u32);
}} hash SEC(".maps");

struct {{
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
}} trie SEC(".maps");
"""


def odd(number: int) -> dict[str, Any]:
    """A value of `struct odd`, or a key."""
    return {
        "address": 0x0A000000 + number,
        "mac": bytes([2, 0, 0, 0, 0, number % 256]),
        "port": number % 65536,
    }


@pytest.fixture(scope="module")
def program() -> Object:
    """An object with one map of each kind."""
    return loaded(SOURCE)


@pytest.fixture
def array(program: Object) -> Map:
    """An array that is all zero."""
    found = program.map("array")
    found.update([(row, {}) for row, _ in found.nonzero()])
    return found


@pytest.fixture
def hashed(program: Object) -> Map:
    """A hash map that is empty."""
    found = program.map("hash")
    for key, _ in list(found.items()):
        found.delete(key)
    return found


def test_a_value_is_read_as_it_was_written(array: Map) -> None:
    """What is set is what is got, and the rest of an array stays zero."""
    array.set(7, odd(1))
    assert array.get(7) == odd(1)
    assert array.get(8) == {"address": 0, "mac": bytes(6), "port": 0}
    assert list(array.nonzero()) == [(7, odd(1))]


def test_all_elements_are_yielded_whatever_the_batch(array: Map) -> None:
    """Reading all of a map that is larger than a batch, and a multiple of it, misses and repeats nothing."""
    array.update([(row, odd(row + 1)) for row in range(ROWS)])
    assert list(array.items()) == [(row, odd(row + 1)) for row in range(ROWS)]


def test_a_hash_map_takes_and_gives_many_at_once(hashed: Map) -> None:
    """Keys are structs like values; batches write and read all of them."""
    hashed.update([(odd(number), number) for number in range(BATCH + 1)])
    assert sorted((key["address"], value) for key, value in hashed.items()) == [
        (0x0A000000 + number, number) for number in range(BATCH + 1)
    ]


def test_a_key_may_be_missing(hashed: Map) -> None:
    """A key that is not there is None, deleting it is no error, and an empty map yields nothing."""
    assert hashed.get(odd(1)) is None
    hashed.delete(odd(1))
    assert list(hashed.items()) == []
    hashed.set(odd(1), 5)
    hashed.delete(odd(1))
    assert hashed.get(odd(1)) is None


def test_a_full_map_says_so(hashed: Map) -> None:
    """One entry too many is refused with the map's name and what is wrong, alone as in a batch."""
    hashed.update([(odd(number), number) for number in range(ROWS)])
    with pytest.raises(MapError, match=r"^cannot write the BPF map hash: it is full$") as refusal:
        hashed.set(odd(ROWS), 1)
    assert refusal.value.errno == errno.E2BIG
    with pytest.raises(MapError, match=r"^cannot write the BPF map hash: it is full$"):
        hashed.update([(odd(ROWS), 1)])


def test_each_cpu_has_its_value(program: Object) -> None:
    """Of a per-CPU map, values are lists with one for each possible CPU, whatever their size."""
    cpus = possible_cpus()
    percpu = program.map("percpu")
    percpu.set(1, [odd(10 + cpu) for cpu in range(cpus)])
    assert percpu.get(1) == [odd(10 + cpu) for cpu in range(cpus)]
    assert dict(percpu.items()).keys() == {0, 1, 2}
    assert dict(percpu.nonzero()) == {1: [odd(10 + cpu) for cpu in range(cpus)]}
    percpu.update({2: [odd(20 + cpu) for cpu in range(cpus)]})
    assert percpu.get(2) == [odd(20 + cpu) for cpu in range(cpus)]


def test_possible_cpus_are_those_of_the_kernel() -> None:
    """A buffer for per-CPU values is as long as the kernel writes."""
    assert possible_cpus() == library().libbpf_num_possible_cpus()


def test_prefixes_are_found_by_what_is_in_them(program: Object) -> None:
    """A trie answers an address with its longest prefix, and tells its prefixes."""
    trie = program.map("trie")
    prefixes = [(8, "10.0.0.0"), (24, "10.1.2.0")]
    keys = [{"length": length, "address": int(IPv4Address(address))} for length, address in prefixes]
    for value, key in enumerate(keys, 1):
        trie.set(key, value)
    lookups = [
        trie.get({"length": 32, "address": int(IPv4Address(a))}) for a in ("10.1.2.3", "10.9.9.9", "11.0.0.0")
    ]
    assert lookups == [2, 1, None]
    assert sorted(trie.items(), key=lambda entry: entry[1]) == list(zip(keys, (1, 2), strict=True))


def test_what_the_kernel_refuses_names_map_and_reason(program: Object) -> None:
    """A key beyond an array, or an array's element to be deleted, is a MapError with the kernel's errno."""
    percpu = program.map("percpu")
    with pytest.raises(MapError, match=r"^cannot delete from the BPF map percpu: EINVAL$") as refusal:
        percpu.delete(1)
    assert refusal.value.errno == errno.EINVAL
    assert percpu.get(3) is None
