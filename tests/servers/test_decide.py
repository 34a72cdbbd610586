# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

import pytest

from poise.servers import decide, reconcile
from poise.servers.model import (
    SERVER_IDS,
    IdsExhausted,
    Layout,
    Mode,
    Model,
    NoSuchServer,
    NoSuchVip,
    Policy,
    Protocol,
    QuicIds,
    Refused,
    State,
    Vip,
)
from tests.servers.models import states, wanted, wanted_vip

REST = 3600.0
READY, DRAIN, MAINT = State.READY, State.DRAIN, State.MAINT
REMOVED, CUT = State.REMOVED, State.CUT


def read(model: Model, *vips: decide.WantedVip, now: float = 0.0) -> Model:
    """What becomes of a model when poise.yaml says this."""
    return reconcile.reconcile(model, vips, now, REST)


def model_of(*numbers: int) -> Model:
    """One VIP, with these servers from poise.yaml."""
    return read(Model(), wanted_vip(1, *map(wanted, numbers)))


def only(model: Model) -> Vip:
    """The VIP of a model that has one."""
    return decide.find_vip(model, None)


def add(model: Model, number: int, now: float = 0.0, vip: str | None = None) -> Model:
    """What becomes of a model when an operator adds a server."""
    return decide.add(model, decide.find_vip(model, vip), wanted(number), now, REST, declared=False)[0]


def drain(model: Model, name: str, now: float = 0.0) -> Model:
    """What becomes of a model when an operator drains a server."""
    return decide.drain(model, only(model), name, now)


def remove(model: Model, name: str, now: float = 0.0, *, cut: bool = False) -> Model:
    """What becomes of a model when an operator removes a server."""
    return decide.remove(model, only(model), name, now, cut=cut)


def test_a_new_server_gets_the_lowest_free_id() -> None:
    """Ids are given out from 0 on, without gaps."""
    assert states(only(model_of(5, 3, 4))) == {"web5": (0, READY), "web3": (1, READY), "web4": (2, READY)}


def test_an_id_rests_after_its_server_is_removed() -> None:
    """The id of a removed server is given out again only when it has rested: old cookies lead nowhere."""
    model = remove(add(add(model_of(), 1), 2), "web1", now=100)
    assert states(only(add(model, 3, now=100 + REST - 1)))["web3"] == (2, READY)
    later = only(add(model, 3, now=100 + REST))
    assert states(later) == {"web2": (1, READY), "web3": (0, READY)}


def test_a_removed_server_that_comes_back_gets_its_old_id() -> None:
    """Connections that a server kept when it was removed are its own when it is added again."""
    model = remove(model_of(1, 2), "web1", now=100)
    assert states(only(add(model, 1, now=200))) == {"web1": (0, READY), "web2": (1, READY)}


def test_a_server_that_is_named_in_poise_yaml_keeps_its_id_however_long_it_is_removed() -> None:
    """An operator's removal of a server of poise.yaml lasts, and so does its id, until the file drops it."""
    model = remove(model_of(1, 2), "web1", now=0)
    assert states(only(add(model, 3, now=10 * REST)))["web3"] == (2, READY)
    dropped = read(model, wanted_vip(1, wanted(2)), now=10 * REST)
    assert states(only(dropped)) == {"web2": (1, READY)}


def test_exhausted_ids_tell_when_the_first_one_is_free() -> None:
    """When all ids are given out, the refusal names the time from which on a server can be added."""
    model = model_of()
    for number in range(SERVER_IDS):
        model = add(model, number)
    with pytest.raises(
        IdsExhausted, match=r"^VIP vip1 has .* all of its 512 server ids: remove a server first$"
    ):
        add(model, 600)
    model = remove(remove(model, "web7", now=50), "web9", now=20, cut=True)
    with pytest.raises(IdsExhausted) as refusal:
        add(model, 600, now=20 + REST - 1)
    assert refusal.value.frees_at == 20 + REST
    assert str(refusal.value).endswith(
        f"the next one is free at {datetime.fromtimestamp(20 + REST, UTC):%F %T} UTC"
    )
    assert states(only(add(model, 600, now=20 + REST)))["web600"] == (9, READY)


