# SPDX-License-Identifier: Apache-2.0
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from poise.kernel import bpffs
from poise.kernel.libbpf import Link, Object
from poise.kernel.library import BpfError
from poise.kernel.netlink import interface
from tests.kernel.programs import loaded, opened
from tests.kernel.two_machines import living_here

pytestmark = pytest.mark.root

NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE
SOURCE = """
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} runs SEC(".maps");

const volatile __u32 step = 1;

SEC("xdp")
int first(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u32 *count = bpf_map_lookup_elem(&runs, &zero);
	__u8 *data = (void *)(long)ctx->data;

	if (count)
		*count += step;
	if (data + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	data[0] = 0xff;
	return XDP_TX;
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("syscall")
int less(__u32 *pair)
{
	return pair[0] - pair[1];
}
"""
BAD = """
SEC("xdp")
int reckless(struct xdp_md *ctx)
{
	return *(__u8 *)(long)ctx->data;
}
"""


@pytest.fixture(scope="module")
def program() -> Object:
    """The object above, loaded."""
    return loaded(SOURCE)


@pytest.fixture
def pins() -> Iterator[Path]:
    """A directory in the BPF file system."""
    path = bpffs.BPFFS / f"poise-test-{os.getpid()}"
    assert bpffs.make_directory(path)
    yield path
    bpffs.remove_pins(path, [pin.name for pin in bpffs.pins_in(path)])


def test_a_refused_program_comes_with_the_verifiers_words() -> None:
    """A program that the kernel refuses is a BpfError with its errno and the verifier's log."""
    with pytest.raises(BpfError, match=r"^cannot load program\.bpf\.o: Permission denied; ") as refusal:
        loaded(BAD)
    assert refusal.value.errno == errno.EACCES
    assert "invalid access to packet" in refusal.value.log
    assert refusal.value.log in str(refusal.value)


def test_words_of_one_failure_are_not_told_with_the_next(program: Object) -> None:
    """Each error carries only what was said about it."""
    with pytest.raises(BpfError):
        loaded(BAD)
    with pytest.raises(BpfError) as refusal:
        program.program("ghost")
    assert "invalid access" not in refusal.value.log


def test_without_root_the_reason_is_named() -> None:
    """Whoever may not load programs is told what is needed."""
    run = """
import os
from tests.kernel.programs import opened
program = opened('SEC("xdp") int pass(struct xdp_md *ctx) { return XDP_PASS; }')
os.seteuid(65534)
try:
    program.load()
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    assert done.stdout == "cannot load program.bpf.o: this needs root (CAP_BPF and CAP_NET_ADMIN)\n"


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    """A file that is not there, or is something else, is told by its path."""
    path = tmp_path / "ghost.o"
    for content in (None, b"", b"no ELF"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BpfError, match=rf"^cannot open {path}: "):
            Object(path)


def test_names_that_an_object_lacks_are_refused(program: Object) -> None:
    """A wrong name of a map or program is told."""
    with pytest.raises(BpfError, match=r"^cannot find the BPF program ghost: "):
        program.program("ghost")
    with pytest.raises(BpfError, match=r"^cannot find the BPF map ghost: "):
        program.map("ghost")


def test_a_program_runs_on_a_packet_without_a_network(program: Object) -> None:
    """A test run gives the verdict, the changed packet and a time, and is as real as any run."""
    runs = program.map("runs")
    before = runs.get(0)
    result = program.program("first").test_run(bytes(64), repeat=3)
    assert (result.verdict, result.packet) == (3, b"\xff" + bytes(63))
    assert result.nanoseconds >= 0
    assert runs.get(0) == before + 3


def test_a_program_is_called_with_an_argument(program: Object) -> None:
    """A program for system calls gets the bytes of its argument, and its result has a sign."""
    assert program.program("less").call(bytes([3, 0, 0, 0, 5, 0, 0, 0])) == -2


def test_a_pinned_link_outlives_its_owner_and_is_adopted(program: Object, pins: Path) -> None:
    """A pinned link stays attached when it is closed; another owner replaces its program in place."""
    with living_here():
        ifindex = interface("eth0").index
        with closing(Link.attach_xdp(program.program("first"), ifindex, NATIVE)) as link:
            link.pin(pins / "link")
        assert attached() == program.program("first").id
        with closing(Link.open_pinned(pins / "link")) as link:
            assert link.ifindex == ifindex
            link.update(program.program("second"))
        assert attached() == program.program("second").id
        with closing(Link.open_pinned(pins / "link")) as link:
            link.detach()
            assert attached() is None
            assert link.ifindex == 0
            link.detach()


def test_a_link_that_is_not_pinned_ends_with_its_owner(program: Object) -> None:
    """A link that nobody holds is detached."""
    with living_here():
        Link.attach_xdp(program.program("first"), interface("eth0").index, NATIVE).close()
        assert attached() is None


def attached() -> int | None:
    """The id of the program on our eth0, as iproute2 sees it."""
    shown = subprocess.run(["ip", "link", "show", "eth0"], capture_output=True, text=True, check=True).stdout
    return int(shown.split("prog/xdp id ")[1].split()[0]) if "prog/xdp" in shown else None


def test_a_link_knows_that_its_interface_is_gone(program: Object) -> None:
    """When an interface is removed, its link is attached to none."""
    with living_here() as machines:
        link = Link.attach_xdp(program.program("first"), interface("eth0").index, NATIVE)
        machines.here.ip("link delete eth0")
        with closing(link):
            assert link.ifindex == 0


def test_pinned_maps_are_taken_over(pins: Path) -> None:
    """A second object with the same pins shares the maps, but not the compiler's own constants."""
    objects = [opened(SOURCE), opened(SOURCE)]
    for each in objects:
        each.pin_maps(pins)
        each.load()
    objects[0].map("runs").set(0, 41)
    objects[1].program("first").test_run(bytes(64))
    assert objects[0].map("runs").get(0) == 42
    assert [path.name for path in pins.iterdir()] == ["runs"]


def test_pinned_maps_of_another_size_are_refused(pins: Path) -> None:
    """A pinned map that does not fit is left as it is, and libbpf's words tell of the mismatch."""
    first, second = opened(SOURCE), opened(SOURCE)
    first.pin_maps(pins)
    first.load()
    second.pin_maps(pins)
    second.set_max_entries("runs", 2)
    with pytest.raises(BpfError) as refusal:
        second.load()
    assert "mismatch" in refusal.value.log
    assert first.map("runs").max_entries == 1


def test_a_map_can_have_another_size(pins: Path) -> None:
    """A map is made with the size that is given before loading."""
    found = opened(SOURCE)
    found.set_max_entries("runs", 5)
    found.pin_maps(pins)
    found.load()
    found.map("runs").set(4, 1)
    assert found.map("runs").max_entries == 5


def test_a_closed_object_takes_its_programs_along() -> None:
    """What nobody attached or pinned is gone when its object is closed."""
    with closing(loaded(SOURCE)) as found:
        fd = found.program("first").fd
        assert Path(f"/proc/self/fd/{fd}").readlink() == Path("anon_inode:bpf-prog")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
