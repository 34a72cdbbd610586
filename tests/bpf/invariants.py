# SPDX-License-Identifier: Apache-2.0
"""What must hold of every packet, whatever is in it: the rules read a second time, more slowly."""

from dataclasses import dataclass

from poise.servers.ends import End, end_of
from poise.servers.model import Model
from tests.bpf.balancer import Result, Verdict
from tests.bpf.headers import ETHERNET, TAG
from tests.bpf.services import TOKEN

TCP, UDP = 6, 17
_EXTENSIONS = (0, 43, 44, 60)
_IPV4, _IPV6, _VLANS = b"\x08\x00", b"\x86\xdd", (b"\x81\x00", b"\x88\xa8")

Place = tuple[bytes, int, int]  # address, port, protocol


@dataclass(frozen=True)
class Read:
    """Where the headers of a frame are; `transport` is 0 in a fragment without ports."""

    ip: int
    version: int
    protocol: int
    transport: int
    source: bytes
    target: bytes
    length: int
    fragment: tuple[bytes, ...] | None
    more: bool

    def end(self, frame: bytes, at: int) -> Place:
        """Return the end whose port stands at this place of the transport header."""
        place = self.transport + at
        address = self.target if at else self.source
        return address, int.from_bytes(frame[place : place + 2], "big"), self.protocol


def read(frame: bytes) -> Read | None:
    """Return where the headers are; None if there are none with ports, and no later fragment of such."""
    at = ETHERNET
    while at < ETHERNET + 2 * TAG and frame[at - 2 : at] in _VLANS:
        at += TAG
    kind = frame[at - 2 : at]
    if kind == _IPV4:
        return _read_ipv4(frame, at)
    return _read_ipv6(frame, at) if kind == _IPV6 else None


def _with_ports(frame: bytes, found: Read) -> Read | None:
    needed = {TCP: 20, UDP: 8}.get(found.protocol)
    return found if needed and len(frame) >= found.transport + needed else None


def _read_ipv4(frame: bytes, at: int) -> Read | None:
    if len(frame) < at + 20 or frame[at] >> 4 != 4 or frame[at] & 15 < 5:
        return None
    place = int.from_bytes(frame[at + 6 : at + 8], "big")
    source, target = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
    is_later = bool(place & 0x1FFF)
    found = Read(
        at,
        4,
        frame[at + 9],
        0 if is_later else at + (frame[at] & 15) * 4,
        source,
        target,
        int.from_bytes(frame[at + 2 : at + 4], "big"),
        (source, target, frame[at + 4 : at + 6], frame[at + 9 : at + 10]),
        bool(place & 0x2000),
    )
    return found if is_later else _with_ports(frame, found)


def _read_ipv6(frame: bytes, at: int) -> Read | None:
    if len(frame) < at + 40 or frame[at] >> 4 != 6:
        return None
    number, place, more = frame[at + 6], at + 40, False
    source, target = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    length = int.from_bytes(frame[at + 4 : at + 6], "big") + 40
    fragment = None
    for _ in range(8):
        if number not in _EXTENSIONS:
            found = Read(at, 6, number, place, source, target, length, fragment, more)
            return _with_ports(frame, found)
        if len(frame) < place + 8:
            return None
        size = 8
        if number == 44:
            fragment = (source, target, frame[place + 4 : place + 8])
            word = int.from_bytes(frame[place + 2 : place + 4], "big")
            if word & 0xFFF8:
                return Read(at, 6, 0, 0, source, target, length, fragment, more=True)
            more = bool(word & 1)
        else:
            size = 8 * (frame[place + 1] + 1)
        number, place = frame[place], place + size
        if place > at + 40 + 256:
            return None
    return None


def _sum(data: bytes) -> int:
    """Return the ones' complement sum, where 0 and 0xffff are the same (RFC 1071)."""
    return int.from_bytes(data if len(data) % 2 == 0 else data + b"\0", "big") % 0xFFFF


def _transport_sum(frame: bytes, found: Read) -> int:
    body = frame[found.transport : found.ip + found.length]
    return (_sum(found.source + found.target) + _sum(body)) % 0xFFFF


class Broken(AssertionError):
    """A packet of which something does not hold."""


def _claim(truth: object, what: str, frame: bytes, result: Result) -> None:
    if not truth:
        raise Broken(f"{what}: {frame.hex(' ')} became {result.verdict.name} {result.packet.hex(' ')}")