def test_a_server_that_is_in_already_is_refused() -> None:
    """Adding a server twice changes nothing, and says under which name it is in."""
    with pytest.raises(Refused, match=r"^server 10\.0\.0\.1:8080 is in VIP vip1 already, as web1$"):
        add(model_of(1), 1)


def test_a_name_belongs_to_one_server() -> None:
    """Two servers on the list cannot have one name; the name of a removed one is free."""
    with pytest.raises(Refused, match=r"^VIP vip1 has a server web1 already: give this one another name$"):
        decide.add(model_of(1), only(model_of(1)), wanted(2, "web1"), 0, REST, declared=False)
    model = remove(model_of(1), "web1")
    model, server = decide.add(model, only(model), wanted(2, "web1"), 0, REST, declared=False)
    assert server.id == 1
    assert decide.find_server(only(model), "web1").id == 1
    assert decide.find_server(only(model), "10.0.0.1:8080").id == 0


def test_a_server_is_in_one_vip_only() -> None:
    """What a server sends must belong to one VIP: it is let into another one once it is cut from one."""
    model = read(Model(), wanted_vip(1, wanted(1)), wanted_vip(2))
    first = decide.find_vip(model, "vip1")
    with pytest.raises(Refused, match=r"^server 10\.0\.0\.1:8080 is in VIP vip1: .* give it another port$"):
        add(model, 1, vip="vip2")
    with pytest.raises(Refused, match=r"^server 10\.0\.0\.1:8080 may still have .* with --now first$"):
        add(decide.remove(model, first, "web1", 0, cut=False), 1, vip="vip2")
    moved = add(decide.remove(model, first, "web1", 0, cut=True), 1, vip="vip2")
    assert [states(vip) for vip in moved.vips] == [{"web1": (0, CUT)}, {"web1": (0, READY)}]


def test_a_vip_is_no_server() -> None:
    """A VIP behind a VIP would send packets in circles."""
    model = model_of(1)
    server = decide.WantedServer("loop", IPv4Address("192.0.2.1"), 80)
    with pytest.raises(Refused, match=r"^192\.0\.2\.1:80 is the VIP vip1 itself: it cannot be a server$"):
        decide.add(model, only(model), server, 0, REST, declared=False)


def test_drain_remove_and_cut_follow_each_other() -> None:
    """A server drains, is removed, is cut, each from the time it is told; and may come back from each."""
    ready = model_of(1)
    draining = drain(ready, "web1", now=10)
    removed = remove(draining, "web1", now=20)
    was_cut = remove(removed, "web1", now=30, cut=True)
    models = (draining, removed, was_cut)
    servers = [only(model).servers[0] for model in models]
    assert [(server.state, server.since) for server in servers] == [(DRAIN, 10), (REMOVED, 20), (CUT, 30)]
    for model in models:
        server = only(add(model, 1, now=40)).servers[0]
        assert (server.id, server.state, server.since, server.declared) == (0, READY, 40, True)


def test_what_is_told_twice_changes_nothing() -> None:
    """Draining or cutting again does not start the time anew; removing again is refused, as is draining."""
    draining = drain(model_of(1), "web1", now=10)
    assert drain(draining, "web1", now=20) == draining
    was_cut = remove(draining, "web1", now=30, cut=True)
    assert remove(was_cut, "web1", now=40, cut=True) == was_cut
    with pytest.raises(NoSuchServer, match=r"^server web1 is removed from VIP vip1 already$"):
        remove(was_cut, "web1", now=40)
    with pytest.raises(Refused, match=r"^server web1 is removed from VIP vip1: add it again first$"):
        drain(was_cut, "web1", now=40)


