# SPDX-License-Identifier: Apache-2.0
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from poise.servers import maglev
from poise.servers.model import SERVER_IDS

WEIGHTS = st.dictionaries(st.integers(0, SERVER_IDS - 1), st.integers(1, 100), min_size=1, max_size=24)
ALIKE = st.sets(st.integers(0, SERVER_IDS - 1), min_size=2, max_size=24)
few = settings(max_examples=25, deadline=None)


@few
@given(WEIGHTS)
def test_shares_are_in_proportion_to_weights(weights: dict[int, int]) -> None:
    """Every row has a server, and each server's rows are those of its weight, give or take three."""
    rows = Counter(maglev.table(weights))
    assert rows.total() == maglev.ROWS
    assert rows.keys() <= weights.keys()
    total = sum(weights.values())
    for server, weight in weights.items():
        fair = maglev.ROWS * weight / total
        assert abs(rows[server] - fair) <= 3, (server, weight, rows[server], fair)


@few
@given(WEIGHTS)
def test_every_balancer_makes_the_same_table(weights: dict[int, int]) -> None:
    """There is no chance in it: the same servers in the same order have the same rows."""
    assert maglev.table(weights) == maglev.table(dict(weights))


@few
@given(ALIKE, st.data())
def test_removing_a_server_moves_few_rows_of_others(servers: set[int], data: st.DataObject) -> None:
    """Of the rows of those that stay, at most a sixteenth go to somebody else (Maglev, section 5.3)."""
    gone = data.draw(st.sampled_from(sorted(servers)))
    before = maglev.table(dict.fromkeys(sorted(servers), 1))
    after = maglev.table(dict.fromkeys(sorted(servers - {gone}), 1))
    stayed = [(old, new) for old, new in zip(before, after, strict=True) if old != gone]
    moved = sum(old != new for old, new in stayed)
    assert moved <= len(stayed) / 16
    assert gone not in after


def test_no_servers_have_a_table_too() -> None:
    """The program asks the pool first, so that the rows are never looked at."""
    assert maglev.table({}) == (0,) * maglev.ROWS
