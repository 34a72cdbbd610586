# SPDX-License-Identifier: Apache-2.0
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.kernel import bpffs
from poise.quic import tables
from poise.quic.connection_id import decode, encode, length, unroutable
from poise.quic.keys import QuicKeyError, set_key
from poise.servers.model import SERVER_IDS, Policy, QuicIds, Vip
from tests.kernel.programs import opened
from tests.quic.vectors import VECTORS, Vector

pytestmark = pytest.mark.root

VIP = 63  # the last one
LARGEST = 1452  # bytes of a QUIC datagram over IPv6 on Ethernet
KEY = bytes(range(16))
SOURCE = """
#include "poise/quic.h"

SEC("xdp")
int in_xdp(struct xdp_md *ctx)
{
	return SERVER_IDS + quic_server((void *)(long)ctx->data, (void *)(long)ctx->data_end, 63);
}

SEC("tc")
int in_tc(struct __sk_buff *skb)
{
	return SERVER_IDS + quic_server((void *)(long)skb->data, (void *)(long)skb->data_end, 63);
}
"""
WITHOUT_CRYPTO = "".join(
    f"#define bpf_crypto_{name} ghost_{name}\n"
    for name in ("ctx", "ctx_create", "ctx_release", "encrypt", "decrypt")
)


class Reader:
    """The decision in a program of its own: a packet is what stands behind the UDP header."""

    def __init__(self, source: str = SOURCE, pins: Path | None = None) -> None:
        """Load it, without any configuration, or with the tables that are pinned in `pins`."""
        self.object = opened(source)
        if pins:
            self.object.pin_maps(pins)
        self.object.load()
        self._configs = self.object.map("quic_configs")
        self._programs = [self.object.program(name) for name in ("in_xdp", "in_tc")]

    def configure(self, *quic_ids: QuicIds) -> None:
        """Have the VIP know these configurations, and no others."""
        vip = Vip(VIP, "dns", IPv4Address("192.0.2.1"), 443, Policy.HASH, quic_ids=quic_ids)
        for row, key in tables.keys(vip).items():
            set_key(self.object, row, key)
        rows = tables.configs(vip)
        first = VIP * tables.CODEPOINTS
        self._configs.update([(row, rows.get(row, {})) for row in range(first, first + tables.CODEPOINTS)])

    def server(self, datagram: bytes) -> int | None:
        """The server id that is read from a datagram of 14 bytes or more, the same by both programs."""
        found, in_tc = [program.test_run(datagram).verdict - SERVER_IDS for program in self._programs]
        assert found == in_tc
        return None if found == -1 else found


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """The program, loaded."""
    reader = Reader()
    with closing(reader.object):
        yield reader


def short_header(connection_id: bytes) -> bytes:
    """The least that a 1-RTT packet has, RFC 9001, section 5.4.2: 20 bytes behind the connection id."""
    return b"\x40" + connection_id + b"\xff" * 20


def long_header(connection_id: bytes, version: int = 1) -> bytes:
    """A Handshake packet of the least size, from a client with an empty connection id."""
    return b"\xe0" + version.to_bytes(4) + bytes([len(connection_id)]) + connection_id + b"\0" + b"\xff" * 21


@st.composite
def configurations(draw: st.DrawFn) -> QuicIds:
    """Any configuration that the draft allows."""
    server_id_length = draw(st.integers(1, 15))
    nonce_length = draw(st.integers(4, 19 - server_id_length))
    return QuicIds(draw(st.integers(0, 6)), server_id_length, nonce_length, draw(st.none() | st.just(KEY)))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.source)
def test_the_drafts_own_connection_ids(reader: Reader, vector: Vector) -> None:
    """The draft's connection ids are decrypted: their server ids are too large, their first bytes are not."""
    ids = vector.ids
    reader.configure(ids)
    assert reader.server(short_header(vector.connection_id)) is None
    total = ids.server_id_length + ids.nonce_length
    reader.configure(replace(ids, server_id_length=1, nonce_length=total - 1))
    first = vector.server_id >> 8 * (ids.server_id_length - 1)
    assert reader.server(short_header(vector.connection_id)) == first
    assert reader.server(long_header(vector.connection_id)) == first


@settings(deadline=None, max_examples=300)
@given(configurations(), st.data())
def test_what_a_server_minted_is_read(reader: Reader, ids: QuicIds, data: st.DataObject) -> None:
    """Every length, every algorithm: ids below 512 are read from both kinds of header, others from none."""
    largest = (1 << 8 * ids.server_id_length) - 1
    numbers = st.integers(0, min(largest, SERVER_IDS - 1)) | st.integers(0, largest)
    server_id = data.draw(numbers)
    reader.configure(ids)
    connection_id = encode(ids, server_id, os.urandom(ids.nonce_length))
    expected = server_id if server_id < SERVER_IDS else None
    assert reader.server(short_header(connection_id)) == expected
    assert reader.server(long_header(connection_id)) == expected
    assert reader.server(long_header(connection_id[:-1])) is None
    assert reader.server(short_header(bytes([connection_id[0] ^ 0x20]) + connection_id[1:])) is None