def test_names_that_nothing_has_are_answered_with_those_there_are() -> None:
    """A wrong name, or none where it is needed, is answered with the names to choose from."""
    model = read(Model(), wanted_vip(1, wanted(1), wanted(2)), wanted_vip(2))
    with pytest.raises(NoSuchVip, match=r"^there is no VIP shop: the VIPs are vip1, vip2$"):
        decide.find_vip(model, "shop")
    with pytest.raises(
        NoSuchVip, match=r"^there are several VIPs, say with --vip which one is meant: vip1, vip2$"
    ):
        decide.find_vip(model, None)
    with pytest.raises(NoSuchServer, match=r"^VIP vip1 has no server ghost: its servers are web1, web2$"):
        decide.find_server(model.vips[0], "ghost")
    with pytest.raises(NoSuchServer, match=r"^VIP vip2 has no server ghost: it has none yet$"):
        decide.find_server(model.vips[1], "ghost")


def test_a_server_that_the_file_drops_drains_and_comes_back_with_it() -> None:
    """What poise.yaml no longer names is removed, not cut; when it is named again, it is the same server."""
    model = read(model_of(1, 2), wanted_vip(1, wanted(2)), now=10)
    assert states(only(model)) == {"web1": (0, REMOVED), "web2": (1, READY)}
    assert states(only(read(model, wanted_vip(1, wanted(1), wanted(2)), now=20)))["web1"] == (0, READY)


def test_what_operators_did_persists() -> None:
    """Reading the same poise.yaml again leaves what operators added, drained, removed or cut as it is."""
    file = wanted_vip(1, *map(wanted, (1, 2, 3)))
    model = add(remove(remove(drain(read(Model(), file), "web1"), "web2"), "web3", cut=True), 4)
    assert read(model, file, now=10) == model
    assert states(only(model)) == {
        "web1": (0, DRAIN),
        "web2": (1, REMOVED),
        "web3": (2, CUT),
        "web4": (3, READY),
    }


def test_a_server_that_an_operator_added_becomes_the_files() -> None:
    """Once poise.yaml names a server that an operator added, it goes when the file drops it."""
    model = read(add(model_of(), 1), wanted_vip(1, wanted(1)))
    assert states(only(read(model, wanted_vip(1)))) == {"web1": (0, REMOVED)}


def test_a_vip_may_be_renamed() -> None:
    """A VIP is known by its address and port: under another name it keeps its index and its servers."""
    model = read(model_of(1), wanted_vip(1, wanted(1), name="shop"))
    assert (only(model).name, only(model).index, states(only(model))) == ("shop", 0, {"web1": (0, READY)})


def test_vips_come_and_go() -> None:
    """A VIP keeps its index whatever the order of the file; that of a removed one is free at once."""
    model = read(Model(), wanted_vip(1, wanted(1)), wanted_vip(2, wanted(2)), wanted_vip(3))
    model = read(model, wanted_vip(3), wanted_vip(4), wanted_vip(2, wanted(2)))
    assert {vip.name: vip.index for vip in model.vips} == {"vip3": 2, "vip4": 0, "vip2": 1}
    assert states(model.vips[2]) == {"web2": (0, READY)}


def test_servers_may_be_renamed_in_a_circle() -> None:
    """The file's names hold, whatever they were before; an operator's server gives way to them."""
    model = add(model_of(1, 2), 3)
    file = wanted_vip(1, wanted(1, "web2"), wanted(2, "web3"), wanted(4, "web1"))
    assert {server.name: server.address.packed[3] for server in only(read(model, file)).servers} == {
        "web2": 1,
        "web3": 2,
        "10.0.0.3:8080": 3,
        "web1": 4,
    }


def test_a_server_may_move_to_another_vip() -> None:
    """When poise.yaml moves a server, its new VIP gets it at once, and it is cut from the former one."""
    model = read(Model(), wanted_vip(1, wanted(1), wanted(2)), wanted_vip(2))
    model = read(model, wanted_vip(1, wanted(2)), wanted_vip(2, wanted(1)), now=10)
    assert [states(vip) for vip in model.vips] == [
        {"web1": (0, CUT), "web2": (1, READY)},
        {"web1": (0, READY)},
    ]
    back = read(model, wanted_vip(1, wanted(1), wanted(2)), wanted_vip(2), now=20)
    assert [states(vip) for vip in back.vips] == [
        {"web1": (0, READY), "web2": (1, READY)},
        {"web1": (0, CUT)},
    ]


