# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from poise.servers import decide, reconcile
from poise.servers.model import Layout, Mode, Model, Policy, Protocol, QuicIds, State, Vip
from poise.servers.preview import Preview, preview
from poise.servers.standing import Choice, Standing, choice
from tests.servers.models import wanted, wanted_vip

UP = Standing(up=True)


def read(model: Model, *vips: decide.WantedVip) -> Model:
    """What becomes of a model when poise.yaml says this."""
    return reconcile.reconcile(model, vips, 0.0, 3600.0)


def choices(model: Model) -> dict[int, Choice]:
    """Who takes new connections if all servers are up."""
    return {vip.index: choice(vip, {server.id: UP for server in vip.servers}) for vip in model.vips}


def compare(present: Model, after: Model) -> Preview:
    """What `poise plan` tells of a change, all servers being up."""
    return preview(present, choices(present), after, choices(after))


def only(model: Model, **changes: object) -> Model:
    """The model's one VIP with these fields."""
    vip: Vip = model.vips[0]
    return Model((replace(vip, **changes),))  # type: ignore[arg-type]  # of any field


def sentences(found: Preview) -> list[str]:
    """All changes in words."""
    return [change.sentence for vip in found.vips for change in vip.changes]


TWO = read(Model(), wanted_vip(1, wanted(1), wanted(2)))


def test_what_stays_is_not_told() -> None:
    """A VIP that is as it was is left out, whatever happens to others."""
    assert compare(TWO, TWO) == Preview()
    both = read(TWO, wanted_vip(1, wanted(1), wanted(2)), wanted_vip(2, wanted(3)))
    found = compare(TWO, both)
    assert [vip.vip for vip in found.vips] == ["vip2"]
    assert sentences(found) == ["VIP vip2 is added at 192.0.2.2:80, with 1 server"]
    assert (found.vips[0].moved, found.vips[0].open_connections) == (0, "there are none yet")


def test_a_server_that_is_added_takes_its_part() -> None:
    """The new server gets a third of the new flows; open connections do not notice."""
    found = compare(TWO, read(TWO, wanted_vip(1, wanted(1), wanted(2), wanted(3, weight=2))))
    assert sentences(found) == ["server web3 is added: 10.0.0.3:8080 with weight 2"]
    assert found.vips[0].moved == pytest.approx(1 / 3)
    assert found.vips[0].open_connections == "all of them stay with their servers"


def test_a_server_that_is_removed_keeps_its_connections() -> None:
    """What the file no longer names drains: half of the new flows go elsewhere, no open connection does."""
    found = compare(TWO, read(TWO, wanted_vip(1, wanted(1))))
    assert found.as_dict() == {
        "changes": [
            {
                "vip": "vip1",
                "kind": "server-removed",
                "server": "web2",
                "sentence": "server web2 is removed",
            }
        ],
        "moved": {"vip1": pytest.approx(0.5)},
        "open_connections": {"vip1": "all of them stay with their servers"},
    }


def test_a_server_that_is_cut_loses_its_connections() -> None:
    """A server that moves to another VIP is cut from the former one, and that is told."""
    before = read(TWO, wanted_vip(1, wanted(1), wanted(2)), wanted_vip(2))
    found = compare(before, read(before, wanted_vip(1, wanted(1)), wanted_vip(2, wanted(2))))
    assert [vip.vip for vip in found.vips] == ["vip1", "vip2"]
    assert sentences(found) == [
        "server web2 is removed, and its connections are cut",
        "server web2 is added: 10.0.0.2:8080 with weight 1",
    ]
    assert found.vips[0].open_connections == "those of web2 are reset, the others stay with their servers"


def test_many_servers_are_counted_rather_than_named() -> None:
    """A sentence about five servers names them, one about more says how many they are."""
    many = read(Model(), wanted_vip(1, *map(wanted, range(1, 8))))

    def cut(up_to: int) -> str:
        servers = (replace(s, state=State.CUT) if s.id < up_to else s for s in many.vips[0].servers)
        return compare(many, only(many, servers=tuple(servers))).vips[0].open_connections

    rest = "are reset, the others stay with their servers"
    assert cut(1) == f"those of web1 {rest}"
    assert cut(5) == f"those of web1, web2, web3, web4 and web5 {rest}"
    assert cut(6) == f"those of 6 servers {rest}"