class Invariants:
    """The rules for the VIPs and servers of a model; remembers first fragments that were forwarded."""

    def __init__(self, model: Model) -> None:
        """Take in all ends."""
        self._servers: dict[Place, set[Place]] = {}
        self._vip_of: dict[Place, Place] = {}
        for vip in model.vips:
            place = _place(end_of(vip))
            self._servers[place] = {_place(end_of(vip, server)) for server in vip.servers}
            self._vip_of |= dict.fromkeys(self._servers[place], place)
        self._fragments: set[tuple[bytes, ...]] = set()
        self.forwarded = 0

    def check(self, frame: bytes, result: Result) -> None:
        """Raise Broken if something does not hold."""
        _claim(result.verdict != Verdict.ABORTED, "no verdict", frame, result)
        found = None if (frame[0] | frame[6]) & 1 else read(frame)  # to or from an Ethernet group
        is_later = found is not None and not found.transport
        concerns = found is not None and (
            found.fragment in self._fragments
            if is_later
            else found.end(frame, 2) in self._servers or found.end(frame, 0) in self._vip_of
        )
        if not concerns or found is None:
            is_same = (result.verdict, result.packet) == (Verdict.PASS, frame)
            _claim(is_same, "changed what is not ours", frame, result)
            return
        if result.verdict == Verdict.DROP or result.packet == frame:
            _claim(result.verdict in (Verdict.DROP, Verdict.PASS), "sent on as it was", frame, result)
            return
        out = read(result.packet)
        if result.verdict == Verdict.PASS:
            _claim(result.packet[6:12] == TOKEN, "changed what is left to the kernel", frame, result)
        if out is None and result.verdict == Verdict.TX:
            self._check_icmp(frame, found, result)
            return
        if out is None:
            raise Broken(f"cannot be read any more: {frame.hex(' ')} became {result.packet.hex(' ')}")
        if is_later:
            self._check_later(frame, found, out, result)
        else:
            self._check(frame, found, out, result)
        self.forwarded += 1

    def _check(self, frame: bytes, found: Read, out: Read, result: Result) -> None:
        packet = result.packet
        source, target = found.end(frame, 0), found.end(frame, 2)
        new_source, new_target = out.end(packet, 0), out.end(packet, 2)
        if target in self._servers and (new_source, new_target) == (target, source):
            self._check_reset(frame, found, out, result)
            return
        if result.verdict == Verdict.PASS and packet == frame[:6] + TOKEN + frame[12:]:
            _claim(target in self._servers, "handed up what is not for a VIP", frame, result)
            return  # a reset for all servers, which the slow path ages and rewrites
        if target in self._servers:
            ends = new_source == source and new_target in self._servers[target]
            _claim(ends, "went to no server of the VIP", frame, result)
        else:
            ends = new_target == target and new_source == self._vip_of[source]
            _claim(ends, "did not leave in the VIP's name", frame, result)
        self._check_same(frame, found, out, result)
        before, after = frame[found.transport :], packet[out.transport :]
        if found.protocol == TCP:
            header = (before[12] >> 4) * 4
            same = before[4:16] + before[18:20] == after[4:16] + after[18:20]
            _claim(same, "changed more of TCP's header than its ends", frame, result)
        else:
            header = 8
            _claim(before[4:6] == after[4:6], "changed UDP's length", frame, result)
            none = (before[6:8] == bytes(2), after[6:8] == bytes(2))
            _claim(none in ((True, True), (False, False)), "invented or lost a UDP checksum", frame, result)
        _claim(before[header:] == after[header:], "changed the payload", frame, result)
        if found.protocol == TCP or before[6:8] != bytes(2):
            same = _transport_sum(frame, found) == _transport_sum(packet, out)
            _claim(same, "changed a checksum by another difference", frame, result)
        if found.more and found.fragment:
            self._fragments.add(found.fragment)

    def _check_later(self, frame: bytes, found: Read, out: Read, result: Result) -> None:
        self._check_same(frame, found, out, result)
        first = 20 if found.version == 4 else 40
        same = frame[found.ip + first :] == result.packet[out.ip + first :]
        _claim(same, "changed a later fragment", frame, result)

    def _check_same(self, frame: bytes, found: Read, out: Read, result: Result) -> None:
        """Lengths, everything of the IP header but addresses, hops and checksum, and the sum of that."""
        packet = result.packet
        before, after = frame[found.ip :], packet[out.ip :]
        _claim(len(before) == len(after), "has another length", frame, result)
        if found.version == 4:
            same = before[:8] + before[9:10] == after[:8] + after[9:10] and before[8] - 1 == after[8]
            header = (before[0] & 15) * 4
            _claim(before[20:header] == after[20:header], "changed IP options", frame, result)
            sums = _sum(before[:header]) == _sum(after[:header])
            _claim(sums, "changed the IP checksum by another difference", frame, result)
        else:
            same = before[:7] == after[:7] and before[7] - 1 == after[7]
            header = found.transport - found.ip
            _claim(before[40:header] == after[40:header], "changed extension headers", frame, result)
        _claim(same, "changed more of the IP header than its ends and hops", frame, result)

    def _check_icmp(self, frame: bytes, found: Read, result: Result) -> None:
        """An ICMP error that answers what is too big, or refused (RFC 792, RFC 4443)."""
        packet, at = result.packet, found.ip
        version = packet[at] >> 4
        ours = found.end(frame, 2) in self._servers and version == found.version
        _claim(ours and packet[12:at] == frame[12:at], "an ICMP error for somebody else", frame, result)
        if version == 4:
            body, target, number = packet[at + 20 :], packet[at + 16 : at + 20], packet[at + 9]
            right = number == 1 and _sum(packet[at : at + 20]) == 0 and _sum(body) == 0
        else:
            body, target, number = packet[at + 40 :], packet[at + 24 : at + 40], packet[at + 6]
            right = (
                number == 58 and (_sum(packet[at + 8 : at + 40]) + _sum(body) + len(body) + 58) % 0xFFFF == 0
            )
        _claim(right and target == found.source, "a wrong ICMP error", frame, result)

    def _check_reset(self, frame: bytes, found: Read, out: Read, result: Result) -> None:
        packet = result.packet
        _claim(result.verdict == Verdict.TX, "did not answer where it came from", frame, result)
        _claim(
            found.protocol == TCP and not frame[found.transport + 13] & 4, "answered a reset", frame, result
        )
        _claim(packet[out.transport + 13] & ~0x10 == 4, "answered with something else", frame, result)
        exact = len(packet) == out.ip + out.length == out.transport + 20
        _claim(exact, "a reset has a wrong length", frame, result)
        _claim(packet[12 : out.ip] == frame[12 : found.ip], "a reset lost its tags", frame, result)
        right = (_transport_sum(packet, out) + TCP + 20) % 0xFFFF == 0
        if out.version == 4:
            right = right and _sum(packet[out.ip : out.ip + 20]) == 0
        _claim(right, "a reset has wrong checksums", frame, result)


def _place(end: End) -> Place:
    return end.address.packed, end.port, end.protocol