def test_an_operators_server_gives_way_to_a_vip_at_its_place() -> None:
    """When poise.yaml puts a VIP where an operator's server is, nothing is sent in circles."""
    server = decide.WantedServer("web", IPv4Address("192.0.2.2"), 80)
    model = decide.add(model_of(), only(model_of()), server, 0, REST, declared=False)[0]
    assert states(read(model, wanted_vip(1), wanted_vip(2)).vips[0]) == {"web": (0, CUT)}


def test_vips_of_tcp_and_udp_live_side_by_side() -> None:
    """One address and port may be a VIP of each protocol, and a server may be in both."""
    tcp = wanted_vip(1, wanted(1), name="tcp")
    quic = wanted_vip(1, wanted(1), name="quic", protocol=Protocol.QUIC)
    model = read(Model(), tcp, quic)
    assert [(vip.index, states(vip)) for vip in model.vips] == [
        (0, {"web1": (0, READY)}),
        (1, {"web1": (0, READY)}),
    ]
    both = add(add(model, 2, vip="tcp"), 2, vip="quic")
    assert [states(vip)["web2"] for vip in both.vips] == [(1, READY), (1, READY)]
    vip_as_server = decide.WantedServer("x", IPv4Address("192.0.2.1"), 80)
    with pytest.raises(Refused, match=r"is the VIP quic itself"):
        decide.add(model, decide.find_vip(model, "quic"), vip_as_server, 0, REST, declared=False)


def test_a_vip_of_another_protocol_is_another_vip() -> None:
    """When a VIP of poise.yaml becomes one of UDP ids begin anew; between UDP and QUIC they stay."""
    model = remove(add(model_of(1), 2), "web1", now=5)
    udp = read(model, wanted_vip(1, wanted(2), protocol=Protocol.UDP), now=10)
    assert states(only(udp)) == {"web2": (0, READY)}
    quic = read(add(udp, 3), wanted_vip(1, wanted(2), protocol=Protocol.QUIC), now=10)
    assert (only(quic).protocol, states(only(quic))) == (
        Protocol.QUIC,
        {"web2": (0, READY), "web3": (1, READY)},
    )


def test_what_a_vip_does_may_change() -> None:
    """Policy, mode, layout, connection ids and weights follow poise.yaml, and all servers keep their ids."""
    model = drain(model_of(1, 2), "web2", now=5)
    changed = replace(
        wanted_vip(1, wanted(2, weight=3), wanted(1, weight=2)),
        policy=Policy.HASH,
        mode=Mode.STATEFUL,
        layout=Layout.LSB,
        quic_ids=(QuicIds(1, 2, 6),),
    )
    (vip,) = read(model, changed, now=10).vips
    assert (vip.policy, vip.mode, vip.layout, vip.quic_ids) == (
        Policy.HASH,
        Mode.STATEFUL,
        Layout.LSB,
        (QuicIds(1, 2, 6),),
    )
    assert states(vip) == {"web1": (0, READY), "web2": (1, DRAIN)}
    assert [server.weight for server in vip.servers] == [2, 3]


def test_a_weight_is_kept_until_another_one_is_given() -> None:
    """What an operator does not say of a server that is known stays as it is; a new one weighs 1."""
    model = model_of(1)

    def again(model: Model, weight: int | None) -> Model:
        model = remove(model, "web1")
        wish = decide.wanted_by_operator(only(model), IPv4Address("10.0.0.1"), 8080, None, weight)
        return decide.add(model, only(model), wish, 0, REST, declared=False)[0]

    heavy = again(model, 5)
    assert only(heavy).servers[0].weight == 5
    assert only(again(heavy, None)).servers[0] == only(heavy).servers[0]
    new = decide.wanted_by_operator(only(model), IPv6Address("2001:db8::5"), 80, None, None)
    assert (new.name, new.weight) == ("[2001:db8::5]:80", 1)


