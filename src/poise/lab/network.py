# SPDX-License-Identifier: Apache-2.0
"""The standard network of the servers level: clients, a balancer as the router between, nginx servers.

    client-1  10.1.0.11 --+                                          +-- web1  10.2.0.11
    client-2  10.1.0.12 --+-- bridge -- (clients) balancer (servers) -- bridge --+-- web2  10.2.0.12
                                     10.1.0.1          10.2.0.1      +-- ...

With one arm, clients, servers and the balancer's only interface `lan` share a bridge, and the balancer has
both addresses. The bridges live in a namespace of their own, so that the balancer's interfaces are plain
veths. While no poise runs, the balancer namespace forwards between clients and servers as any Linux router.
"""

import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Literal

from poise.lab import relay
from poise.lab.balancer import Balancer
from poise.lab.namespaces import Lab, Namespace
from poise.lab.nginx import PORT, Nginx
from poise.lab.xdp_pass import pass_everything

ROUTED_VIP = IPv4Address("10.9.0.1")  # in nobody's subnet: clients reach it by their default route
ON_LINK_VIP = IPv4Address("10.1.0.100")  # in the clients' subnet: they ask for it by ARP, and poise answers
CLIENTS_GATEWAY = IPv4Interface("10.1.0.1/24")
SERVERS_GATEWAY = IPv4Interface("10.2.0.1/24")
WAN_ROUTER = 2  # its host number in the clients' subnet
WAN = IPv4Network("10.3.0.0/24")
TWO_ARMS = ["clients", "servers"]
ONE_ARM = ["lan"]
FIRST_HOST = 10  # the first client is 10.1.0.11, the first server 10.2.0.11

_HOST_SETTINGS = {
    "net.core.somaxconn": 65535,
    "net.ipv4.tcp_max_syn_backlog": 65535,
    "net.ipv4.ip_local_port_range": "1024 65535",
    # This machine's own limits shall not decide how fast a connection over a long wire gets.
    "net.ipv4.tcp_rmem": "4096 131072 33554432",
    "net.ipv4.tcp_wmem": "4096 16384 33554432",
    # No run shall depend on what an earlier one taught the kernel about a destination.
    "net.ipv4.tcp_no_metrics_save": 1,
}
_ROUTER_SETTINGS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    # With one arm, hosts would be told to talk past the balancer.
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
}


