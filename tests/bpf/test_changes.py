# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace

import pytest

from poise.servers import decide
from poise.servers.decide import WantedServer
from poise.servers.model import Model, Server, Vip
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.changes import Operator
from tests.bpf.connection import CLIENT_ISN, Connection
from tests.bpf.network import CLIENT
from tests.bpf.packets import End, source_of, target_of, usual
from tests.bpf.services import FIRST, HASHED, MODEL, SECOND, WEB, end_of

pytestmark = pytest.mark.root

CONNECTION = Connection()
CLOCK = 0x3456789A
NEW_SERVER = WantedServer("new", FIRST.address, 9000)


def _data(server: Server, connection: Connection = CONNECTION) -> bytes:
    return connection.request(
        "A", usual(1, connection.stamped(CLOCK, server, mark=1)), seq=CLIENT_ISN + 1, ack=9
    )


def _goes_to(balancer: Balancer, packet: bytes) -> End:
    result = balancer.run(packet)
    assert result.verdict == Verdict.REDIRECT
    return target_of(result.packet)


def _syn(port: int) -> bytes:
    return Connection(client=End(CLIENT, port)).syn()


def test_draining_moves_only_what_is_not_yet_a_connection(operator: Operator) -> None:
    """An established connection stays on a drained server; a repeated SYN and new ones go elsewhere."""
    balancer = operator.balancer
    assert _goes_to(balancer, CONNECTION.syn()) == end_of(FIRST)
    operator.drain(FIRST)
    assert _goes_to(balancer, _data(FIRST)) == end_of(FIRST)
    assert _goes_to(balancer, CONNECTION.syn()) == end_of(SECOND)
    assert {_goes_to(balancer, _syn(port)) for port in range(1, 9)} == {end_of(SECOND)}
    operator.add(FIRST)
    assert _goes_to(balancer, CONNECTION.syn()) == end_of(SECOND)
    assert {_goes_to(balancer, _syn(port)) for port in range(11, 19)} == {end_of(FIRST), end_of(SECOND)}


def test_cutting_ends_connections_on_both_sides(operator: Operator) -> None:
    """A cut server's clients are reset, its replies discarded; a repeated SYN goes elsewhere."""
    balancer = operator.balancer
    assert _goes_to(balancer, CONNECTION.syn()) == end_of(FIRST)
    operator.cut(FIRST)
    answer = balancer.run(_data(FIRST))
    assert (answer.verdict, source_of(answer.packet)) == (Verdict.TX, end_of(WEB))
    assert balancer.run(CONNECTION.reply(FIRST, "A", usual(1, 2))).verdict == Verdict.DROP
    assert balancer.run(CONNECTION.syn_ack(FIRST, CLOCK)).verdict == Verdict.DROP
    assert _goes_to(balancer, CONNECTION.syn()) == end_of(SECOND)
    operator.add(FIRST)
    assert _goes_to(balancer, _data(FIRST)) == end_of(FIRST)
    assert balancer.run(CONNECTION.reply(FIRST, "A", usual(1, 2))).verdict == Verdict.REDIRECT


def test_a_new_server_gets_its_turns(operator: Operator) -> None:
    """A server that is added gets new connections and no old ones."""
    balancer = operator.balancer
    operator.change(decide.add(MODEL, WEB, NEW_SERVER, 0, 0, declared=False)[0])
    ends = [_goes_to(balancer, _syn(port)) for port in range(1, 7)]
    assert {ends.count(end) for end in ends} == {2}
    assert set(ends) == {end_of(FIRST), end_of(SECOND), End(NEW_SERVER.address, NEW_SERVER.port)}
    assert _goes_to(balancer, _data(SECOND)) == end_of(SECOND)


def test_a_vip_that_is_gone_leaves_its_packets_to_the_kernel(operator: Operator) -> None:
    """Neither a client's nor a server's packets are touched once their VIP is removed."""
    operator.change(Model(tuple(vip for vip in MODEL.vips if vip != WEB)))
    for packet in (CONNECTION.syn(), _data(FIRST), CONNECTION.reply(FIRST, "A", usual(1, 2))):
        result = operator.balancer.run(packet)
        assert (result.verdict, result.packet) == (Verdict.PASS, packet)


CHANGES: dict[str, Callable[[], Model]] = {
    "adding a server": lambda: decide.add(MODEL, WEB, NEW_SERVER, 0, 0, declared=False)[0],
    "draining a server": lambda: decide.drain(MODEL, WEB, FIRST.name, 0),
    "cutting another server": lambda: decide.remove(MODEL, WEB, FIRST.name, 0, cut=True),
    "removing another VIP": lambda: Model(tuple(vip for vip in MODEL.vips if vip != HASHED)),
    "adding a VIP": lambda: Model(
        (*MODEL.vips, replace(WEB, index=6, address=CLIENT, servers=(replace(FIRST, port=9001),)))
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_no_step_of_a_change_loses_a_packet(operator: Operator, change: Callable[[], Model]) -> None:
    """While tables are written, connections go on in both directions and new ones find a server."""
    model = change()
    usable = {end_of(FIRST), end_of(SECOND), End(NEW_SERVER.address, NEW_SERVER.port)}
    data, reply = _data(SECOND), CONNECTION.reply(SECOND, "A", usual(CLOCK, 2))
    port = 0
    for target in (model, MODEL):
        for _ in operator.changing(target):
            port += 1
            assert _goes_to(operator.balancer, _syn(port)) in usable
            assert _goes_to(operator.balancer, data) == end_of(SECOND)
            answer = operator.balancer.run(reply)
            assert (answer.verdict, source_of(answer.packet)) == (Verdict.REDIRECT, end_of(WEB))


@pytest.mark.parametrize(
    "others",
    [(), (replace(WEB, address=CLIENT),), (replace(WEB, index=6, address=CLIENT),)],
    ids=["removed", "given another address", "replaced by another VIP"],
)
def test_while_a_vip_changes_its_servers_speak_for_no_other(
    operator: Operator, others: tuple[Vip, ...]
) -> None:
    """At each step a reply leaves in the name of the old or the new VIP, or not at all."""
    packet = CONNECTION.reply(FIRST, "A", usual(CLOCK, 2))
    allowed = {end_of(FIRST), end_of(WEB), *map(end_of, others)}
    for target in (Model((*others, *(vip for vip in MODEL.vips if vip != WEB))), MODEL):
        for _ in operator.changing(target):
            assert source_of(operator.balancer.run(packet).packet) in allowed
