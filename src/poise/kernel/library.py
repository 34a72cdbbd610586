# SPDX-License-Identifier: Apache-2.0
"""libbpf.so.1, opened by ctypes, and what its results mean.

ctypes on the shared library that iproute2 already brings: no compiler and no further package
is needed at run time.
"""

import ctypes
import errno
import os
from functools import cache

from poise.errors import PoiseError


class BpfError(PoiseError):
    """A BPF operation that the kernel or libbpf refused; `log` is the verifier's, if it spoke."""

    def __init__(self, doing: str, error: int, log: str = "") -> None:
        """Say what was being done, the (positive) errno, and what libbpf printed."""
        self.errno = error
        self.log = log
        super().__init__(f"cannot {doing}: {_reason(error, log)}")


def _reason(error: int, log: str) -> str:
    if error in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
        return "this needs root (CAP_BPF and CAP_NET_ADMIN)"
    return os.strerror(error) + (f"; the kernel's verifier said:\n{log}" if "PROG LOAD LOG" in log else "")


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTERS = (
    "bpf_object__open_file",
    "bpf_object__find_program_by_name",
    "bpf_object__find_map_by_name",
    "bpf_object__next_map",
    "bpf_object__btf",
    "bpf_map__initial_value",
    "btf__load_from_kernel_by_id",
    "btf__raw_data",
)
_messages: list[str] = []
_callbacks: list[object] = []  # libbpf holds only a pointer to what is called


@cache
def library() -> ctypes.CDLL:
    """Return libbpf.so.1, opened once; PoiseError if it is not installed."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        libc = ctypes.CDLL("libc.so.6")
    except OSError as error:
        msg = "libbpf.so.1 is not installed: on Debian, `apt-get install libbpf1`"
        raise PoiseError(msg) from error
    for name in _POINTERS:
        getattr(lib, name).restype = ctypes.c_void_p
    lib.bpf_map__name.restype = ctypes.c_char_p
    lib.btf__free.restype = None
    lib.bpf_map__is_internal.restype = ctypes.c_bool

    def keep(level: int, text: bytes, arguments: int) -> int:
        if level == 0:  # LIBBPF_WARN, with which failures are explained
            line = ctypes.create_string_buffer(65536)
            libc.vsnprintf(line, ctypes.c_size_t(len(line)), text, ctypes.c_void_p(arguments))
            _messages.append(line.value.decode(errors="replace"))
        return 0

    callback = _PRINT(keep)
    _callbacks.append(callback)
    lib.libbpf_set_print(callback)
    return lib


def check(doing: str, result: int) -> int:
    """Return a result that is not negative; BpfError for one that is (libbpf returns -errno)."""
    log = "".join(_messages)
    _messages.clear()
    if result < 0:
        raise BpfError(doing, -result, log)
    return result


def check_pointer(doing: str, pointer: int | None) -> ctypes.c_void_p:
    """Return a pointer that is not NULL; BpfError with errno for one that is."""
    if not pointer:
        check(doing, -(ctypes.get_errno() or errno.ENOENT))
    return ctypes.c_void_p(pointer)
