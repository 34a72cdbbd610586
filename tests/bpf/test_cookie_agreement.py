# SPDX-License-Identifier: Apache-2.0
from ipaddress import IPv4Address

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from poise.servers import cookie
from poise.servers.model import SERVER_IDS, Model, Policy, Server, State, Vip
from tests.bpf import services
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.packets import End, target_of, timestamps_of, usual

pytestmark = pytest.mark.root

WORDS = st.integers(0, 0xFFFFFFFF)
PORTS = st.integers(1, 65535)
# Around the networks to which Site has routes of their own.
ADDRESSES = st.one_of(st.integers(0x0B000000, 0x63FFFFFF), st.integers(0x80000000, 0xBFFFFFFF)).map(
    IPv4Address
)
ENDS = st.builds(End, ADDRESSES, PORTS)


def _forwarded(balancer: Balancer, packet: bytes) -> bytes:
    result = balancer.run(packet)
    assert result.verdict == Verdict.REDIRECT
    return result.packet


# A failure is not shrunk: with any other example, the hash has other bits, so that it takes for ever.
@settings(deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    key=st.binary(min_size=16, max_size=16),
    vip_end=ENDS,
    server_end=ENDS,
    client=ENDS,
    server_id=st.integers(0, SERVER_IDS - 1),
    index=st.integers(0, 63),
    clocks=st.tuples(WORDS, WORDS),
)
def test_python_and_bpf_agree_on_the_cookie(
    balancer: Balancer,
    servers_ifindex: int,
    *,
    key: bytes,
    vip_end: End,
    server_end: End,
    client: End,
    server_id: int,
    index: int,
    clocks: tuple[int, int],
) -> None:
    """The program stamps what cookie.py would, for any key, and finds the way back by it."""
    assume(len({vip_end, server_end, client}) == 3)
    server = Server(server_id, "server", server_end.address, server_end.port, State.READY, 0.0, declared=True)
    vip = Vip(index, "vip", vip_end.address, vip_end.port, Policy.ROUND_ROBIN, (server,))
    model = Model((vip,))
    balancer.fill(model, services.hops(model, servers_ifindex), key)
    balancer.start_afresh()
    flow = cookie.flow_hash(key, cookie.end_bytes(vip.address, vip.port, 6), client.address, client.port)
    connection = Connection(vip, client)

    assert target_of(_forwarded(balancer, connection.syn())) == server_end
    for flags, clock in zip(("SA", "A"), clocks, strict=True):
        packet = connection.reply(server, flags, usual(clock, 1), ack=CLIENT_ISN + 1)
        seen, _ = timestamps_of(_forwarded(balancer, packet))
        assert seen == cookie.stamp(clock, flow, server_id, is_synack=flags == "SA")
        answer = _forwarded(balancer, connection.request("A", usual(2, seen)))
        assert target_of(answer) == server_end
        assert timestamps_of(answer)[1] == (clock if flags == "SA" else cookie.strip(clock))
