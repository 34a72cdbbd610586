# SPDX-License-Identifier: Apache-2.0
import subprocess
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.kernel import proc
from tests.kernel.two_machines import living_here


def test_counters_have_the_names_of_nstat() -> None:
    """Every IPv4, TCP and MPTCP counter that nstat(8) shows is there under the same name."""
    output = subprocess.run(["nstat", "-asz"], check=True, stdout=subprocess.PIPE, text=True).stdout
    names = {line.split()[0] for line in output.splitlines() if not line.startswith("#")}
    found = proc.counters()
    assert {name for name in names if not name.startswith(("Ip6", "Icmp6", "Udp6", "UdpLite6"))} <= set(found)
    assert {"TcpExtPAWSEstab", "TcpActiveOpens", "IpExtInOctets"} <= set(found)


def test_counters_of_nobody_are_an_error() -> None:
    """Asking for a process that does not exist names the file that is missing."""
    with pytest.raises(PoiseError, match=r"^cannot read /proc/999999999/net/snmp: No such file"):
        proc.counters(999999999)


def test_keys_are_written_as_sysctl_writes_them() -> None:
    """A dot in an interface's name is written as a slash, and finds the right file."""
    key = proc.interface_sysctl("eth0.100", "forwarding")
    assert key == "net.ipv4.conf.eth0/100.forwarding"
    assert proc.sysctl_path(key) == Path("/proc/sys/net/ipv4/conf/eth0.100/forwarding")


def test_unknown_sysctls_are_told_with_their_path() -> None:
    """A sysctl that does not exist is named by its file, to read as to write."""
    path = "/proc/sys/net/ipv4/no_such_thing"
    assert not proc.has_sysctl("net.ipv4.no_such_thing")
    with pytest.raises(PoiseError, match=f"^cannot read {path}: No such file"):
        proc.read_sysctl("net.ipv4.no_such_thing")
    with pytest.raises(PoiseError, match=f"^cannot write 1 to {path}: "):
        proc.write_sysctl("net.ipv4.no_such_thing", "1")


@pytest.mark.root
def test_a_refused_value_is_told_with_its_path() -> None:
    """What the kernel does not take for a sysctl is told with the file and the value."""
    with (
        living_here(),
        pytest.raises(PoiseError, match=r"^cannot write much to /proc/sys/net/ipv4/ip_forward: "),
    ):
        proc.write_sysctl("net.ipv4.ip_forward", "much")


@pytest.mark.root
def test_sysctls_belong_to_the_namespace() -> None:
    """A sysctl is written in the caller's network namespace, and in no other."""
    key = proc.interface_sysctl("eth0", "forwarding")
    with living_here() as machines:
        assert proc.read_sysctl(key) == "0"
        proc.write_sysctl(key, "1")
        assert proc.read_sysctl(key) == "1"
        with machines.peer.enter():
            assert proc.read_sysctl(key) == "0"


@pytest.mark.root
def test_counters_belong_to_the_process_namespace() -> None:
    """Counters are those of the caller's namespace, or of the named process's."""
    with living_here() as machines:
        before = proc.counters()
        other = machines.peer.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert other.stdin
        assert other.stdout
        with other.stdin, other.stdout:
            other.stdin.write("in the namespace by now\n")
            other.stdin.flush()
            other.stdout.readline()
            machines.peer.run(["ping", "-c", "3", "-i", "0.01", "127.0.0.1"])
            assert proc.counters(other.pid)["IcmpInEchos"] == 3
        assert proc.counters()["IcmpInEchos"] == before["IcmpInEchos"] == 0
