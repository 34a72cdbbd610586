# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers import cookie
from poise.servers.model import SERVER_IDS, Address

KEY = bytes(range(16))
WORDS = st.integers(0, 0xFFFFFFFF)
FLOWS = st.integers(0, (1 << 64) - 1)
SERVERS = st.integers(0, SERVER_IDS - 1)

# SipHash-1-3 of the bytes 0, 1, ..., n - 1 under the key 0, 1, ..., 15, as Rust's library/coretests has it.
ONE_THREE = {
    0: "dcc40f055801acab",
    1: "93ca577df39bf4c9",
    2: "4dd4c74d029bcb82",
    7: "4011b19b987d92d3",
    8: "8e9a298d11959036",
    13: "a7ff29120c766f30",
    14: "345df9c011a15a60",
    15: "5699512a6dd820d3",
    16: "668b907d1add4fcc",
    31: "bcd1218c1fdd7023",
    32: "0db6a7166c7b1581",
    63: "a8b3bbb76290199d",
}
# SipHash-2-4 of the same, as vectors.h of the authors' own code has it.
TWO_FOUR = {
    0: "310e0edd47db6f72",
    1: "fd67dc93c539f874",
    8: "6224939a79f5f593",
    15: "e545be4961ca29a1",
    63: "724506eb4c328a95",
}


@pytest.mark.parametrize(("length", "expected"), ONE_THREE.items())
def test_siphash_1_3_is_that_of_others(length: int, expected: str) -> None:
    """Other implementations of SipHash-1-3 have the same results."""
    assert cookie.siphash(KEY, bytes(range(length))).to_bytes(8, "little").hex() == expected


@pytest.mark.parametrize(("length", "expected"), TWO_FOUR.items())
def test_siphash_2_4_is_that_of_its_authors(length: int, expected: str) -> None:
    """With the rounds of the paper, the function has the results of the paper."""
    assert cookie.siphash(KEY, bytes(range(length)), 2, 4).to_bytes(8, "little").hex() == expected


def test_siphash_2_4_has_the_result_in_the_paper() -> None:
    """The test vector in appendix A of "SipHash: a fast short-input PRF"."""
    assert cookie.siphash(KEY, bytes(range(15)), 2, 4) == 0xA129CA6149BE45E5


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes otherwise")
def test_siphash_1_3_is_that_of_this_python() -> None:
    """Python hashes bytes by SipHash-1-3, under a key of zeros if it is told not to choose one."""
    messages = [bytes(range(start, start + length)) for length in range(1, 40) for start in (0, 100)]
    script = "import json, sys; print(json.dumps([hash(bytes.fromhex(m)) for m in json.load(sys.stdin)]))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([message.hex() for message in messages]),
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        check=True,
        text=True,
    )
    hashes = [number % (1 << 64) for number in json.loads(done.stdout)]
    assert [cookie.siphash(bytes(16), message) for message in messages] == hashes


@given(tsval=WORDS, flow=FLOWS, server=SERVERS, is_synack=st.booleans())
def test_an_echo_names_the_server_that_was_stamped(
    *, tsval: int, flow: int, server: int, is_synack: bool
) -> None:
    """Decoding undoes encoding, whatever the clock."""
    assert cookie.server_of(cookie.stamp(tsval, flow, server, is_synack=is_synack), flow) == server


@given(WORDS, FLOWS, SERVERS)
def test_a_stamp_changes_ten_bits_and_tells_a_syn_ack(tsval: int, flow: int, server: int) -> None:
    """The upper 22 bits stay the server's own, and bit 9 is the handshake mark."""
    synack, later = (cookie.stamp(tsval, flow, server, is_synack=is_synack) for is_synack in (True, False))
    assert synack >> 10 == later >> 10 == tsval >> 10
    assert (synack >> 9 & 1, later >> 9 & 1) == (0, 1)
    assert synack < later


@given(WORDS, FLOWS, SERVERS)
def test_a_stripped_echo_is_never_past(tsval: int, flow: int, server: int) -> None:
    """The server sees an echo of at least what it sent, and of less than 1,024 ticks more."""
    stripped = cookie.strip(cookie.stamp(tsval, flow, server, is_synack=False))
    assert tsval <= stripped < tsval + 1024


@given(st.binary(min_size=16, max_size=16), WORDS, st.integers(0, 65535))
def test_another_client_has_another_cookie(key: bytes, client: int, port: int) -> None:
    """What a client sees of its cookie tells nothing of others': the hash depends on address and port."""
    end = cookie.end_bytes(IPv4Address("192.0.2.10"), 80, 6)
    hashes = {
        cookie.flow_hash(key, end, IPv4Address(client), port),
        cookie.flow_hash(key, end, IPv4Address(client ^ 1), port),
        cookie.flow_hash(key, end, IPv4Address(client), port ^ 1),
        cookie.flow_hash(key, cookie.end_bytes(IPv4Address("192.0.2.10"), 81, 6), IPv4Address(client), port),
    }
    assert len(hashes) == 4


@given(
    st.one_of(
        st.tuples(*[st.integers(0, 2**32 - 1).map(IPv4Address)] * 2),
        st.tuples(*[st.integers(0, 2**128 - 1).map(IPv6Address)] * 2),
    ),
    st.integers(0, 65535),
    st.binary(min_size=16, max_size=16),
)
def test_a_hash_is_resumed_from_the_state_of_its_vip(
    addresses: tuple[Address, Address], port: int, key: bytes
) -> None:
    """What the tables hold of a VIP leads to the same hashes as the key."""
    vip, client = addresses
    end = cookie.end_bytes(vip, 80, 6)
    resumed = cookie.resumed_hash(cookie.vip_state(key, end), client, port)
    assert resumed == cookie.flow_hash(key, end, client, port)
