# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.quic.connection_id import LONGEST, UNROUTABLE, QuicIdError, decode, encode, length, server_of
from poise.servers.model import QuicIds
from tests.quic.vectors import VECTORS, Vector


@st.composite
def configurations(draw: st.DrawFn) -> QuicIds:
    """Any configuration that the draft allows."""
    server_id_length = draw(st.integers(1, LONGEST - 5))
    nonce_length = draw(st.integers(4, LONGEST - 1 - server_id_length))
    key = draw(st.none() | st.binary(min_size=16, max_size=16))
    return QuicIds(draw(st.integers(0, 6)), server_id_length, nonce_length, key)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.source)
def test_the_drafts_own_connection_ids(vector: Vector) -> None:
    """What the draft publishes is made, and read, byte by byte."""
    assert encode(vector.ids, vector.server_id, vector.nonce) == vector.connection_id
    assert decode(vector.ids, vector.connection_id) == (vector.server_id, vector.nonce)


@given(configurations(), st.data())
def test_what_is_encoded_is_decoded(ids: QuicIds, data: st.DataObject) -> None:
    """Server id and nonce come back, whatever the lengths and the key, also from a longer id."""
    server_id = data.draw(st.integers(0, (1 << 8 * ids.server_id_length) - 1))
    nonce = data.draw(st.binary(min_size=ids.nonce_length, max_size=ids.nonce_length))
    connection_id = encode(ids, server_id, nonce)
    assert len(connection_id) == length(ids)
    assert (connection_id[0] >> 5, connection_id[0] & 0x1F) == (ids.config, len(connection_id) - 1)
    assert decode(ids, connection_id) == (server_id, nonce)
    assert decode(ids, connection_id + b"more") == (server_id, nonce)
    assert server_of([ids], bytes([connection_id[0] ^ 0x1F]) + connection_id[1:]) == server_id


@given(configurations(), st.binary(max_size=LONGEST))
def test_what_is_too_short_or_of_another_configuration_names_nobody(ids: QuicIds, raw: bytes) -> None:
    """A connection id is read under its own codepoint only, 0b111 under none, and never beyond its end."""
    known = len(raw) >= length(ids) and raw[0] >> 5 == ids.config
    assert (server_of([ids], raw) is not None) == known
    assert server_of([ids], bytes([UNROUTABLE << 5]) + raw) is None


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (QuicIds(7, 2, 6), "the codepoint of a QUIC id configuration must be 0 to 6, not 7"),
        (QuicIds(0, 0, 6), "a server id of 1 byte or more"),
        (QuicIds(0, 2, 3), "a nonce of 4 bytes or more"),
        (QuicIds(0, 10, 10), "at most 19 together, not 10 and 10"),
        (QuicIds(0, 2, 6, bytes(15)), "must have 16 bytes, not 15"),
    ],
)
def test_configurations_outside_the_draft_are_refused(ids: QuicIds, said: str) -> None:
    """A configuration that no balancer could read makes no connection ids."""
    with pytest.raises(QuicIdError, match=said):
        encode(ids, 1, bytes(ids.nonce_length))


def test_what_does_not_fit_is_refused() -> None:
    """A server id or nonce is never cut off."""
    with pytest.raises(QuicIdError, match="the server id 256 does not fit 1 bytes"):
        encode(QuicIds(0, 1, 4), 256, bytes(4))
    with pytest.raises(QuicIdError, match="the nonce must have 4 bytes, not 5"):
        encode(QuicIds(0, 1, 4), 1, bytes(5))
