# SPDX-License-Identifier: Apache-2.0
"""Packet loss on purpose: nftables rules in a namespace's own table, which count what they drop."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from poise.lab.addresses import Family
from poise.lab.namespaces import Namespace

Hook = Literal["prerouting", "output"]
_PER_MILLION = 1_000_000
_numbers = itertools.count(1)


def syn_ack(port: int) -> str:
    """Matches the SYN-ACKs that a server's port sends."""
    return f"tcp sport {port} tcp flags & (fin | syn | rst | ack) == (syn | ack)"


def syn(port: int) -> str:
    """Matches the SYNs to a port."""
    return f"tcp dport {port} tcp flags & (fin | syn | rst | ack) == syn"


def bare_ack(port: int, family: Family = 4) -> str:
    """Matches acknowledgements to a port without payload, with timestamps as their only option.

    The first of a connection is the handshake's ACK: 20 octets of TCP header, 12 of options, and before them
    20 of IPv4's header, which its length includes, or IPv6's, which its length does not.
    """
    length = "ip length 52" if family == 4 else "ip6 length 32"
    return f"tcp dport {port} tcp flags & (fin | syn | rst | psh | ack) == ack {length}"


def question(port: int) -> str:
    """Matches segments to a port that end what a program of the client sent."""
    return f"tcp dport {port} tcp flags & psh == psh"


def answer(port: int) -> str:
    """Matches segments from a port that end what a program of the server sent."""
    return f"tcp sport {port} tcp flags & psh == psh"


class Fault:
    """One rule in force."""

    def __init__(self, namespace: Namespace, table: str) -> None:
        self._namespace = namespace
        self._table = table

    @property
    def dropped(self) -> int:
        """Packets dropped so far."""
        listed = json.loads(self._namespace.run(["nft", "-j", "list", "table", "inet", self._table]))
        return sum(
            int(expression["counter"]["packets"])
            for item in listed["nftables"]
            for expression in item.get("rule", {}).get("expr", ())
            if "counter" in expression
        )


@contextmanager
def drop_random(
    namespace: Namespace, probability: float, match: str = "", *, hook: Hook = "prerouting"
) -> Iterator[Fault]:
    """Drop each packet that matches with a probability (0 to 1), independently of the others.

    `match` is an nftables expression, "" matches all of IPv4 and IPv6, neighbour
    discovery included. `prerouting` sees what the namespace receives,
    `output` what it sends itself.
    """
    limit = round(probability * _PER_MILLION)
    # nft refuses a comparison that is always true.
    chance = f"numgen random mod {_PER_MILLION} < {limit}" if limit < _PER_MILLION else ""
    with _rule(namespace, f"{match} {chance}", hook) as fault:
        yield fault


@contextmanager
def drop_first(
    namespace: Namespace, packets: int, match: str, *, hook: Hook = "prerouting"
) -> Iterator[Fault]:
    """Drop the first `packets` packets that match, and no later ones."""
    # A token bucket that is full at first and refilled once a week.
    with _rule(namespace, f"{match} limit rate 1/week burst {packets} packets", hook) as fault:
        yield fault


@contextmanager
def drop_all(namespace: Namespace, match: str, *, hook: Hook = "prerouting") -> Iterator[Fault]:
    """Drop every packet that matches."""
    with _rule(namespace, match, hook) as fault:
        yield fault


@contextmanager
def _rule(namespace: Namespace, match: str, hook: Hook) -> Iterator[Fault]:
    table = f"faults{next(_numbers)}"
    namespace.run(
        ["nft", "-f", "-"],
        text=f"table inet {table} {{\n chain drops {{\n  type filter hook {hook} priority raw\n"
        f"  {match} counter drop\n }}\n}}\n",
    )
    try:
        yield Fault(namespace, table)
    finally:
        namespace.run(["nft", "delete", "table", "inet", table])
