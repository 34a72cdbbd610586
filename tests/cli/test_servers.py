# SPDX-License-Identifier: Apache-2.0
import json
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.api.serving import ListFacade
from tests.cli.program import poise


@pytest.mark.usefixtures("running")
def test_list() -> None:
    """A list has one line a server under the names of its columns, however narrow the screen would be."""
    header, *rows = poise("servers", "list").stdout.splitlines()
    columns = "vip name address port id weight state reachable share open connections packets bytes"
    assert header.split() == columns.split()  # none for loads and reasons, as there are none
    assert len(rows) == 50
    assert rows[6].split() == [
        "web",
        "web7",
        "10.0.0.7",
        "8080",
        "6",
        "1",
        "ready",
        "yes",
        "12.5%",
        "~12",
        "0",
        "0",
        "0",
    ]


def test_list_of_a_vip(running: ListFacade) -> None:
    """With --vip, only its servers are listed; a name that is no VIP's lists none or is refused."""
    running.add("shop", "other", IPv4Address("10.0.0.99"), 80)
    rows = poise("servers", "list", "--vip", "shop", "-o", "json").stdout
    assert json.loads(rows) == [running.rows.pop()]


def test_changes(running: ListFacade) -> None:
    """Each change tells in a sentence what it did, and reaches the running poise."""
    told = [
        poise("servers", "add", "10.0.1.1:8080", "--name", "new", "--vip", "shop"),
        poise("servers", "add", "[2001:DB8::1]:8080", "--weight", "9"),
        poise("servers", "drain", "new"),
        poise("servers", "drain", "new", "--now", "--deadline", "90s"),
        poise("servers", "maint", "new", "--vip", "shop"),
        poise("servers", "ready", "new"),
        poise("servers", "remove", "new", "--vip", "shop"),
        poise("servers", "remove", "new", "--now"),
    ]
    assert [done.stdout for done in told] == [
        "new (10.0.1.1:8080) gets new connections of VIP shop\n",
        "[2001:db8::1]:8080 ([2001:db8::1]:8080) gets new connections of VIP web\n",
        "new gets no new connections of VIP shop, those it has go on\n",
        "new is removed from VIP shop, and its connections are cut\n",
        "new gets no new connections of VIP shop and no health checks, those it has go on\n",
        "new (10.0.1.1:8080) gets new connections of VIP shop\n",
        "new is removed from VIP shop, connections it still has go on\n",
        "new is removed from VIP shop, and its connections are cut\n",
    ]
    assert running.asked == [
        ("drain", None, False),
        ("drain", 90, True),
        ("maint", None, False),
        ("ready", None, False),
    ]
    assert running.rows.pop()["weight"] == 9
    assert running.rows.pop()["state"] == "cut"


def test_a_server_that_cannot_be_used_yet_is_told_to_be_so(running: ListFacade) -> None:
    """Nobody is told that a server gets connections while it cannot be reached."""
    running.add("web", "far", IPv4Address("10.0.2.1"), 8080)
    running.rows[-1]["reason"] = "10.0.2.1 does not answer ARP on eth1"
    said = poise("servers", "ready", "far").stdout
    running.rows.pop()
    assert said == (
        "far (10.0.2.1:8080) gets no new connections of VIP web yet: 10.0.2.1 does not answer ARP on eth1\n"
    )


@pytest.mark.parametrize(("written", "seconds"), [("90", 90), ("90s", 90), ("2m", 120)])
def test_deadlines_are_seconds_or_have_a_unit(running: ListFacade, written: str, seconds: int) -> None:
    """What the refusal of a deadline says how to write is taken."""
    running.add("web", "due", IPv4Address("10.0.2.1"), 8080)
    running.asked.clear()
    assert poise("servers", "drain", "due", "--deadline", written).returncode == 0
    running.rows.pop()
    assert running.asked == [("drain", seconds, False)]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("written", "fault"), [("0", "out of range"), ("-5", "not understood"), ("²", "not un")]
)
def test_deadlines_that_are_none_are_refused(written: str, fault: str) -> None:
    """A time that cannot be is refused in a sentence."""
    said = poise("servers", "drain", "web1", "--deadline", written)
    assert said.returncode == 1
    assert fault in said.stderr


def test_changes_for_programs(running: ListFacade) -> None:
    """As JSON, each change prints the server as it now is."""
    for arguments, state in [
        (("add", "10.0.1.1:8080"), "ready"),
        (("drain", "10.0.1.1:8080"), "drain"),
        (("maint", "10.0.1.1:8080"), "maint"),
        (("ready", "10.0.1.1:8080"), "ready"),
        (("remove", "10.0.1.1:8080"), "removed"),
    ]:
        server = json.loads(poise("servers", *arguments, "-o", "json").stdout)
        assert server == running.rows[-1] | {"state": state}
    running.rows.pop()


@pytest.mark.usefixtures("running")
def test_drains() -> None:
    """What remains of a drain is marked where it is an estimate."""
    header, first, second = poise("servers", "drains").stdout.splitlines()
    assert header.split() == ["vip", "name", "since", "deadline", "remaining", "silent", "done"]
    assert (first.split()[4:], second.split()[6:]) == (["-", "~40", "2.0", "no"], ["41", "2.0", "no"])


def test_why(running: ListFacade) -> None:
    """The sentence comes first, then each candidate; with --wait there is only the sentence."""
    running.asked.clear()
    sentence, header, candidate = poise(
        "servers", "why", "198.51.100.7:40000", "192.0.2.10:80"
    ).stdout.splitlines()
    assert sentence == "web1 is next"
    assert header.split() == ["name", "id", "state", "share", "chance", "load"]
    assert candidate.split() == ["web1", "0", "ready", "50.0%", "100.0%", "3"]
    options = ("--wait", "--timeout", "2.5", "--protocol", "udp")
    waited = poise("servers", "why", "[2001:db8::7]:4", "[2001:db8::1]:80", *options)
    assert waited.stdout == "web1 is next\n"
    assert running.asked == [
        ((IPv4Address("198.51.100.7"), 40000), (IPv4Address("192.0.2.10"), 80), None, "tcp"),
        ((IPv6Address("2001:db8::7"), 4), (IPv6Address("2001:db8::1"), 80), 2.5, "udp"),
    ]