def test_a_server_is_of_its_vips_family() -> None:
    """A server of IPv6 cannot be in a VIP of IPv4, nor the other way round; it goes by [ADDRESS]:PORT."""
    four = model_of(1)
    with pytest.raises(
        Refused, match=r"^server \[2001:db8:1::2\]:8080 cannot be in VIP vip1, which is IPv4: "
    ):
        decide.add(four, only(four), wanted(2, version=6), 0, REST, declared=False)
    six = read(Model(), wanted_vip(1, wanted(1, version=6), version=6))
    with pytest.raises(Refused, match=r"^server 10\.0\.0\.2:8080 cannot be in VIP vip1, which is IPv6: "):
        add(six, 2)
    assert decide.find_server(only(six), "[2001:db8:1::1]:8080").name == "web1"


def test_short_server_ids_of_quic_limit_the_servers() -> None:
    """A VIP whose connection ids have one byte for the server has no more ids than it can name."""
    vip = replace(wanted_vip(1, protocol=Protocol.QUIC), quic_ids=(QuicIds(0, 2, 6), QuicIds(1, 1, 6)))
    model = read(Model(), vip)
    for number in range(256):
        model = add(model, number)
    with pytest.raises(IdsExhausted, match=r"has given out all of its 256 server ids"):
        add(model, 256)


def test_ready_drain_and_maintenance_follow_each_other() -> None:
    """Each state begins when it is told, a drain with its deadline; setting it again keeps the beginning."""
    model = model_of(1)
    for now, state, deadline in ((10, DRAIN, 70.0), (20, MAINT, None), (30, DRAIN, None), (40, READY, None)):
        model = decide.set_state(model, only(model), "web1", state, now, deadline=deadline)
        (server,) = only(model).servers
        assert (server.state, server.since, server.deadline) == (state, now, deadline)
        again = decide.set_state(model, only(model), "web1", state, now + 5, deadline=deadline)
        assert again == model
    later = decide.set_state(model, only(model), "web1", DRAIN, 50, deadline=90)
    moved = decide.set_state(later, only(later), "web1", DRAIN, 60, deadline=100)
    assert (only(moved).servers[0].since, only(moved).servers[0].deadline) == (50, 100)


def test_states_that_cannot_be_set_are_refused() -> None:
    """What is off the list is added, not set; and only a drain has a deadline."""
    model = model_of(1)
    with pytest.raises(
        Refused, match=r"^a server cannot be set cut: set it ready, drain, maint, or remove it$"
    ):
        decide.set_state(model, only(model), "web1", CUT, 0)
    with pytest.raises(
        Refused, match=r"^only a drain has a deadline: leave it out to set server web1 ready$"
    ):
        decide.set_state(model, only(model), "web1", READY, 0, deadline=5)
    gone = remove(model, "web1")
    with pytest.raises(Refused, match=r"^server web1 is removed from VIP vip1: add it again first$"):
        decide.set_state(gone, only(gone), "web1", MAINT, 0)


def test_what_is_settled_is_not_looked_at_unless_it_loses_a_server() -> None:
    """VIPs of which the file says the same stay the very same, but for servers that others take from them."""
    file = [wanted_vip(number, wanted(number)) for number in (1, 2, 3)]
    model = add(read(Model(), *file), 9, vip="vip2")
    changed = [file[0], file[1], wanted_vip(3, wanted(3), wanted(9))]
    settled = {reconcile.vip_end(file[0]), reconcile.vip_end(file[1])}
    after = reconcile.reconcile(model, changed, 10, REST, settled=settled)
    assert after.vips[0] is model.vips[0]
    assert states(after.vips[1])["web9"] == (1, CUT)
    assert states(after.vips[2])["web9"] == (1, READY)
    assert after == reconcile.reconcile(model, changed, 10, REST)
