# SPDX-License-Identifier: Apache-2.0
import socket
import struct
from collections.abc import Callable
from dataclasses import replace

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from poise.servers.care import Check, CheckKind
from poise.servers.health.target import CannotCheck
from tests.servers.health.serving import answering, once, refusing, serving, target

CHECK = Check(CheckKind.DNS, timeout=0.4, query="shop.example", record="A")
ZONE = {
    ("shop.example.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("shop.example.", "AAAA"): ["2001:db8::1"],
    ("shop.example.", "TXT"): ['"well"'],
    ("alias.example.", "CNAME"): ["shop.example."],
    (".", "NS"): ["ns.example."],
}


def answer(question: bytes) -> list[bytes]:
    """What the server of this zone says."""
    query = dns.message.from_wire(question)
    response = dns.message.make_response(query)
    asked = query.question[0]
    name = asked.name.to_text()
    records = ZONE.get((name, asked.rdtype.name))
    if name not in {owner for owner, _ in ZONE}:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif records:
        response.answer.append(dns.rrset.from_text(name, 60, "IN", asked.rdtype.name, *records))
    return [response.to_wire()]


def with_code(code: dns.rcode.Rcode) -> Callable[[bytes], list[bytes]]:
    """A server that refuses in some way."""

    def say(question: bytes) -> list[bytes]:
        response = dns.message.make_response(dns.message.from_wire(question))
        response.set_rcode(code)
        return [response.to_wire()]

    return say


@pytest.mark.parametrize(
    ("check", "ok", "reason"),
    [
        (CHECK, True, "answered A of shop.example"),
        (replace(CHECK, answer="192.0.2.2"), True, "answered 192.0.2.2 to A of shop.example"),
        (replace(CHECK, record="AAAA", answer="2001:DB8:0::1"), True, "answered 2001:DB8:0::1 to AAAA of"),
        (replace(CHECK, record="TXT", answer="well"), True, "answered well to TXT of shop.example"),
        (replace(CHECK, query="alias.example", record="CNAME", answer="Shop.example"), True, "answered Shop"),
        (replace(CHECK, query=".", record="NS"), True, "answered NS of ."),
        (replace(CHECK, record="MX"), True, "answered MX of shop.example"),
        (
            replace(CHECK, answer="192.0.2.3"),
            False,
            "answered 192.0.2.1, 192.0.2.2 to A of shop.example, wanted 192.0.2.3",
        ),
        (replace(CHECK, record="MX", answer="x"), False, "answered nothing to MX of shop.example, wanted x"),
        (replace(CHECK, query="absent.example"), False, "answered NXDOMAIN to A of absent.example"),
    ],
)
def test_a_dns_server_is_judged_by_its_answer(
    check: Check,
    ok: bool,  # noqa: FBT001
    reason: str,
) -> None:
    """An answer without an error will do; where a certain record is wanted, it must be among them."""
    with answering(answer) as server:
        result = once(server, check)
    assert result.ok is ok
    assert result.reason.startswith(reason)


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (lambda _: [], "gave no answer within 0.4 s (waiting for an answer)"),
        (lambda _: [b"hello"], "gave no answer within 0.4 s (waiting for an answer)"),
        (lambda question: [question[:2] + b"\xff" * 30], "answered something that is not DNS"),
        (lambda _: [b""], "answered something that is not DNS"),
        (lambda question: [question], "gave no answer within 0.4 s (waiting for an answer)"),
        (with_code(dns.rcode.SERVFAIL), "answered SERVFAIL to A of shop.example"),
        (with_code(dns.rcode.REFUSED), "answered REFUSED to A of shop.example"),
    ],
)
def test_a_server_that_does_not_answer_in_dns_is_not_well(
    say: Callable[[bytes], list[bytes]], reason: str
) -> None:
    """Silence, garbage, an echo, an error: each is told; what answers another question is passed over."""
    with answering(say) as server:
        result = once(server, CHECK)
    assert not result.ok
    assert result.reason.startswith(reason)


def test_a_server_that_refuses_is_not_well() -> None:
    """An ICMP error is known at once, long before the time-out."""
    result = once(refusing(), CHECK)
    assert (result.ok, result.reason) == (False, "takes no datagrams (connection refused)")


def test_an_answer_that_does_not_fit_is_asked_for_over_tcp() -> None:
    """A truncated answer is one; where a certain record is wanted, the whole is fetched."""

    def truncated(question: bytes) -> list[bytes]:
        response = dns.message.make_response(dns.message.from_wire(question))
        response.flags |= dns.flags.TC
        return [response.to_wire()]

    def whole(connection: socket.socket) -> None:
        [data] = answer(connection.recv(65_536)[2:])
        for part in (struct.pack("!H", len(data)), data[:20], data[20:]):
            connection.sendall(part)

    def hear(connection: socket.socket) -> None:
        connection.recv(65_536)  # what is not read makes a reset of the end

    wanted = replace(CHECK, answer="192.0.2.2")
    with serving(whole) as stream, answering(truncated, port=stream.port) as server:
        assert once(server, CHECK).ok
        assert once(server, wanted).reason == "answered 192.0.2.2 to A of shop.example"
    with serving(hear) as stream, answering(truncated, port=stream.port) as server:
        assert once(server, wanted).reason == "closed the connection before the end of its answer over TCP"


def test_late_answers_to_earlier_checks_are_passed_over() -> None:
    """Only what answers this very query counts."""

    def also_an_earlier_one(question: bytes) -> list[bytes]:
        earlier = bytes([question[0] ^ 1]) + question[1:]
        return [*with_code(dns.rcode.SERVFAIL)(earlier), *answer(question)]

    with answering(also_an_earlier_one) as server:
        assert once(server, CHECK).ok


@pytest.mark.parametrize("check", [replace(CHECK, query="a" * 64), replace(CHECK, record="NONSENSE")])
def test_what_cannot_be_asked_says_nothing_of_a_server(check: Check) -> None:
    """A query that is none is a mistake in the configuration, not a fault of the servers."""
    with pytest.raises(CannotCheck, match="DNS cannot be asked for"):
        once(target(53), check)
