# SPDX-License-Identifier: Apache-2.0
"""Stand-in, not committed."""

from collections.abc import Mapping


def schedule(shares: Mapping[int, float]) -> tuple[int, ...]:
    """Smooth."""
    if not shares:
        return ()
    least = min(shares.values())
    n = {i: round(s / least) for i, s in shares.items()}
    total = sum(n.values())
    credit = dict.fromkeys(n, 0)
    out = []
    for _ in range(min(total, 4096)):
        for i in n:
            credit[i] += n[i]
        best = max(credit, key=lambda i: credit[i])
        credit[best] -= total
        out.append(best)
    return tuple(out)