@settings(deadline=None, max_examples=300)
@given(
    st.lists(configurations(), max_size=7, unique_by=lambda ids: ids.config),
    st.binary(min_size=14, max_size=60),
)
def test_no_datagram_is_misread(reader: Reader, configured: list[QuicIds], datagram: bytes) -> None:
    """Whatever comes, the result is what the reference says of the bytes where the connection id stands."""
    reader.configure(*configured)
    if datagram[0] & 0x80:
        readable = datagram[6 : 6 + datagram[5]] if any(datagram[1:5]) and len(datagram) >= 26 else b""
    else:
        readable = datagram[1:21] if len(datagram) >= 21 else b""
    decoded = [decode(ids, readable) for ids in configured]
    named = [found[0] for found in decoded if found and found[0] < SERVER_IDS]
    assert reader.server(datagram) == (named[0] if named else None)


def test_each_codepoint_is_read_its_own_way(reader: Reader) -> None:
    """While servers change from one configuration to the next, ids of both are understood."""
    configured = [QuicIds(0, 2, 6), QuicIds(1, 2, 14, KEY), QuicIds(2, 1, 8, KEY[::-1])]
    reader.configure(*configured)
    for number, ids in enumerate(configured):
        assert reader.server(short_header(encode(ids, number, bytes(ids.nonce_length)))) == number
    for total in (8, 20):
        assert reader.server(short_header(unroutable(total))) is None
    reader.configure(*configured[1:])
    assert reader.server(short_header(encode(configured[0], 0, bytes(6)))) is None


def test_what_is_no_packet_of_a_client_names_nobody(reader: Reader) -> None:
    """Version Negotiation, and what ends before its connection id could have, are without server."""
    ids = QuicIds(0, 2, 6)
    reader.configure(ids)
    connection_id = encode(ids, 7, bytes(6))
    assert len(connection_id) == length(ids) == 9
    assert reader.server(long_header(connection_id, version=0)) is None
    assert reader.server(long_header(connection_id, version=0xFF00001D)) == 7
    assert reader.server(long_header(connection_id)[:25]) is None
    assert reader.server(short_header(connection_id)[:20]) is None
    assert reader.server(short_header(connection_id)[:21]) == 7
    assert reader.server(short_header(connection_id).ljust(LARGEST, b"\0")) == 7


def test_without_its_key_an_encrypted_id_names_nobody(reader: Reader) -> None:
    """A key that was taken away, or is another's, does not decrypt."""
    ids = QuicIds(4, 2, 14, KEY)
    reader.configure(ids)
    datagram = short_header(encode(ids, 7, bytes(14)))
    row = VIP * tables.CODEPOINTS + ids.config
    assert reader.server(datagram) == 7
    set_key(reader.object, row, KEY[::-1])
    assert reader.server(datagram) is None
    set_key(reader.object, row, KEY)
    assert reader.server(datagram) == 7
    set_key(reader.object, row, None)
    assert reader.server(datagram) is None


def test_a_kernel_without_aes_for_bpf_loads_the_same_programs() -> None:
    """Where the kernel lacks the functions, ids without a key are read, and keys refused with the reason."""
    reader = Reader(WITHOUT_CRYPTO + SOURCE)
    with closing(reader.object):
        plain = QuicIds(0, 2, 6)
        reader.configure(plain)
        assert reader.server(short_header(encode(plain, 7, bytes(6)))) == 7
        with pytest.raises(QuicKeyError, match="this kernel cannot decrypt QUIC connection ids"):
            reader.configure(QuicIds(1, 2, 14, KEY))
        set_key(reader.object, 0, None)


def test_keys_outlive_the_program_that_set_them() -> None:
    """A new process takes over the keys with the tables, as poise does when it is started again."""
    ids = QuicIds(4, 2, 14, KEY)
    pins = bpffs.BPFFS / f"poise-test-quic-{os.getpid()}"
    assert bpffs.make_directory(pins)
    try:
        first = Reader(pins=pins)
        first.configure(ids)
        first.object.close()
        second = Reader(pins=pins)
        with closing(second.object):
            assert second.server(short_header(encode(ids, 7, bytes(14)))) == 7
    finally:
        bpffs.remove_pins(pins, [pin.name for pin in bpffs.pins_in(pins)])


def test_keys_have_rows(reader: Reader) -> None:
    """A row beyond the table is refused."""
    with pytest.raises(QuicKeyError, match="the kernel did not take a key of QUIC connection ids: EINVAL"):
        set_key(reader.object, 128 * tables.CODEPOINTS, KEY)


def test_the_object_says_what_python_does(reader: Reader) -> None:
    """The numbers of the contract are the same on both sides."""
    assert reader.object.btf.enum("quic_algorithm") == {
        "QUIC_UNROUTABLE": 0,
        "QUIC_PLAINTEXT": tables.PLAINTEXT,
        "QUIC_SINGLE_PASS": tables.SINGLE_PASS,
        "QUIC_FOUR_PASS": tables.FOUR_PASS,
    }
