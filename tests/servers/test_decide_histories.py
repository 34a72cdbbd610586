# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to the servers, in whatever order: histories made by hypothesis."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from poise.errors import PoiseError
from poise.servers import decide, reconcile
from poise.servers.model import GONE, SERVER_IDS, Address, Mode, Model, Protocol, Server, State, Vip
from tests.servers.models import end, wanted, wanted_vip

REST = 10.0
VIPS = range(1, 4)
SERVERS = range(1, 7)

End = tuple[Address, int]
ProtocolEnd = tuple[Address, int, int]


@st.composite
def files(draw: st.DrawFn) -> list[decide.WantedVip]:
    """What a poise.yaml without mistakes may say.

    Of each protocol, a server is in one VIP at most; names are all different. VIP 3 is of IPv6.
    """
    tcp = draw(st.lists(st.sampled_from(VIPS), unique=True, min_size=1))
    udp = draw(st.lists(st.sampled_from(VIPS), unique=True))
    found = [*draw(vips(tcp, Protocol.TCP)), *draw(vips(udp, Protocol.UDP))]
    return draw(st.permutations(found))


@st.composite
def vips(draw: st.DrawFn, numbers: list[int], protocol: Protocol) -> list[decide.WantedVip]:
    """VIPs of one protocol, in which each server is once at most."""
    homes = draw(st.lists(st.sampled_from([*numbers, None]), min_size=len(SERVERS), max_size=len(SERVERS)))
    names = draw(st.permutations([f"web{number}" for number in SERVERS]))
    weights = draw(st.lists(st.integers(1, 3), min_size=len(SERVERS), max_size=len(SERVERS)))
    order = draw(st.permutations(SERVERS))
    named = [
        (home, wanted(number, names[number - 1], version=version(home), weight=weights[number - 1]))
        for number in order
        if (home := homes[number - 1])
    ]
    modes = draw(st.lists(st.sampled_from(Mode), min_size=len(numbers), max_size=len(numbers)))
    quic = protocol is Protocol.UDP and draw(st.booleans())
    return [
        replace(
            wanted_vip(
                vip,
                *(server for home, server in named if home == vip),
                name=f"{protocol}{vip}",
                protocol=Protocol.QUIC if quic else protocol,
                version=version(vip),
            ),
            mode=mode,
        )
        for vip, mode in zip(numbers, modes, strict=True)
    ]


def version(vip: int) -> int:
    """The IP version of a VIP."""
    return 6 if vip == VIPS[-1] else 4


def protocol_end(
    thing: Vip | Server | decide.WantedServer | decide.WantedVip, vip: Vip | decide.WantedVip
) -> ProtocolEnd:
    """Where it listens, and for what."""
    return *end(thing), vip.protocol.number


