# SPDX-License-Identifier: Apache-2.0
"""The standard network of the servers level: clients, a balancer as the router between, nginx servers.

    client-1  10.1.0.11 --+                                          +-- web1  10.2.0.11
    client-2  10.1.0.12 --+-- bridge -- (clients) balancer (servers) -- bridge --+-- web2  10.2.0.12
                                     10.1.0.1          10.2.0.1      +-- ...

With one arm, clients, servers and the balancer's only interface `lan` share a bridge, and the balancer has
both addresses. The bridges live in a namespace of their own, so that the balancer's interfaces are plain
veths. While no poise runs, the balancer namespace forwards between clients and servers as any Linux router.

With IPv6, 10.1.0.11 is 2001:db8:1::b, and so on. The nets of the clients and of the servers can be VLANs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from poise.lab import relay
from poise.lab.addresses import Family, IPAddress, IPInterface, adding, interface, subnet
from poise.lab.balancer import Balancer
from poise.lab.namespaces import Lab, LabError, Namespace
from poise.lab.nginx import PORT, Nginx
from poise.lab.tags import MOST, MTU, ROOM, carry_tags, keep_tags_in_frames
from poise.lab.xdp_pass import pass_everything

# Numbers of subnets
CLIENTS, SERVERS, WAN = 1, 2, 3
SMALL_MTU = {CLIENTS: (4, 5), SERVERS: (6, 7)}  # the link with the small MTU, and the net behind it
NOWHERE = 9
ON_LINK_VIP = 100  # in the clients' subnet: they ask for it by ARP or neighbour discovery, and poise answers
CLIENTS_GATEWAY = interface(subnet(4, CLIENTS), 1)
WAN_ROUTER = 2  # its host number in the clients' subnet
SMALL_MTU_ROUTER = 3  # in the clients' or the servers'
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
_IPV6_ROUTER_SETTINGS = {"net.ipv6.conf.all.forwarding": 1}


class ServersLab(Lab):
    """Clients, a balancer and servers; `servers` nginx (at most 200) answer with their names web1, web2, ...

    `vip`: whether the VIP is routed to the balancer or in the clients' own subnet. `arms`: interfaces of the
    balancer. `server_port`: the servers' own, that of the VIP is 80. `files`: name -> bytes, served by every
    server under /files/. `family`: 4 or 6, of all addresses. `client_tags`, `server_tags`: VLAN ids, at most
    two, the outer one first, of the clients' and the servers' nets; with one arm, both are the same.
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
        family: Family = 4,
        client_tags: Sequence[int] = (),
        server_tags: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if arms == 1 and tuple(client_tags) != tuple(server_tags):
            raise LabError("with one arm, clients and servers share a net, and so their tags")
        self.family: Family = family
        self.clients_gateway = interface(subnet(family, CLIENTS), 1)
        self.servers_gateway = interface(subnet(family, SERVERS), 1)
        self.vip: IPAddress = (
            subnet(family, NOWHERE)[1] if vip == "routed" else self.clients_gateway.network[ON_LINK_VIP]
        )
        self.port = PORT
        self.interfaces = TWO_ARMS if arms == 2 else ONE_ARM
        self.clients: list[Namespace] = []
        self.servers: list[Nginx] = []
        self.small_mtu_routers: tuple[Namespace, ...] = ()
        self._sizes = (clients, servers)
        self._server_port = server_port
        self._files = dict(files or {})
        self._balancers = 0
        self._cables: dict[str, list[tuple[Namespace, str, str]]] = {arm: [] for arm in self.interfaces}
        self._tags = {"clients": tuple(client_tags), "servers": tuple(server_tags), "lan": tuple(client_tags)}

    def build(self) -> None:
        """Make the switch, the balancer's namespace, the clients and the servers."""
        self.switch = self.namespace("switch")
        self.router = self._machine("balancer")
        self._build_router()
        clients, servers = self._sizes
        for number in range(1, clients + 1):
            self.clients.append(self.add_host(f"client-{number}", self.clients_gateway, FIRST_HOST + number))
        for number in range(1, servers + 1):
            name, host = f"web{number}", FIRST_HOST + number
            namespace = self.add_host(name, self.servers_gateway, host)
            self._start_server(namespace, name, self.servers_gateway.network[host])

    def server(self, name: str) -> Nginx:
        """The server of this name."""
        return next(server for server in self.servers if server.name == name)

    def client_address(self, number: int = 1) -> IPAddress:
        """The address of the client whose role is `client-NUMBER`."""
        return self.clients_gateway.network[FIRST_HOST + number]

    def add_host(
        self, role: str, gateway: IPInterface, number: int, *, tags: Sequence[int] | None = None
    ) -> Namespace:
        """Add a namespace on the clients' or the servers' side: host `number` of the gateway's subnet.

        `tags`: of its frames, None for those of that side's net.
        """
        host = self._machine(role)
        side = self.interfaces[0] if gateway == self.clients_gateway else self.interfaces[-1]
        carried = self._tags[side] if tags is None else tags
        self._plug(host, "eth0", role, side, carried)
        self._address(host, "eth0", interface(gateway.network, number), tags=carried, via=gateway.ip)
        host.sysctl(_HOST_SETTINGS)
        return host

    def add_far_client(self, delay: float, *, limit: int | None = None) -> Namespace:
        """Add a client (10.3.0.2) behind a router and a wire with a one-way `delay` in seconds.

        `limit`: octets under way in each direction, None for any number. One a lab.
        """
        far = self._machine("far")
        router = self.add_host("wan", self.clients_gateway, WAN_ROUTER)
        self._forward(router)
        wan = subnet(self.family, WAN)
        ends = [interface(wan, number) for number in (1, 2)]
        relay.join((router, ends[0]), (far, ends[1]), delay=delay, limit=limit)
        far.ip(f"route add default via {ends[0].ip} congctl cubic")
        far.sysctl(_HOST_SETTINGS)
        self.router.ip(f"route add {wan} via {self.clients_gateway.network[WAN_ROUTER]}")
        return far

    def add_small_mtu_client(self, mtu: int = 1280) -> Namespace:
        """Add a client (10.5.0.2) behind two routers, between which the link has a small MTU in bytes.

        Its own link has 1500, so that only what these routers say makes it, and whom it talks to, send less.
        One a lab. `small_mtu_routers` are then the one near the balancer and the far one.
        """
        return self._behind_small_mtu("client", CLIENTS, mtu)

    def add_small_mtu_server(self, mtu: int = 1280) -> Nginx:
        """Add a server `small-server` (10.7.0.2) behind two such routers as `add_small_mtu_client` makes."""
        namespace = self._behind_small_mtu("server", SERVERS, mtu)
        address = subnet(self.family, SMALL_MTU[SERVERS][1])[2]
        return self._start_server(namespace, "small-server", address)

    def set_server_mtu(self, name: str, mtu: int) -> None:
        """Give both ends of a server's link an MTU in bytes, and the balancer a route that tells it.

        The servers' subnet keeps its own, of which only such a route makes an exception.
        """
        server = self.server(name)
        server.namespace.ip(f"link set eth0 mtu {mtu}")
        self.switch.ip(f"link set {name} mtu {mtu}")
        self.router.ip(f"route replace {server.address} dev {self.interfaces[-1]} mtu {mtu}")

    def set_servers_mtu(self, mtu: int) -> None:
        """Give all links on the servers' side an MTU in bytes, the balancer's interface included."""
        arm = self.interfaces[-1]
        if self.interfaces == ONE_ARM:
            raise LabError("with one arm, the servers' side is the clients' too")
        for host, device, port in self._cables[arm]:
            host.ip(f"link set {device} mtu {mtu}")
            self.switch.ip(f"link set {port} mtu {mtu}")

    def vip_settings(
        self,
        servers: Sequence[Nginx] | None = None,
        *,
        mode: str = "stateless",
        policy: str | None = None,
        port: int | None = None,
        server_port: int | None = None,
    ) -> dict[str, object]:
        """A VIP for the list `vips` of poise.yaml, with the lab's address; `port`: else the lab's.

        `servers`: else all. `server_port`: of another program on all of them, else nginx's.
        """
        return {
            "address": str(self.vip),
            "port": port or self.port,
            "mode": mode,
            **({} if policy is None else {"policy": policy}),
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
        self,
        servers: Sequence[Nginx] | None = None,
        *,
        mode: str = "stateless",
        policy: str | None = None,
        **settings: object,
    ) -> Balancer:
        """Start `poise up` in the balancer namespace and wait until it answers.

        `servers`: those it begins with, else all. `settings` are further keys of poise.yaml, or such as
        replace the lab's own. Raises LabError with its log if it does not start.
        """
        self._balancers += 1
        directory = self.directory / f"poise-{self._balancers}"
        directory.mkdir()
        configuration: dict[str, object] = {
            "interfaces": [
                {"name": name, "vlans": list(self._tags[name])} if self._tags[name] else name
                for name in self.interfaces
            ],
            "vips": [self.vip_settings(servers, mode=mode, policy=policy)],
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

    def _machine(self, role: str) -> Namespace:
        namespace = self.namespace(role)
        if self.family == 6:
            namespace.enable_ipv6()
        return namespace

    def _forward(self, namespace: Namespace) -> None:
        namespace.sysctl(_ROUTER_SETTINGS | (_IPV6_ROUTER_SETTINGS if self.family == 6 else {}))

    def _build_router(self) -> None:
        self._forward(self.router)
        for arm in self.interfaces:
            bridge, port = _bridge(arm), f"b-{arm}"
            self.switch.ip(
                f"link add name {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                f"link set {bridge} up",
            )
            self._plug(self.router, arm, port, arm, self._tags[arm])
            if self.interfaces == ONE_ARM:
                pass_everything(self.switch, port)
        for arm, gateway in (
            (self.interfaces[0], self.clients_gateway),
            (self.interfaces[-1], self.servers_gateway),
        ):
            self._address(self.router, arm, gateway, tags=self._tags[arm])

    def _plug(self, host: Namespace, device: str, port: str, side: str, tags: Sequence[int]) -> None:
        """Join a device of a host to a port of the switch, on one of its sides."""
        self.link(host, device, self.switch, port)
        self._cables[side].append((host, device, port))
        self.switch.ip(f"link set {port} master {_bridge(side)}")
        for namespace, end in ((host, device), (self.switch, port)):
            if self._tags[side] or tags:
                keep_tags_in_frames(namespace, end)
            if len(tags) == MOST:
                namespace.ip(f"link set {end} mtu {MTU + ROOM}")
        if tags:
            carry_tags(host, device, tags)

    def _address(
        self,
        host: Namespace,
        device: str,
        address: IPInterface,
        *,
        tags: Sequence[int],
        via: IPAddress | None = None,
    ) -> None:
        """Give a device its address, and the host its default route, if there is one."""
        mtu = ""
        if len(tags) == MOST:
            # The room for tags is none for longer packets.
            mtu = f"mtu {MTU}"
            host.ip(
                f"{adding(address, device)} noprefixroute",
                f"route add {address.network} dev {device} {mtu}",
            )
        else:
            host.ip(adding(address, device))
        if via is not None:
            # Linux's default, whatever this machine's is: only the first namespace may choose per sysctl.
            host.ip(f"route add default via {via} congctl cubic {mtu}")

    def _behind_small_mtu(self, kind: str, side: int, mtu: int) -> Namespace:
        gateway = self.clients_gateway if side == CLIENTS else self.servers_gateway
        small, behind = (subnet(self.family, number) for number in SMALL_MTU[side])
        near = self.add_host(f"{kind}-near", gateway, SMALL_MTU_ROUTER)
        far, host = self._machine(f"{kind}-far"), self._machine(f"small-{kind}")
        self.small_mtu_routers = (near, far)
        for router in self.small_mtu_routers:
            self._forward(router)
        self.link(near, "small", far, "small")
        self.link(far, "eth0", host, "eth0")
        for router, number in ((near, 1), (far, 2)):
            router.ip(f"link set small mtu {mtu}", adding(interface(small, number), "small"))
        far.ip(adding(interface(behind, 1), "eth0"), f"route add default via {small[1]}")
        near.ip(f"route add {behind} via {small[2]}")
        host.ip(
            adding(interface(behind, 2), "eth0"),
            f"route add default via {behind[1]} congctl cubic",
        )
        host.sysctl(_HOST_SETTINGS)
        self.router.ip(f"route add {behind} via {gateway.network[SMALL_MTU_ROUTER]}")
        return host

    def _start_server(self, namespace: Namespace, name: str, address: IPAddress) -> Nginx:
        nginx = Nginx(namespace, name, address, self.directory / name, self._server_port)
        nginx.start()
        for file, size in self._files.items():
            nginx.put_file(file, size)
        self.servers.append(nginx)
        return nginx


def _bridge(arm: str) -> str:
    return f"{arm}0"
