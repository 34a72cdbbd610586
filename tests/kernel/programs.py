# SPDX-License-Identifier: Apache-2.0
"""Small BPF programs for tests, compiled as poise's own are."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import hatch_build
from hatch_build import FLAGS
from poise.kernel.libbpf import Object

_HEAD = """
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
"""


@cache
def _compiled(source: str) -> bytes:
    with TemporaryDirectory() as directory:
        (code, target) = (Path(directory, name) for name in ("program.bpf.c", "program.bpf.o"))
        code.write_text(_HEAD + source)
        headers = f"-I{Path(hatch_build.__file__).parent / 'bpf'}"
        subprocess.run(["clang", *FLAGS, headers, "-c", str(code), "-o", str(target)], check=True)
        return target.read_bytes()


def opened(source: str) -> Object:
    """The object of a C source, to which the usual headers and a license are added; not loaded yet."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "program.bpf.o")
        path.write_bytes(_compiled(source))
        return Object(path)


def loaded(source: str) -> Object:
    """The same, loaded; it goes with the process at the latest."""
    found = opened(source)
    found.load()
    return found
