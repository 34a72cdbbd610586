# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import resource
import socket
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from poise.lab.namespaces import Lab
from poise.servers.care import Check, CheckKind
from poise.servers.health.checks import check_once
from poise.servers.health.target import CannotCheck
from tests.servers.health.serving import once, refusing, say_and_wait, serving, target

CHECK = Check(CheckKind.TCP, timeout=0.3)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_server_that_takes_a_connection_is_well(address: str) -> None:
    """It may accept and say nothing: only that it takes connections is asked, of IPv4 and IPv6."""
    with serving(say_and_wait(), address) as server:
        result = once(server, CHECK)
    assert (result.ok, result.reason) == (True, "takes connections")
    assert 0 < result.seconds < 0.3


def test_the_port_of_the_check_is_asked_instead_of_the_servers() -> None:
    """A check may ask another port than connections go to."""
    with serving(say_and_wait()) as server:
        assert once(refusing(), replace(CHECK, port=server.port)).ok


def test_a_server_that_refuses_is_not_well() -> None:
    """A reset in answer to the SYN is known at once, long before the time-out."""
    result = once(refusing(), CHECK)
    assert (result.ok, result.reason) == (False, "does not take connections (connection refused)")
    assert result.seconds < 0.1


def test_a_server_whose_queue_is_full_is_not_well() -> None:
    """One that is stuck, so that SYNs remain unanswered, fails at the time-out."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        result = once(target(listener.getsockname()[1]), CHECK)
    assert (result.ok, result.reason) == (False, "gave no answer within 0.3 s (connecting)")
    assert result.seconds == pytest.approx(0.3, abs=0.1)


@pytest.mark.root
def test_a_server_to_which_no_way_leads_is_not_well() -> None:
    """What the kernel says of the way there is the reason."""
    with Lab() as lab, lab.namespace("alone").enter():
        result = once(replace(target(80), address=IPv4Address("192.0.2.1")), CHECK)
    assert (result.ok, result.reason) == (False, "does not take connections (network is unreachable)")


@pytest.mark.root
def test_a_check_leaves_no_port_in_time_wait_and_no_connection_on_the_server() -> None:
    """Thousands of checks a second must not use up the ports of the machine."""
    with Lab() as lab:
        namespace = lab.namespace("busy")
        with namespace.enter(), serving(say_and_wait()) as server:
            for _ in range(20):
                assert once(server, CHECK).ok
        assert namespace.run(["ss", "-Htan", "state", "time-wait", "state", "established"]) == ""


def test_a_machine_without_sockets_says_nothing_of_a_server() -> None:
    """When poise itself is out of files, that is not held against the server."""

    async def check_without_files() -> None:
        files = []
        try:
            with pytest.raises(OSError, match="Too many open files"):  # noqa: PT012
                while True:
                    files.append(socket.socket())
            with pytest.raises(CannotCheck, match="no socket left for it"):
                await check_once(target(80), CHECK)
        finally:
            for file in files:
                file.close()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  their numbers
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 100, limits[1]))
    try:
        asyncio.run(check_without_files())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
