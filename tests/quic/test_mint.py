# SPDX-License-Identifier: Apache-2.0
import pytest
from aioquic.quic.configuration import QuicConfiguration

from poise.quic.connection_id import UNROUTABLE, QuicIdError, decode
from poise.quic.mint import Minter, configure
from poise.servers.model import QuicIds

KEY = bytes(range(16))


@pytest.mark.parametrize("key", [None, KEY])
def test_each_minted_id_names_the_server_and_is_new(key: bytes | None) -> None:
    """All ids of a server name it, and no nonce comes twice."""
    ids = QuicIds(2, 2, 4, key)
    minter = Minter(ids, 300)
    decoded = [decode(ids, minter.mint()) for _ in range(1000)]
    assert {found[0] for found in decoded if found} == {300}
    assert len({found[1] for found in decoded if found}) == len(decoded)
    assert minter.length == 7


def test_without_a_configuration_ids_are_unroutable() -> None:
    """A server that was told nothing says so, by the codepoint and in eight bytes."""
    minter = Minter(None)
    first, second = minter.mint(), minter.mint()
    assert first != second
    assert {len(first), len(second), minter.length} == {8}
    assert first[0] == second[0] == UNROUTABLE << 5 | 7


def test_an_id_that_does_not_fit_is_refused_at_once() -> None:
    """A server learns when it starts, not at its first connection, that it cannot be named."""
    with pytest.raises(QuicIdError, match="the server id 300 does not fit 1 bytes"):
        Minter(QuicIds(0, 1, 4), 300)


def test_clients_mint_nothing() -> None:
    """Only a server's connection ids reach a balancer."""
    with pytest.raises(QuicIdError, match="this configuration is a client's"):
        configure(QuicConfiguration(is_client=True), Minter(None))
