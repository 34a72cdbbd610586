# SPDX-License-Identifier: Apache-2.0
"""Damaged packets: bytes of good and of unexpected ones are changed, and what must hold is checked.

`python -m tests.bpf.fuzz [PACKETS [SEED]]` runs by itself, as root.
"""

import random
import socket
import sys
import time
from collections import Counter

from tests.bpf import unexpected_handshakes, unexpected_modes  # noqa: F401  register their packets
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.connection import Connection
from tests.bpf.headers import ETHERNET, ip_offset, transport_of
from tests.bpf.invariants import Invariants
from tests.bpf.network import DIRECT, DIRECT6, Site
from tests.bpf.packets import End, summed, tagged, usual
from tests.bpf.services import FAMILIES, HASHED, KEY, MODEL, hops
from tests.bpf.unexpected import both_ways, in_two
from tests.bpf.unexpected_icmp import corpus

DEFAULT = 1_000_000
HEADERS = 80  # bytes behind the start of the IP header in which most changes are made
EDGES = (0, 1, 0x7F, 0x80, 0xFF)
AFRESH = 20_000  # packets after which what is remembered is forgotten


def seeds() -> list[bytes]:
    """Return the packets that are changed: those that are forwarded come more often."""
    found = [sample.packet for _, sample in corpus()]
    found += [frame for _, sample in corpus() for frame in sample.before]
    usual_ones = [frame for family in FAMILIES for frame in both_ways(family)]
    for family in FAMILIES:
        tagged_vip = Connection(family.tagged, End(family.client, 40000))
        for number in range(3):
            echo = tagged_vip.stamped(9, number, mark=1)
            usual_ones.append(tagged_vip.request("PA", usual(1, echo), payload=b"GET /"))
        usual_ones += [piece for frame in both_ways(family) for piece in in_two(frame)]
    usual_ones.append(Connection(HASHED).request("PA", usual(1, 2), payload=b"GET /"))
    usual_ones += [tagged(frame, *tags) for frame in usual_ones for tags in ((7,), (200, 7))]
    return found + usual_ones * (1 + len(found) // len(usual_ones))


def mutated(frame: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Return the frame with a few changes: bytes, bits, swapped fields, its end, or a part of another one."""
    data = bytearray(frame)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        kind = chance.random()
        reach = min(len(data), ETHERNET + HEADERS) if chance.random() < 0.9 else len(data)
        at = chance.randrange(reach)
        if kind < 0.35:
            data[at] = chance.randrange(256) if chance.random() < 0.6 else chance.choice(EDGES)
        elif kind < 0.65:
            data[at] ^= 1 << chance.randrange(8)
        elif kind < 0.75:
            width, other = chance.choice((1, 2, 4, 6)), chance.randrange(reach)
            one, two = bytes(data[at : at + width]), bytes(data[other : other + width])
            if len(one) == len(two):
                data[at : at + width], data[other : other + width] = two, one
        elif kind < 0.85:
            del data[chance.randrange(ETHERNET, len(data) + 1) :]
        elif kind < 0.92:
            data += chance.randbytes(chance.randrange(1, 64))
        else:
            other_frame = chance.choice(others)
            data[at:] = other_frame[at:] or bytes(1)
        if len(data) < ETHERNET:
            data += bytes(ETHERNET - len(data))
    return bytes(data)


def mended(frame: bytes) -> bytes:
    """Return the frame with right checksums, if it has headers where to put them."""
    try:
        protocol, transport = transport_of(frame)
        if protocol in (6, 17) and len(frame) >= transport + 20 and frame[ip_offset(frame)] >> 4 in (4, 6):
            return summed(frame)
    except IndexError:
        pass
    return frame


def fuzz(balancer: Balancer, packets: int, seed: int) -> Counter[str]:
    """Run so many damaged packets; returns how often each verdict came. Raises Broken."""
    chance = random.Random(seed)  # noqa: S311  the same packets each time
    frames, invariants = seeds(), Invariants(MODEL)
    before, verdicts = balancer.events(), Counter[Verdict]()
    handed_up = answered = 0
    for number in range(packets):
        if number % AFRESH == 0:
            balancer.start_afresh()
        frame = mutated(chance.choice(frames), chance, frames)
        if chance.random() < 0.1:
            frame = mended(frame)
        result = balancer.run(frame)
        invariants.check(frame, result)
        verdicts[result.verdict] += 1
        handed_up += result.verdict == Verdict.PASS and result.packet != frame
    events = {name: count - before.get(name, 0) for name, count in balancer.events().items()}
    answered = events.get("reset_no_server", 0) + events.get("reset_of_cut_server", 0)
    passed = sum(count for name, count in events.items() if name.startswith("pass_"))
    dropped = sum(count for name, count in events.items() if name.startswith("drop_"))
    assert handed_up == events.get("neighbour_unresolved", 0) + events.get("reset_to_all", 0), events
    assert verdicts[Verdict.PASS] == passed + handed_up, events
    # A reset is never answered, but counted as one: it is among the drops.
    assert dropped <= verdicts[Verdict.DROP] <= dropped + answered, events
    assert not events.get("drop_internal"), events
    fates = Counter({verdict.name.lower(): count for verdict, count in verdicts.items()})
    fates["forwarded"] = invariants.forwarded
    return fates


def main() -> None:
    """Make a network of its own, and run."""
    packets = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 1_000_000
    sys.stdout.write(f"{packets:,} packets, seed {seed}\n")
    sys.stdout.flush()
    with Site() as site, site.here.enter():
        balancer = Balancer()
        balancer.fill(MODEL, hops(MODEL, socket.if_nametoindex("eth1")), KEY, frozenset({DIRECT, DIRECT6}))
        start = time.monotonic()
        fates = fuzz(balancer, packets, seed)
        seconds = time.monotonic() - start
        balancer.close()
    counts = ", ".join(f"{count:,} {fate}" for fate, count in fates.most_common())
    sys.stdout.write(f"{counts} in {seconds:.0f} s\n")


if __name__ == "__main__":
    main()
