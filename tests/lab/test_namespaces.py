# SPDX-License-Identifier: Apache-2.0
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from poise.lab.namespaces import NETNS, Lab, LabError, Namespace, run, sweep

pytestmark = pytest.mark.root

HOLD_A_LAB = """
import signal
# A test run in the background may ignore these, and what it starts would too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from poise.lab.network import ServersLab
with ServersLab(1) as lab:
    print(lab.name, lab.directory, lab.servers[0].pid, flush=True)
    sys.stdin.read()
"""


def hold_a_lab() -> tuple["subprocess.Popen[str]", str, Path, int]:
    """Start a program that builds a lab; returns it, the lab's name and directory, and its nginx's pid."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_LAB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    name, directory, pid = holder.stdout.readline().split()
    return holder, name, Path(directory), int(pid)


def namespaces_of(name: str) -> list[str]:
    """The network namespaces of the lab with this name."""
    return [path.name for path in NETNS.glob(f"{name}-*")]


def runs(pid: int) -> bool:
    """Whether a process runs, rather than being gone or waiting for its parent to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT)],
    ids=["SIGTERM", "closed terminal", "Ctrl-C"],
)
def test_an_interrupted_lab_leaves_nothing_behind(number: int, code: int) -> None:
    """Every way to stop a program undoes namespaces, processes and files before it ends."""
    holder, name, directory, pid = hold_a_lab()
    assert namespaces_of(name)
    holder.send_signal(number)
    holder.communicate(timeout=20)
    assert holder.returncode == code
    assert namespaces_of(name) == []
    assert not directory.exists()
    assert not runs(pid)


def test_the_next_lab_sweeps_what_a_killed_one_left() -> None:
    """What a lab could not undo, because it was killed, is gone once another lab is entered."""
    holder, name, directory, pid = hold_a_lab()
    holder.kill()
    holder.communicate()
    assert namespaces_of(name)
    with Lab():
        assert namespaces_of(name) == []
        assert not directory.exists()
        assert not runs(pid)


def test_sweeping_spares_labs_that_are_in_use() -> None:
    """A lab of a living process is nobody else's to remove."""
    with Lab() as lab:
        namespace = lab.namespace("spared")
        assert sweep() == []
        assert namespace.path.exists()


def test_a_lab_that_fails_half_built_is_undone() -> None:
    """An exception while the lab is being built leaves nothing behind either."""

    class Failing(Lab):
        def build(self) -> None:
            self.namespace("half")
            raise LabError("no more")

    lab = Failing()
    with pytest.raises(LabError, match="no more"), lab:
        pass
    assert namespaces_of(lab.name) == []
    assert not lab.directory.exists()


def test_a_namespace_ends_the_processes_in_it() -> None:
    """No program outlives its namespace, also not a child that has left its parent's process group."""
    with Lab() as lab:
        namespace = lab.namespace("home")
        process = namespace.popen(["setsid", "--fork", "sleep", "600"])
        assert process.wait(timeout=5) == 0
        (pid,) = run(["ip", "netns", "pids", namespace.name]).split()
        assert runs(int(pid))
    assert not runs(int(pid))


def test_entering_a_namespace_moves_the_thread_and_brings_it_back() -> None:
    """Inside `enter`, sockets belong to the namespace; after it, to the former one; bpffs stays in sight."""
    home = Path("/proc/thread-self/ns/net").readlink()
    mounts = Path("/proc/thread-self/ns/mnt").readlink()
    with Lab() as lab:
        namespace = lab.namespace("away")
        with namespace.enter():
            assert Path("/proc/thread-self/ns/net").readlink() != home
            assert Path("/proc/thread-self/ns/mnt").readlink() == mounts
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert Path("/proc/thread-self/ns/net").readlink() == home


def test_counters_are_those_of_the_namespace_and_include_zeros() -> None:
    """A test can ask for any counter by nstat's name and is told 0, not nothing, where nothing happened."""
    with Lab() as lab:
        counters = lab.namespace("counted").counters()
    assert counters["TcpExtTSEcrRejected"] == 0
    assert counters["TcpActiveOpens"] == 0
    assert counters["IpExtInOctets"] == 0


def test_a_failing_program_is_told_with_what_it_said() -> None:
    """A lab's error names the command and its complaint, so that a failed build explains itself."""
    with Lab() as lab, pytest.raises(LabError, match=r"`nsenter .* ip -batch -` failed .* \"?bogus"):
        lab.namespace("strict").ip("link set bogus up")


def test_deleting_a_namespace_twice_is_no_error() -> None:
    """Undoing what is undone already does nothing."""
    Namespace("poise-lab-never-made").delete()
