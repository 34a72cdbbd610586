# SPDX-License-Identifier: Apache-2.0
"""Which share of new flows gets another server under another choice."""

from collections import Counter
from math import gcd

from poise.servers import maglev
from poise.servers.model import Policy
from poise.servers.schedule import schedule
from poise.servers.standing import Choice, fractions

_BY_FLOW = (Policy.HASH, Policy.MAGLEV)  # a flow's server does not depend on when it comes


def moved(policy: Policy, choice: Choice, wanted_policy: Policy, wanted: Choice) -> float:
    """Return the share of new flows that another server would get, 0 to 1.

    Hash and Maglev: exact over their tables, if hashes are uniform. Policies that do not look at the flow:
    the least share that must move, which is the distance between the two distributions in total variation.
    From or to a policy by flow: what is expected if the two have nothing to do with each other.
    """
    if not choice.shares or not wanted.shares:
        return float(bool(choice.shares or wanted.shares))
    if policy is wanted_policy is Policy.MAGLEV:
        return _moved_rows(choice, wanted)
    if policy is wanted_policy is Policy.HASH:
        return _moved_turns(schedule(choice.shares), schedule(wanted.shares))
    before, after = fractions(choice), fractions(wanted)
    if policy is not wanted_policy and (policy in _BY_FLOW or wanted_policy in _BY_FLOW):
        return max(1 - sum(share * after.get(server, 0.0) for server, share in before.items()), 0.0)
    servers = before.keys() | after.keys()
    return sum(abs(before.get(server, 0.0) - after.get(server, 0.0)) for server in servers) / 2


def _moved_rows(choice: Choice, wanted: Choice) -> float:
    if choice.weights == wanted.weights:
        return 0.0
    before, after = maglev.table(choice.weights), maglev.table(wanted.weights)
    return sum(one != other for one, other in zip(before, after, strict=True)) / len(before)


def _moved_turns(before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """Return the share of hashes that stand for another server, modulo the turns of each.

    A hash falls on any two turns that are equal modulo the greatest common divisor of the lengths, and on
    each such pair as often.
    """
    if before == after:
        return 0.0
    divisor = gcd(len(before), len(after))
    pairs = 0
    for residue in range(divisor):
        others = Counter(after[residue::divisor])
        pairs += sum(count * others[server] for server, count in Counter(before[residue::divisor]).items())
    return 1 - pairs * divisor / (len(before) * len(after))
