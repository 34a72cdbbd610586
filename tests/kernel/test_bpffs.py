# SPDX-License-Identifier: Apache-2.0
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.kernel import bpffs, maps
from tests.kernel.programs import opened

pytestmark = pytest.mark.root

SOURCE = """
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} others SEC(".maps");
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of the BPF file system that does not exist yet."""
    path = bpffs.BPFFS / f"poise-test-{os.getpid()}"
    yield path
    bpffs.remove_pins(path, [pin.name for pin in bpffs.pins_in(path)])


def test_a_directory_is_made_once(directory: Path) -> None:
    """Who comes second is told that the directory was there."""
    assert bpffs.make_directory(directory)
    assert not bpffs.make_directory(directory)
    assert directory.is_dir()


@pytest.mark.parametrize("deeper", [False, True])
def test_other_file_systems_hold_no_pins(tmp_path: Path, deeper: bool) -> None:  # noqa: FBT001  two depths
    """Elsewhere no directory is made, nor are its parents."""
    path = tmp_path / "new" / "pins" if deeper else tmp_path
    with pytest.raises(PoiseError, match=rf"^the pin directory {path} must be a directory below a BPF file "):
        bpffs.make_directory(path)
    assert list(tmp_path.iterdir()) == []


def test_the_root_of_the_file_system_is_everybodys() -> None:
    """Poise's pins are in a directory of its own."""
    with pytest.raises(PoiseError, match=r"^the pin directory /sys/fs/bpf must be a directory below "):
        bpffs.make_directory(bpffs.BPFFS)


def test_only_the_pins_that_are_named_are_removed(directory: Path) -> None:
    """Pins of others stay, and their directory with them; the last pin takes the directory along."""
    bpffs.make_directory(directory)
    program = opened(SOURCE)
    program.pin_maps(directory)
    program.load()
    bpffs.remove_pins(directory, ["numbers", "absent"])
    assert bpffs.pins_in(directory) == [directory / "others"]
    bpffs.remove_pins(directory, ["others"])
    assert not directory.exists()
    bpffs.remove_pins(directory, ["others"])
    assert bpffs.pins_in(directory) == []


def test_files_elsewhere_are_never_removed(tmp_path: Path) -> None:
    """A pin directory that is none costs nobody a file."""
    (tmp_path / "numbers").touch()
    bpffs.remove_pins(tmp_path, ["numbers"])
    assert (tmp_path / "numbers").exists()


def test_a_pinned_map_can_be_opened_without_its_program(directory: Path) -> None:
    """Whoever made it, its size is known, and the layouts of its keys and values."""
    bpffs.make_directory(directory)
    program = opened(SOURCE)
    program.pin_maps(directory)
    program.load()
    program.map("numbers").set(1, 7)
    program.close()
    with maps.open_pinned(directory / "numbers") as numbers:
        assert (numbers.name, numbers.max_entries) == ("numbers", 3)
        assert list(numbers.nonzero()) == [(1, 7)]
        numbers.set(1, 0)
        assert list(numbers.nonzero()) == []
    ghost = directory / "ghost"
    with pytest.raises(PoiseError, match=rf"^cannot open the pinned map {ghost}: "), maps.open_pinned(ghost):
        pass
