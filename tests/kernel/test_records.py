# SPDX-License-Identifier: Apache-2.0
"""Maps and layouts as numpy arrays."""

import numpy as np
import pytest

from poise.kernel import grace
from poise.kernel.btf import Array, Bytes, Scalar, Struct
from poise.kernel.maps import Map, MapError, possible_cpus
from poise.kernel.records import converted, dtype_of
from tests.kernel.programs import loaded, opened

LAYOUT = Struct(
    "row",
    16,
    {
        "port": (0, Scalar(2, "!H")),
        "ids": (2, Array(4, Scalar(2, "=H"))),
        "mac": (6, Bytes(6)),
        "level": (12, Scalar(4, "=i")),
    },
)
VALUE = {"port": 8080, "ids": (1, 513), "mac": b"\2\0\0\0\0\1", "level": -3}

SOURCE = """
const volatile __u64 first = 1;
const volatile __u32 limit = 7;
struct row { __u32 count; __u16 more; };
struct guarded { struct bpf_spin_lock lock; __u32 count; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 5000); __type(key, __u32);
         __type(value, struct row); } rows SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 300); __uint(map_flags, BPF_F_MMAPABLE);
         __type(key, __u32); __type(value, __u32); } mapped SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 300); __type(key, __u32);
         __type(value, struct row); } counters SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u64);
         __type(value, struct row); } hashed SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2); __type(key, __u32);
         __type(value, struct guarded); } guarded SEC(".maps");
SEC("xdp") int program(struct xdp_md *context)
{
    __u32 key = 0;
    __u64 wide = first;
    struct row *row = bpf_map_lookup_elem(&rows, &key);
    struct guarded *one = bpf_map_lookup_elem(&guarded, &key);

    bpf_map_lookup_elem(&mapped, &key);
    bpf_map_lookup_elem(&counters, &key);
    bpf_map_lookup_elem(&hashed, &wide);
    if (row && one) {
        bpf_spin_lock(&one->lock);
        one->count++;
        bpf_spin_unlock(&one->lock);
        row->count = limit;
    }
    return limit;
}
"""

pytestmark = pytest.mark.root


def test_a_dtype_reads_what_a_layout_writes() -> None:
    """Members have the same values, in whatever byte order they lie in memory."""
    dtype = dtype_of(LAYOUT)
    (record,) = np.frombuffer(LAYOUT.pack(VALUE), dtype)
    assert (record["port"], record["level"], record["mac"].tobytes()) == (8080, -3, VALUE["mac"])
    assert record["ids"].tolist() == [1, 513]


def test_records_go_into_another_layout_by_the_names_of_their_members() -> None:
    """Places do not matter, what is missing is zero, and what has no place is an error unless it may."""
    here = np.dtype([("count", "u4"), ("port", "u2")])
    there = np.dtype({"names": ["port", "new"], "formats": [">u2", "u1"], "offsets": [4, 0], "itemsize": 8})
    records = np.array([(1, 80)], here)
    with pytest.raises(KeyError, match="no member count"):
        converted(records, there)
    assert converted(records, there, partly=True)[["port", "new"]].tolist() == [(80, 0)]


def test_rows_are_written_and_read_in_parts() -> None:
    """Any part of an array comes back as it was written."""
    table = loaded(SOURCE).map("rows")
    rows = np.array([4999, 3, 2500])
    records = np.zeros(3, table.dtype)
    records["count"] = [1, 2, 3]
    table.write_rows(rows, records)
    assert np.flatnonzero(table.rows()["count"]).tolist() == [3, 2500, 4999]
    assert table.rows(2499, 3)["count"].tolist() == [0, 3, 0]
    assert table.rows(4998, 10)["count"].tolist() == [0, 1]
    table.clear(rows[:2])
    assert np.flatnonzero(table.rows()["count"]).tolist() == [2500]


def test_a_view_is_the_map_itself() -> None:
    """What is written by either way is seen by the other, also for values that are padded."""
    table = loaded(SOURCE).map("mapped")
    view = table.view()
    assert view.shape == (300,)
    view[299] = 5
    assert table.get(299) == 5
    table.set(7, 9)
    assert view[7] == 9


def test_counters_of_cpus_are_summed_member_by_member() -> None:
    """A row of a per-CPU array has one value for each CPU."""
    table = loaded(SOURCE).map("counters")
    values = np.zeros((1, possible_cpus()), table.dtype)
    values["count"], values["more"] = 3, 1
    table.write_rows(np.array([8]), values)
    assert table.rows(8, 1)["count"].tolist() == [[3] * possible_cpus()]
    assert table.sums(7, 2)["count"].tolist() == [0, 3 * possible_cpus()]
    table.clear(np.array([8]))
    assert not table.sums()["count"].any()


def test_elements_of_a_hash_are_put_unless_they_are_there() -> None:
    """The whole map can be copied, and only what is new; a map that is full says so."""
    table = loaded(SOURCE).map("hashed")
    keys = np.array([5, 6], np.uint64)
    values = np.array([(1, 2), (3, 4)], table.dtype)
    table.put(keys, values)
    values["count"] = 9
    table.put_new(np.array([6, 7], np.uint64), values)
    found = dict(zip(*(part.tolist() for part in table.elements()), strict=True))
    assert {key: value[0] for key, value in found.items()} == {5: 1, 6: 3, 7: 9}
    with pytest.raises(MapError) as refusal:
        table.put(np.arange(20, 30, dtype=np.uint64), np.zeros(10, table.dtype))
    assert refusal.value.is_full


def test_an_element_with_a_lock_is_changed_under_it() -> None:
    """The lock itself is no part of what is written."""
    table: Map = loaded(SOURCE).map("guarded")
    with table.changing(1) as record:
        record["count"] = 4
    with table.changing(1) as record:
        assert record["count"].tolist() == [4]


def test_constants_are_set_before_loading() -> None:
    """A program sees the value that it was given, each constant its own."""
    program = opened(SOURCE)
    program.set_constant("limit", 3)
    program.load()
    assert program.program("program").test_run(bytes(64)).verdict == 3
    with pytest.raises(KeyError, match="no variable nothing"):
        program.set_constant("nothing", 3)


def test_a_grace_period_ends() -> None:
    """Waiting returns, as often as one waits, also where a kernel only knows the second way."""
    for _ in range(3):
        grace.wait()
        grace.wait_by_map()
