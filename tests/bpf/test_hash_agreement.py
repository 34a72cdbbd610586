# SPDX-License-Identifier: Apache-2.0
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from poise.servers import cookie
from poise.servers.ends import end_of as end_in_tables
from poise.servers.model import SERVER_IDS, Model, Policy, Protocol, Server, State, Vip
from tests.bpf.balancer import Verdict
from tests.bpf.changes import Operator
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.packets import End, source_of, target_of, timestamps_of, usual
from tests.bpf.services import KEY, end_of

pytestmark = pytest.mark.root

PORTS = st.integers(1, 65535)
V4 = st.integers(0x0B000000, 0x63FFFFFF).map(IPv4Address)
# Global unicast (RFC 4291, section 2.4), all by the default route but what Site has of its own.
V6 = st.integers(0x2400 << 112, (0x3FFF << 112) - 1).map(IPv6Address)
ENDS = st.sampled_from((V4, V6)).flatmap(
    lambda addresses: st.lists(st.builds(End, addresses, PORTS), min_size=8, max_size=8, unique=True)
)
WEIGHTS = st.lists(st.integers(1, 100), min_size=6, max_size=6)
IDS = st.lists(st.integers(0, SERVER_IDS - 1), min_size=6, max_size=6, unique=True)
# A failure is not shrunk: with any other example, the hash has other bits, so that it takes for ever.
quick = settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quick
@given(ends=ENDS, ids=IDS, weights=WEIGHTS, clock=st.integers(0, 0xFFFFFFFF), index=st.integers(0, 63))
def test_python_and_bpf_agree_on_ends_and_hashes(
    operator: Operator, *, ends: list[End], ids: list[int], weights: list[int], clock: int, index: int
) -> None:
    """Any VIP and server is found, its flows go where the Maglev table says, its replies get the cookie."""
    client, vip_end, *server_ends = ends
    assume(client.port != vip_end.port)
    balancer = operator.balancer
    for protocol in (Protocol.TCP, Protocol.UDP):
        servers = tuple(
            Server(
                number, f"web{number}", end.address, end.port, State.READY, 0.0, declared=True, weight=weight
            )
            for number, end, weight in zip(ids, server_ends, weights, strict=True)
        )
        vip = Vip(index, "vip", vip_end.address, vip_end.port, Policy.ROUND_ROBIN, servers, protocol)
        operator.change(Model((vip,)))
        balancer.start_afresh()
        connection = Connection(vip, client)
        is_tcp = protocol is Protocol.TCP
        packet = connection.syn(b"") if is_tcp else connection.datagram()
        result = balancer.run(packet)
        assert result.verdict == Verdict.REDIRECT
        assert target_of(result.packet) == end_of(connection.pick(servers))
        for server in servers:
            flow = cookie.flow_hash(KEY, end_in_tables(vip).packed(), client.address, client.port)
            reply = connection.reply(server, "A", usual(clock, 1), ack=CLIENT_ISN + 1)
            result = balancer.run(reply if is_tcp else connection.answer(server))
            assert result.verdict == Verdict.REDIRECT
            assert source_of(result.packet) == vip_end
            if is_tcp:
                seen, _ = timestamps_of(result.packet)
                assert seen == cookie.stamp(clock, flow, server.id, is_synack=False)
                answer = balancer.run(connection.request("A", usual(2, seen)))
                assert target_of(answer.packet) == end_of(server)
