# SPDX-License-Identifier: Apache-2.0
"""Changes of what the balancer runs."""

from collections.abc import Collection, Generator, Mapping
from dataclasses import replace

from poise.servers import decide
from poise.servers.decide import WantedServer
from poise.servers.model import Address, Link, Model, Server, Vip
from poise.servers.tables import Write
from tests.bpf.balancer import Balancer
from tests.bpf.network import DIRECT, DIRECT6
from tests.bpf.services import KEY, MODEL, WEB, hops


class Operator:
    """Changes the model that the balancer runs, as `poise` would."""

    def __init__(self, balancer: Balancer, ifindex: int) -> None:
        self.balancer = balancer
        self._ifindex = ifindex
        self._hopless: Collection[Address] = ()
        self._links: Mapping[int, Link] = {}
        self.change(MODEL)
        balancer.start_afresh()

    def change(self, model: Model) -> None:
        """Bring in the model."""
        for _ in self.changing(model):
            pass

    def changing(self, model: Model) -> Generator[Write, None, None]:
        """Bring in the model, step by step."""
        self.model = model
        known = hops(model, self._ifindex)
        ways = {address: hop for address, hop in known.items() if address not in self._hopless}
        self._steps = self.balancer.filling(model, ways, KEY, frozenset({DIRECT, DIRECT6}), self._links)
        return self._steps

    def finish(self) -> None:
        """Take the steps that are left."""
        self._steps.close()

    def web(self) -> Vip:
        """The VIP of these tests, as it is now."""
        return self.model.vips[WEB.index]

    def drain(self, server: Server) -> None:
        """Let a server have no new connections."""
        self.change(decide.drain(self.model, self.web(), server.name, 0))

    def cut(self, server: Server) -> None:
        """Reset a server's connections."""
        self.change(decide.remove(self.model, self.web(), server.name, 0, cut=True))

    def add(self, server: Server) -> None:
        """Let a server have new connections again."""
        wanted = WantedServer(server.name, server.address, server.port)
        self.change(decide.add(self.model, self.web(), wanted, 0, 0, declared=False)[0])

    def serve(self, vip: Vip, *servers: Server) -> None:
        """Let a VIP have these servers and no others."""
        self.change(decide.replace_vip(self.model, replace(vip, servers=servers)))

    def lose(self, *servers: Server) -> None:
        """Let there be no way to these servers."""
        self._hopless = {server.address for server in servers}
        self.change(self.model)

    def link(self, links: Mapping[int, Link]) -> None:
        """Let interfaces of the routing table have tags."""
        self._links = links
        self.change(self.model)
