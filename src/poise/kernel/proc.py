# SPDX-License-Identifier: Apache-2.0
"""Sysctls and protocol counters, from /proc.

Both belong to a network namespace. Sysctls are those of the calling thread's; counters those of the calling
thread's or of another process's.
"""

from pathlib import Path
from typing import Literal

from poise.errors import PoiseError

_SYSCTLS = Path("/proc/sys")
_SWAPPED = str.maketrans("./", "/.")


def interface_sysctl(
    interface: str,
    name: str,
    table: Literal["conf", "neigh"] = "conf",
    *,
    family: Literal["ipv4", "ipv6"] = "ipv4",
) -> str:
    """The key of an interface's sysctl: net.ipv4.conf.eth0.forwarding.

    A dot in the interface's name becomes a slash, as sysctl(8) has it: net.ipv4.conf.eth0/100.forwarding.
    """
    return f"net.{family}.{table}.{interface.replace('.', '/')}.{name}"


def read_sysctl(key: str) -> str:
    """The value of a sysctl; raises PoiseError, naming the file, where it cannot be read."""
    path = sysctl_path(key)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise PoiseError(f"cannot read {path}: {error.strerror}") from None


def write_sysctl(key: str, value: str) -> None:
    """Set a sysctl; raises PoiseError, naming the file, where the kernel refuses."""
    path = sysctl_path(key)
    try:
        path.write_text(value)
    except OSError as error:
        raise PoiseError(f"cannot write {value} to {path}: {error.strerror}") from None


def has_sysctl(key: str) -> bool:
    """Whether there is such a sysctl: those of an interface come and go with it."""
    return sysctl_path(key).exists()


def sysctl_path(key: str) -> Path:
    """The file of a sysctl, its key written with dots (a slash then stands for a dot in a name)."""
    return _SYSCTLS / key.translate(_SWAPPED)


def counters(process: int | Literal["self"] = "self") -> dict[str, int]:
    """The protocol counters of a process's network namespace, by their names in nstat(8): TcpExtPAWSEstab.

    Raises PoiseError, naming the file, where the process is not there.
    """
    # /proc/self would be the namespace of the process's first thread
    net = Path("/proc", "thread-self" if process == "self" else str(process), "net")
    found: dict[str, int] = {}
    for path in (net / "snmp", net / "netstat"):
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise PoiseError(f"cannot read {path}: {error.strerror}") from None
        # two lines a group: "TcpExt: SyncookiesSent ..." and "TcpExt: 0 ..."
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group, *members = names.split()
            numbers = values.split()[1:]
            prefix = group.removesuffix(":")
            found |= {prefix + name: int(number) for name, number in zip(members, numbers, strict=True)}
    return found
