# SPDX-License-Identifier: Apache-2.0
"""Compiles the BPF programs: as a build hook for wheels and editable installs, as a script for `make bpf`."""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE_DIRECTORIES = ("bpf", "bench/decision")
OBJECT_DIRECTORY = "src/poise/objects"
FLAGS = (
    *("-O2", "-g", "-target", "bpf"),
    "-mcpu=v3",  # atomics that return a value
    "-fno-strict-aliasing",  # headers are read and written in words of other types, as in the kernel itself
    *("-Wall", "-Werror"),
    f"-I/usr/include/{platform.machine()}-linux-gnu",  # Debian keeps asm/types.h there
)


class CompileObjects(BuildHookInterface):  # type: ignore[type-arg]  # the hook uses no builder configuration
    """Compiles the objects before a wheel is put together.

    The wheel stays tagged py3-none-any although it carries them: BPF bytecode is the same for every
    little-endian machine, and BTF relocates what differs between kernels.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # hatchling's signature
        """Compile what is out of date."""
        compile_objects(Path(self.root))


def compile_objects(root: Path) -> None:
    """Bring the objects in src/poise/objects up to date with the BPF sources.

    An object is compiled again when its source, any header or this file is newer, and removed when its
    source is gone. Leaves with exit status 1 and one sentence when that fails.
    """
    directories = [root / name for name in SOURCE_DIRECTORIES]
    sources = sorted(source for directory in directories for source in directory.glob("*.bpf.c"))
    headers = [header for directory in directories for header in directory.rglob("*.h")]
    shared = max(path.stat().st_mtime_ns for path in [*headers, Path(__file__)])
    objects = {root / OBJECT_DIRECTORY / source.with_suffix(".o").name: source for source in sources}
    for stale in set((root / OBJECT_DIRECTORY).glob("*.bpf.o")) - set(objects):
        stale.unlink(missing_ok=True)
    for target, source in objects.items():
        newest = max(shared, source.stat().st_mtime_ns)
        if not target.exists() or target.stat().st_mtime_ns < newest:
            print(f"compiling {source.relative_to(root)}", file=sys.stderr)  # noqa: T201
            _compile(source, target, root)


def _compile(source: Path, target: Path, root: Path) -> None:
    # The object appears at once and whole: whoever loads it meanwhile gets the old one or the new one.
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        unfinished = Path(directory, target.name)
        # BTF names the sources, and the object must not depend on where they lie.
        anywhere = f"-ffile-prefix-map={root}=."
        _run("clang", *FLAGS, anywhere, f"-I{root}/bpf", "-c", str(source), "-o", str(unfinished))
        _run("llvm-strip", "-g", str(unfinished))  # drops DWARF, keeps BTF
        unfinished.replace(target)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        sys.exit(f"poise: no {command[0]} to compile the BPF programs; install clang, llvm and libbpf-dev")
    except subprocess.CalledProcessError as error:
        sys.exit(f"poise: {command[0]} failed with exit status {error.returncode} (its message is above)")


if __name__ == "__main__":
    compile_objects(Path(__file__).resolve().parent)