class ServersLab(Lab):
    """Clients, a balancer and servers; `servers` nginx (at most 200) answer with their names web1, web2, ...

    `vip`: whether the VIP is routed to the balancer or in the clients' own subnet. `arms`: interfaces of the
    balancer. `server_port`: the servers' own, that of the VIP is 80. `files`: name -> bytes, served by every
    server under /files/.
    """

    def __init__(
        self,
        servers: int = 3,
        *,
        clients: int = 2,
        vip: Literal["routed", "on-link"] = "routed",
        arms: Literal[1, 2] = 2,
        server_port: int = PORT,
        files: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.vip = ROUTED_VIP if vip == "routed" else ON_LINK_VIP
        self.port = PORT
        self.interfaces = TWO_ARMS if arms == 2 else ONE_ARM
        self.clients: list[Namespace] = []
        self.servers: list[Nginx] = []
        self._sizes = (clients, servers)
        self._server_port = server_port
        self._files = dict(files or {})
        self._balancers = 0

    def build(self) -> None:
        """Make the switch, the balancer's namespace, the clients and the servers."""
        self.switch = self.namespace("switch")
        self.router = self.namespace("balancer")
        self._build_router()
        clients, servers = self._sizes
        for number in range(1, clients + 1):
            self.clients.append(self.add_host(f"client-{number}", CLIENTS_GATEWAY, FIRST_HOST + number))
        for number in range(1, servers + 1):
            self._build_server(f"web{number}", FIRST_HOST + number)

    def server(self, name: str) -> Nginx:
        """The server of this name."""
        return next(server for server in self.servers if server.name == name)

    def client_address(self, number: int = 1) -> IPv4Address:
        """The address of the client whose role is `client-NUMBER`."""
        return CLIENTS_GATEWAY.network[FIRST_HOST + number]

    def add_host(self, role: str, gateway: IPv4Interface, number: int) -> Namespace:
        """Add a namespace on the clients' or the servers' side: host `number` of the gateway's subnet."""
        host = self.namespace(role)
        self.link(host, "eth0", self.switch, role)
        side = self.interfaces[0] if gateway == CLIENTS_GATEWAY else self.interfaces[-1]
        self.switch.ip(f"link set {role} master {_bridge(side)}")
        address = gateway.network[number]
        host.ip(
            f"address add {address}/{gateway.network.prefixlen} dev eth0",
            # Linux's default, whatever this machine's is: only the first namespace may choose per sysctl.
            f"route add default via {gateway.ip} congctl cubic",
        )
        host.sysctl(_HOST_SETTINGS)
        return host

    def add_far_client(self, delay: float, *, limit: int | None = None) -> Namespace:
        """Add a client (10.3.0.2) behind a router and a wire with a one-way `delay` in seconds.

        `limit`: octets under way in each direction, None for any number. One a lab.
        """
        far = self.namespace("far")
        router = self.add_host("wan", CLIENTS_GATEWAY, WAN_ROUTER)
        router.sysctl(_ROUTER_SETTINGS)
        ends = [IPv4Interface((WAN[number], WAN.prefixlen)) for number in (1, 2)]
        relay.join((router, ends[0]), (far, ends[1]), delay=delay, limit=limit)
        far.ip(f"route add default via {ends[0].ip} congctl cubic")
        far.sysctl(_HOST_SETTINGS)
        self.router.ip(f"route add {WAN} via {CLIENTS_GATEWAY.network[WAN_ROUTER]}")
        return far

    def vip_settings(
        self,
        servers: Sequence[Nginx] | None = None,
        *,
        policy: str = "round-robin",
        port: int | None = None,
        server_port: int | None = None,
    ) -> dict[str, object]:
        """A VIP for the list `vips` of poise.yaml, with the lab's address; `port`: else the lab's.

        `servers`: else all. `server_port`: of another program on all of them, else nginx's.
        """
        return {
            "address": str(self.vip),
            "port": port or self.port,
            "policy": policy,
            "servers": [
                {
                    "name": server.name,
                    "address": str(server.address),
                    "port": server_port or server.port,
                }
                for server in (self.servers if servers is None else servers)
            ],
        }

    def start_balancer(
        self, servers: Sequence[Nginx] | None = None, *, policy: str = "round-robin", **settings: object
    ) -> Balancer:
        """Start `poise up` in the balancer namespace and wait until it answers.

        `servers`: those it begins with, else all. `settings` are further keys of poise.yaml, or such as
        replace the lab's own. Raises LabError with its log if it does not start.
        """
        self._balancers += 1
        directory = self.directory / f"poise-{self._balancers}"
        directory.mkdir()
        configuration: dict[str, object] = {
            "interfaces": self.interfaces,
            "vips": [self.vip_settings(servers, policy=policy)],
            "socket": str(directory / "poise.sock"),
            "state_directory": str(directory / "state"),
            "pin_directory": str(self.pins),
        }
        path = directory / "poise.yaml"
        path.write_text(json.dumps(configuration | settings, indent=2))  # JSON is YAML
        balancer = Balancer(self.router, path, directory / "poise.sock", directory / "log")
        # No `poise down`: what that would undo goes with the namespace and the pins.
        self._undo.callback(balancer.stop)
        balancer.start()
        return balancer

    def _build_router(self) -> None:
        self.router.sysctl(_ROUTER_SETTINGS)
        for interface in self.interfaces:
            bridge, port = _bridge(interface), f"b-{interface}"
            self.switch.ip(
                f"link add name {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                f"link set {bridge} up",
            )
            self.link(self.router, interface, self.switch, port)
            self.switch.ip(f"link set {port} master {bridge}")
            if self.interfaces == ONE_ARM:
                pass_everything(self.switch, port)
        self.router.ip(
            f"address add {CLIENTS_GATEWAY} dev {self.interfaces[0]}",
            f"address add {SERVERS_GATEWAY} dev {self.interfaces[-1]}",
        )

    def _build_server(self, name: str, number: int) -> None:
        namespace = self.add_host(name, SERVERS_GATEWAY, number)
        address = SERVERS_GATEWAY.network[number]
        nginx = Nginx(namespace, name, address, self.directory / name, self._server_port)
        nginx.start()
        for file, size in self._files.items():
            nginx.put_file(file, size)
        self.servers.append(nginx)


def _bridge(interface: str) -> str:
    return f"{interface}0"
