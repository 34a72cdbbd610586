# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "poise/verdict.h"
SEC("xdp") int program(struct xdp_md *packet) { return VERDICT; }
char _license[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a tree with the build script, one header and two programs."""
    shutil.copy(REPOSITORY / "hatch_build.py", tmp_path)
    for directory in ("bpf/poise", "bench/decision", "src/poise/objects"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "bpf/poise/verdict.h").write_text("#define VERDICT XDP_PASS\n")
    (tmp_path / "bpf/one.bpf.c").write_text(PROGRAM)
    (tmp_path / "bench/decision/two.bpf.c").write_text(PROGRAM)
    return tmp_path


def _compile_objects(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(tree / "hatch_build.py")]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _objects(tree: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tree / "src/poise/objects").iterdir()}


def _make_newer(changed: Path, tree: Path) -> None:
    newest = max(path.stat().st_mtime for path in tree.rglob("*"))
    os.utime(changed, (newest + 1, newest + 1))


def test_each_source_has_its_object(tree: Path) -> None:
    """Programs of the balancer and of the benchmarks are compiled, and nothing else is left beside them."""
    assert _compile_objects(tree).returncode == 0
    assert set(_objects(tree)) == {"one.bpf.o", "two.bpf.o"}
    assert all(content.startswith(b"\x7fELF") for content in _objects(tree).values())


def test_objects_do_not_tell_where_they_were_compiled(tree: Path) -> None:
    """The same sources give the same objects wherever they lie."""
    _compile_objects(tree)
    assert not any(str(tree).encode() in content for content in _objects(tree).values())


def test_what_is_up_to_date_is_left_alone(tree: Path) -> None:
    """A second run compiles nothing."""
    _compile_objects(tree)
    assert _compile_objects(tree).stderr == ""


def test_a_changed_header_compiles_again(tree: Path) -> None:
    """No object is older than the headers that it was made from."""
    _compile_objects(tree)
    before = _objects(tree)
    header = tree / "bpf/poise/verdict.h"
    header.write_text("#define VERDICT XDP_DROP\n")
    _make_newer(header, tree)
    _compile_objects(tree)
    assert _objects(tree)["one.bpf.o"] != before["one.bpf.o"]


def test_an_object_goes_with_its_source(tree: Path) -> None:
    """A program that was removed does not stay in the next wheel."""
    _compile_objects(tree)
    (tree / "bpf/one.bpf.c").unlink()
    _compile_objects(tree)
    assert set(_objects(tree)) == {"two.bpf.o"}


def test_a_mistake_is_one_sentence_beside_the_message_of_clang(tree: Path) -> None:
    """Who compiles a broken program sees clang's message and no traceback, and keeps the object of before."""
    _compile_objects(tree)
    before = _objects(tree)
    source = tree / "bpf/one.bpf.c"
    source.write_text(PROGRAM.replace("VERDICT", "VERDICTS"))
    _make_newer(source, tree)
    result = _compile_objects(tree)
    assert result.returncode == 1
    assert "use of undeclared identifier 'VERDICTS'" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("poise: clang failed")
    assert _objects(tree) == before


def test_the_wheel_carries_all_objects(tmp_path: Path) -> None:
    """A user who installs the wheel needs no compiler."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    [wheel] = tmp_path.glob("poise-*-py3-none-any.whl")
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".bpf.o")}
    sources = [*REPOSITORY.glob("bpf/*.bpf.c"), *REPOSITORY.glob("bench/decision/*.bpf.c")]
    assert sources
    assert carried == {f"poise/objects/{source.with_suffix('.o').name}" for source in sources}