class Histories(RuleBasedStateMachine):
    """Operators and poise.yaml change the servers, while time goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.model = Model()
        self.file: Sequence[decide.WantedVip] = ()
        self.holders: dict[
            tuple[ProtocolEnd, int], tuple[End, float]
        ] = {}  # of each id, and when last on the list

    @initialize(file=files())
    def start(self, file: list[decide.WantedVip]) -> None:
        """The first poise.yaml."""
        self.read_file(file)

    @rule(file=files())
    def read_file(self, file: list[decide.WantedVip]) -> None:
        """Start poise with a changed poise.yaml; starting once more changes nothing."""
        settled = {reconcile.vip_end(want) for want in file if want in self.file}
        quick = reconcile.reconcile(self.model, file, self.now, REST, settled=settled)
        self.file = file
        self.model = reconcile.reconcile(self.model, file, self.now, REST)
        assert reconcile.reconcile(quick, file, self.now, REST) == self.model
        assert reconcile.reconcile(self.model, file, self.now, REST) == self.model
        for vip, want in zip(self.model.vips, file, strict=True):
            weights = {end(server): server.weight for server in vip.servers}
            assert {end(server): server.weight for server in want.servers}.items() <= weights.items()

    @rule(file=files())
    def reload_file(self, file: list[decide.WantedVip]) -> None:
        """Have the running poise read a changed poise.yaml, of which it looks only at what is another."""
        settled = {reconcile.vip_end(want) for want in file if want in self.file}
        self.file = file
        self.model = reconcile.reconcile(self.model, file, self.now, REST, settled=settled)
        for vip, want in zip(self.model.vips, file, strict=True):
            if reconcile.vip_end(want) not in settled:
                weights = {end(server): server.weight for server in vip.servers}
                assert {end(server): server.weight for server in want.servers}.items() <= weights.items()

    @rule()
    def restart(self) -> None:
        """Start poise with the same poise.yaml."""
        self.read_file(list(self.file))

    @rule(seconds=st.sampled_from([0.5, REST / 2, REST]))
    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds

    @rule(data=st.data(), number=st.sampled_from(SERVERS), name=st.sampled_from(SERVERS))
    def add(self, data: st.DataObject, number: int, name: int) -> None:
        """An operator adds a server; one whose id is not free yet gets it back."""
        vip = data.draw(st.sampled_from(self.model.vips))
        server = wanted(number, f"web{name}", version=data.draw(st.sampled_from([4, 6])))
        known = [old for old in vip.servers if end(old) == end(server) and not self._is_rested(old)]
        try:
            self.model, added = decide.add(self.model, vip, server, self.now, REST, declared=False)
        except PoiseError:
            return
        assert all(old.id == added.id for old in known)

    @rule(data=st.data(), how=st.sampled_from(["drain", "maint", "ready", "remove", "cut"]))
    def change(self, data: st.DataObject, how: str) -> None:
        """An operator sets the state of a server, removes it or cuts it."""
        vip = data.draw(st.sampled_from(self.model.vips))
        name = f"web{data.draw(st.sampled_from(SERVERS))}"
        try:
            if how in {"remove", "cut"}:
                self.model = decide.remove(self.model, vip, name, self.now, cut=how == "cut")
            else:
                self.model = decide.set_state(self.model, vip, name, State(how), self.now)
        except PoiseError:
            return

    def _is_rested(self, server: Server) -> bool:
        return server.state in GONE and not server.declared and server.since + REST <= self.now

    @invariant()
    def no_id_names_two_servers_within_the_rest(self) -> None:
        """Between being the id of one server and of the next, an id rests."""
        present = {protocol_end(vip, vip) for vip in self.model.vips}
        self.holders = {key: holder for key, holder in self.holders.items() if key[0] in present}
        for vip, server in self.model.servers():
            assert 0 <= server.id < SERVER_IDS
            holder, last = self.holders.get((protocol_end(vip, vip), server.id), (end(server), self.now))
            assert holder == end(server) or last + REST <= self.now
            if server.state not in GONE:
                last = self.now
            self.holders[protocol_end(vip, vip), server.id] = end(server), last

    @invariant()
    def nothing_is_there_twice(self) -> None:
        """Ids, ends and names tell servers apart, and a server is in one VIP of a protocol."""
        for vip in self.model.vips:
            assert_unique([server.id for server in vip.servers])
            assert_unique([end(server) for server in vip.servers])
            assert_unique([server.name for server in vip.servers if server.state not in GONE])
        assert_unique([vip.index for vip in self.model.vips])
        assert_unique(
            [protocol_end(server, vip) for vip, server in self.model.servers() if server.state != State.CUT]
        )

    @invariant()
    def families_do_not_mix(self) -> None:
        """Every server is of its VIP's IP version."""
        assert all(vip.address.version == server.address.version for vip, server in self.model.servers())

    @invariant()
    def the_file_is_obeyed(self) -> None:
        """The VIPs are those of poise.yaml, and each of its servers has an id."""
        for vip, want in zip(self.model.vips, self.file, strict=True):
            assert (end(vip), vip.protocol, vip.mode) == (end(want), want.protocol, want.mode)
            assert {end(server) for server in want.servers} <= {end(server) for server in vip.servers}


def assert_unique(things: Sequence[int | str | End | ProtocolEnd]) -> None:
    """No two of them are equal."""
    assert len(set(things)) == len(things)


TestHistories = Histories.TestCase
TestHistories.__doc__ = "No id ever names two servers within its rest, and no server is in two VIPs."
TestHistories.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
