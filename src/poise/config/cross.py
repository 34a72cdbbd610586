# SPDX-License-Identifier: Apache-2.0
"""Mistakes that only show when several values of poise.yaml are seen together.

They are looked for in the plain data, so that one bad port elsewhere does not hide them: a value that cannot
be understood is passed over here, as it is reported on its own.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import chain
from typing import NamedTuple

from poise.config import protocols
from poise.config.addresses import parse_address, parse_prefix
from poise.config.fields import parse_port
from poise.config.model import (
    MAXIMUM_PREFIXES,
    MAXIMUM_QUIC_IDS,
    MAXIMUM_SERVERS,
    MAXIMUM_TAGS,
)
from poise.config.yaml_lines import Document, Finding, Location, show
from poise.endpoints import write_end


class _Endpoint(NamedTuple):
    """The address and port of a VIP or server, as far as they could be read."""

    location: Location
    address: IPv4Address | IPv6Address | None
    port: int | None
    transport: object  # tcp or udp
    name: object

    @property
    def key(self) -> tuple[object, ...] | None:
        """What no two of a kind may share; None if unknown."""
        return (
            None if self.address is None or self.port is None else (self.address, self.port, self.transport)
        )

    def at(self, key: str) -> Location:
        """Where the value of a key is."""
        return (*self.location, key)

    def __str__(self) -> str:
        return write_end(self.address, self.port) if self.address and self.port else "?"


def too_long(document: Document) -> Iterator[Finding]:
    """Lists with more items than poise can hold; what is too much is cut off the data."""
    yield from _cut(_list(document.data, "direct"), ("direct",), MAXIMUM_PREFIXES, "prefixes")
    for index, interface in enumerate(_list(document.data, "interfaces")):
        yield from _cut(
            _list(interface, "vlans"), ("interfaces", index, "vlans"), MAXIMUM_TAGS, "VLAN tags of a frame"
        )
    vips = _list(document.data, "vips")
    yield from _cut(vips, ("vips",), 512, "VIPs")
    for index, vip in enumerate(vips):
        servers = _list(vip, "servers")
        yield from _cut(servers, ("vips", index, "servers"), MAXIMUM_SERVERS, "servers in a VIP")
        ids = _list(vip, "quic_ids")
        yield from _cut(ids, ("vips", index, "quic_ids"), MAXIMUM_QUIC_IDS, "kinds of connection ids")


def contradictions(document: Document) -> Iterator[Finding]:
    """Values that do not go together, each reported where the later of them stands."""
    vips: list[_Endpoint] = []
    servers: list[list[_Endpoint]] = []  # of each VIP
    for index, vip in enumerate(_list(document.data, "vips")):
        location = ("vips", index)
        vips.append(_endpoint(vip, location, vip))
        servers.append(
            [
                _endpoint(server, (*location, "servers", number), vip)
                for number, server in enumerate(_list(vip, "servers"))
            ]
        )
    all_servers = list(chain.from_iterable(servers))
    yield from _repeated_interfaces(document)
    yield from _repeated_vips(document, vips)
    yield from _repeated_names(document, vips, "VIP")
    yield from _vips_in_direct(document, vips)
    yield from _repeated_servers(document, all_servers)
    for index, (vip, servers_of_vip) in enumerate(zip(vips, servers, strict=True)):
        yield from _repeated_names(document, servers_of_vip, "server")
        yield from _other_families(document, vip, servers_of_vip)
        yield from protocols.contradictions(document, index)
    yield from _servers_that_are_vips(document, vips, all_servers)


def _cut(items: list[object], location: Location, limit: int, what: str) -> Iterator[Finding]:
    if len(items) > limit:
        yield Finding((*location, limit), f"{len(items)} {what} are too many: write at most {limit}")
        del items[limit:]


def _repeated_interfaces(document: Document) -> Iterator[Finding]:
    seen: dict[str, Location] = {}
    for index, interface in enumerate(_list(document.data, "interfaces")):
        location = ("interfaces", index)
        name = interface.get("name") if isinstance(interface, dict) else interface
        if isinstance(name, str) and (first := seen.setdefault(name, location)) != location:
            mistake = f"interface {show(name)} is already on line {document.line(first)}"
            yield Finding(location, f"{mistake}: keep one of the two")


def _repeated_vips(document: Document, vips: Iterable[_Endpoint]) -> Iterator[Finding]:
    for vip, first in _repeated(vips):
        mistake = f"VIP {vip} is already on line {document.line(first.at('address'))}"
        yield Finding(vip.at("address"), f"{mistake}: put all its servers there")


def _repeated_servers(document: Document, servers: Iterable[_Endpoint]) -> Iterator[Finding]:
    for server, first in _repeated(servers):
        mistake = f"server {server} is already on line {document.line(first.at('address'))}"
        if server.location[:2] == first.location[:2]:
            mistake += ": keep one of the two"
        else:
            mistake += " for another VIP, which its replies could not tell apart: use a port for each VIP"
        yield Finding(server.at("address"), mistake)


def _repeated(endpoints: Iterable[_Endpoint]) -> Iterator[tuple[_Endpoint, _Endpoint]]:
    """Each endpoint that was there before, and the first like it."""
    seen: dict[tuple[object, ...], _Endpoint] = {}
    for endpoint in endpoints:
        if endpoint.key is not None:
            first = seen.setdefault(endpoint.key, endpoint)
            if first is not endpoint:
                yield endpoint, first


def _repeated_names(document: Document, endpoints: Iterable[_Endpoint], what: str) -> Iterator[Finding]:
    """Names that were there before; a name that is not written is ADDRESS:PORT."""
    seen: dict[str, _Endpoint] = {}
    for endpoint in endpoints:
        name = str(endpoint) if endpoint.name is None and endpoint.key else endpoint.name
        if not isinstance(name, str):
            continue
        first = seen.setdefault(name, endpoint)
        same_endpoint = endpoint.name is None and endpoint.key == first.key
        if first is not endpoint and not same_endpoint:
            mistake = (
                f"name {show(name)} is already that of the {what} on line {document.line(first.at('name'))}"
            )
            yield Finding(endpoint.at("name"), f"{mistake}: choose another")


def _other_families(document: Document, vip: _Endpoint, servers: Iterable[_Endpoint]) -> Iterator[Finding]:
    for server in servers:
        if vip.address and server.address and vip.address.version != server.address.version:
            mistake = f"server {server.address} is IPv{server.address.version}, but its VIP on line"
            line = document.line(vip.at("address"))
            version = vip.address.version
            yield Finding(
                server.at("address"),
                f"{mistake} {line} is IPv{version}: write the server's IPv{version} address",
            )


def _vips_in_direct(document: Document, vips: Iterable[_Endpoint]) -> Iterator[Finding]:
    prefixes: list[tuple[int, IPv4Network | IPv6Network]] = []
    for index, written in enumerate(_list(document.data, "direct")):
        try:
            prefixes.append((document.line(("direct", index)), parse_prefix(written)))
        except ValueError:
            continue
    for vip in vips:
        for line, prefix in prefixes:
            if vip.address is not None and vip.address in prefix:
                mistake = f"VIP {vip.address} is in the direct prefix {prefix} of line {line}"
                yield Finding(vip.at("address"), f"{mistake}, which poise leaves alone: narrow the prefix")


def _servers_that_are_vips(
    document: Document, vips: Iterable[_Endpoint], servers: Iterable[_Endpoint]
) -> Iterator[Finding]:
    taken = {vip.key: vip for vip in vips}
    for server in servers:
        if server.key is not None and (vip := taken.get(server.key)):
            mistake = f"server {server} is the VIP of line {document.line(vip.at('address'))}"
            yield Finding(server.at("address"), f"{mistake}: write the server's own address and port")


def _endpoint(written: object, location: Location, vip: object) -> _Endpoint:
    values = written if isinstance(written, dict) else {}
    try:
        address = parse_address(values.get("address"))
    except ValueError:
        address = None
    try:
        port = parse_port(values.get("port"))
    except ValueError:
        port = None
    protocol = vip.get("protocol", "tcp") if isinstance(vip, dict) else None
    transport = "udp" if protocol == "quic" else protocol
    return _Endpoint(location, address, port, transport, values.get("name"))


def _list(mapping: object, key: str) -> list[object]:
    """The list under a key of plain data, empty if there is none."""
    items = mapping.get(key) if isinstance(mapping, dict) else None
    return items if isinstance(items, list) else []