def test_a_vip_that_goes_takes_its_connections_with_it() -> None:
    """Nothing is left of a VIP that the file no longer names, also if another one has its name now."""
    moved_vip = replace(wanted_vip(1, wanted(1), wanted(2)), port=81)
    found = compare(TWO, read(TWO, moved_vip)).as_dict()
    assert [change["kind"] for change in found["changes"]] == ["vip-removed", "vip-added"]  # type: ignore[attr-defined]
    assert found["moved"] == {"vip1": 1}
    assert found["open_connections"] == {"vip1": "all of them break"}


def test_states_weights_and_names_are_told() -> None:
    """Everything that differs of a server has its sentence."""
    first, second = TWO.vips[0].servers
    after = only(TWO, servers=(replace(first, state=State.MAINT, weight=3), replace(second, name="db")))
    assert sentences(compare(TWO, after)) == [
        "weight of server web1 changes from 1 to 3",
        "server web1 changes from ready to maint",
        "server web2 is renamed to db",
    ]
    assert sentences(compare(TWO, only(TWO, servers=(first,)))) == [
        "server web2 is forgotten: its id may be given out again"
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "shop"}, "VIP vip1 is renamed to shop"),
        ({"policy": Policy.AWRR}, "policy changes from round-robin to awrr"),
        ({"mode": Mode.STATEFUL}, "mode changes from stateless to stateful"),
        ({"layout": Layout.MSB}, "timestamp_layout changes from low to msb"),
        ({"panic": 0.075}, "panic changes from 50 % to 7.5 %"),
        ({"awrr_alpha": 1}, "awrr_alpha changes from 0 % to 100 %"),
        ({"slow_start": 90.0}, "slow_start changes from 0 s to 90 s"),
        ({"quic_ids": (QuicIds(0, 2, 4),)}, "how connection ids name servers changes"),
        ({"checks": (None,)}, "the health checks change"),
        ({"passive": 0}, "what is judged from packets alone changes"),
        ({"drain": None}, "how drains end changes"),
        ({"load": None}, "where loads come from changes"),
    ],
)
def test_every_setting_of_a_vip_is_told(changes: dict[str, object], sentence: str) -> None:
    """No field of a VIP changes without a sentence."""
    assert sentences(compare(TWO, only(TWO, **changes))) == [sentence]


def test_no_field_is_forgotten() -> None:
    """A field that is added to Vip must be told as well, or be one that identifies it."""
    told = {"name", "policy", "mode", "layout", "panic", "awrr_alpha", "slow_start", "quic_ids", "checks"}
    told |= {"passive", "drain", "load", "servers", "protocol"}
    assert set(Vip.__dataclass_fields__) - told == {"index", "address", "port"}


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ({}, {"mode": Mode.STATEFUL}, "mode"),
        ({}, {"layout": Layout.LSB}, "timestamp_layout"),
        ({"protocol": Protocol.QUIC}, {"quic_ids": (QuicIds(0, 2, 4),)}, "quic_ids"),
    ],
)
def test_connections_break_when_what_keeps_them_changes(
    before: dict[str, object], after: dict[str, object], what: str
) -> None:
    """Cookies, ids and tables that were made under a former setting mean nothing under another one."""
    present = only(TWO, **before)
    found = compare(present, only(present, **after))
    assert found.vips[0].open_connections == f"those made before break, as {what} changes"


def test_without_cookies_open_connections_move_as_new_ones_do() -> None:
    """Where a hash places every packet, a change of servers breaks connections, and says how many."""
    present = only(TWO, mode=Mode.COOKIELESS, policy=Policy.MAGLEV)
    third = read(TWO, wanted_vip(1, wanted(1), wanted(2), wanted(3))).vips[0].servers
    found = compare(present, only(present, servers=third)).vips[0]
    share = f"{100 * found.moved:.3g} %"
    assert 1 / 3 <= found.moved < 0.4
    assert found.open_connections == (
        f"about {share} of them go to another server and break, the others stay with their servers"
    )


def test_a_choice_alone_may_differ() -> None:
    """If other servers take connections although the models are equal, what moves is told."""
    before = {0: choice(TWO.vips[0], {0: UP})}
    found = preview(TWO, before, TWO, choices(TWO))
    assert [(vip.changes, vip.moved) for vip in found.vips] == [((), 0.5)]
