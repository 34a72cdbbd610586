# SPDX-License-Identifier: Apache-2.0
"""Network namespaces and the veth links between them; everything made here is undone, whatever happens."""

import ctypes
import itertools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

from poise.errors import PoiseError

PREFIX = "poise-lab"
NETNS = Path("/run/netns")
BPFFS = Path("/sys/fs/bpf")
CLONE_NEWNET = 0x40000000
GRACE = 3.0  # seconds a process gets between SIGTERM and SIGKILL
_IPV6_SETTINGS = {
    "disable_ipv6": 0,
    "accept_dad": 0,
    "accept_ra": 0,
    "accept_redirects": 0,  # with one arm, hosts would be told to talk past the balancer
    "router_solicitations": 0,
}
_ENDING = (signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


class LabError(PoiseError):
    """The lab could not be built, or a program in it failed."""


def run(argv: Sequence[str], *, text: str | None = None, timeout: float = 30) -> str:
    """Run a program to its end and return its stdout.

    `text` is its stdin. Raises LabError with what it said on stderr.
    """
    try:
        done = subprocess.run(argv, check=False, input=text, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        raise LabError(f"the lab needs the program {argv[0]!r}, which is not installed") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"`{' '.join(argv)}` did not end within {timeout:g} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or "nothing"
        raise LabError(f"`{' '.join(argv)}` failed with exit code {done.returncode} and said: {said}")
    return done.stdout


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of poise with the interpreter that runs this."""
    return [sys.executable, "-m", module, *arguments]


def end(process: subprocess.Popen[str]) -> None:
    """End a process that `Namespace.popen` started, with its children: SIGTERM, then SIGKILL.

    Closes its stdin; who reads its stdout closes that.
    """
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Not yet waited for, so its process group cannot belong to anybody else.
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
                break
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


@contextmanager
def entered(path: Path) -> Iterator[None]:
    """Move the calling thread into the network namespace at `path`, and back at the end.

    Only the network changes: mounts stay, so that pins in bpffs remain visible. Sockets belong to the
    namespace in which they were opened, wherever they are used later.
    """
    with Path("/proc/thread-self/ns/net").open() as home, path.open() as away:
        _setns(away.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise LabError(f"cannot enter a network namespace: {os.strerror(number)}")


def _kill(pid: int) -> None:
    """SIGKILL a process that is not our child, and wait until it has ended."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], (), (), GRACE)
        finally:
            os.close(fd)


class Namespace:
    """One network namespace, its processes and its counters."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NETNS / name
        self.processes: list[subprocess.Popen[str]] = []

    def create(self) -> None:
        """Make it, with nothing but its loopback interface."""
        run(["ip", "netns", "add", self.name])
        # Nothing but what the lab sends shall be on its wires: no router solicitations, no MLD.
        self.sysctl({"net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1})
        self.ip("link set lo up")

    def delete(self) -> None:
        """End all processes in it, then remove it; a namespace that is gone already is no error."""
        for process in self.processes:
            end(process)
        self.processes.clear()
        if self.path.exists():
            for pid in run(["ip", "netns", "pids", self.name]).split():
                _kill(int(pid))
            run(["ip", "netns", "delete", self.name])

    def _command(self, argv: Sequence[str]) -> list[str]:
        # Not `ip netns exec`: it remounts /sys, and pins in bpffs are then out of sight.
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, argv: Sequence[str], *, text: str | None = None, timeout: float = 30) -> str:
        """Run a program in here to its end and return its stdout; raises LabError if it fails."""
        return run(self._command(argv), text=text, timeout=timeout)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[str] = subprocess.DEVNULL,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program in here; it is ended with the namespace at the latest.

        It gets a session of its own, so that Ctrl-C on the terminal reaches the lab alone, which then ends
        its programs in order.
        """
        process = subprocess.Popen(
            self._command(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Move the calling thread in here, and back at the end; see `entered`."""
        with entered(self.path):
            yield

    def ip(self, *commands: str) -> None:
        """Run iproute2 commands (without the leading `ip`) in here, in one batch."""
        self.run(["ip", "-batch", "-"], text="\n".join(commands) + "\n")

    def sysctl(self, settings: Mapping[str, object]) -> None:
        """Set kernel parameters of this namespace, by their dotted names."""
        with self.enter():
            for name, value in settings.items():
                try:
                    Path("/proc/sys", *name.split(".")).write_text(f"{value}\n")
                except OSError as error:
                    raise LabError(
                        f"cannot set {name} to {value!r} in a namespace: {error.strerror}"
                    ) from None

    def enable_ipv6(self) -> None:
        """Have IPv6 in here, with addresses that are in use at once, and nothing learned from routers.

        Before the links are made: they take over what is the default by then.
        """
        self.sysctl(
            {
                f"net.ipv6.conf.{which}.{name}": value
                for which in ("all", "default")
                for name, value in _IPV6_SETTINGS.items()
            }
        )

    def offloads(self, interface: str) -> None:
        """Have every frame and checksum that a veth sends be real, and what it receives stay in order.

        With tx checksum offload on, veth hands over packets whose checksum is not yet computed, which an XDP
        program would patch into garbage. With GRO off and no XDP program, a veth has no NAPI: frames that its
        peer's XDP program redirects to it are dropped, and those sent from different cores are reordered.
        """
        self.run(["ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "on"])

    def counters(self) -> dict[str, int]:
        """All SNMP counters of this namespace under nstat's names (`TcpExtTSEcrRejected`), zeros included."""
        with self.enter():
            # /proc/net is the main thread's; this may run in another.
            texts = [
                Path(f"/proc/thread-self/net/{name}").read_text() for name in ("snmp", "netstat", "snmp6")
            ]
        ipv6 = texts.pop().split()
        lines = "".join(texts).splitlines()
        counters: dict[str, int] = {}
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group, *columns = names.split()
            counters |= {
                group[:-1] + column: int(value)
                for column, value in zip(columns, values.split()[1:], strict=True)
            }
        # One name and its value a line, and without IPv6 in the namespace zeros.
        return counters | {name: int(value) for name, value in zip(ipv6[::2], ipv6[1::2], strict=True)}


class Lab:
    """The namespaces, links, files and processes of one run, as a context manager.

    Leaving it undoes everything, also after an exception, Ctrl-C, SIGTERM or SIGHUP (which raise SystemExit
    while the lab stands in the main thread). What a killed run left is swept when the next lab is entered.
    """

    def __init__(self) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.pins = BPFFS / self.name
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid():
            raise LabError("only root can make network namespaces: run this as root")
        try:
            sweep()
            self._undo.enter_context(_signals_raise())
            # Before the first thing is made: an interrupt between making and noting would leave it behind.
            self._undo.callback(shutil.rmtree, self.pins, ignore_errors=True)
            self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
            self._undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def build(self) -> None:
        """What a kind of lab makes when it is entered."""

    def close(self) -> None:
        """Undo everything; Ctrl-C, SIGTERM and SIGHUP wait until it is done."""
        former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_ENDING})
        try:
            self._undo.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def namespace(self, role: str) -> Namespace:
        """Make a namespace; `role` tells it from the others of this lab."""
        namespace = Namespace(f"{self.name}-{role}")
        self._undo.callback(namespace.delete)
        namespace.create()
        return namespace

    def link(self, a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
        """Join interface `a_name` in `a` and `b_name` in `b` by a veth pair, both up."""
        run(
            [
                *("ip", "link", "add", "name", a_name, "netns", a.name, "type", "veth"),
                *("peer", "name", b_name, "netns", b.name),
            ]
        )
        # When a veth is set up, it looks whether its peer has GRO on, and only then lets XDP redirect to it
        # (veth_set_xdp_features): hence first the offloads of both.
        a.offloads(a_name)
        b.offloads(b_name)
        a.ip(f"link set {a_name} up")
        b.ip(f"link set {b_name} up")


def sweep() -> list[str]:
    """Remove what labs of processes that no longer live have left; returns the namespaces' names."""
    swept = []
    for path in sorted(_entries(NETNS)):
        # Another lab may be sweeping the same at this moment.
        with suppress(LabError):
            if _owner_is_dead(path.name):
                Namespace(path.name).delete()
                swept.append(path.name)
    for directory in (Path(tempfile.gettempdir()), BPFFS):
        for path in _entries(directory):
            if _owner_is_dead(path.name):
                shutil.rmtree(path, ignore_errors=True)
    return swept


def _entries(directory: Path) -> list[Path]:
    return list(directory.glob(f"{PREFIX}-*")) if directory.is_dir() else []


def _owner_is_dead(name: str) -> bool:
    match = re.match(rf"{PREFIX}-(\d+)-", name)
    return match is not None and not Path("/proc", match[1]).exists()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn signals that would end this process at once into SystemExit; other threads cannot set handlers."""
    numbers = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
