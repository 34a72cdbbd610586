# SPDX-License-Identifier: Apache-2.0
"""Mistakes that only show when several values of a configuration are seen together, also across its files.

Every check is quick where there is nothing to find: lines are looked up, and servers compared one by one,
only for a mistake.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple, TypeAlias

from poise.config.addresses import parse_prefix
from poise.config.model import DEFAULT_VIP_LIMIT
from poise.config.parts import End, Part, PoolPart, ServerList, Source, VipPart, list_in
from poise.config.wording import closest
from poise.config.yaml_lines import Finding, Location, show

Told: TypeAlias = tuple[Source, Finding]

_MOST_VIPS: Final = 512


class Census:
    """How many VIPs each server takes part in, kept up to date with what changes.

    A server is its address, its port and the transport: that is how poise tells whose a packet is.
    """

    def __init__(self) -> None:
        self.shared = 0
        """How many servers take part in more than one VIP."""
        self._lists: Counter[tuple[object, ServerList]] = Counter()
        self._vips: dict[object, dict[bytes, int]] = {}

    def count(self, lists: Iterable[tuple[object, ServerList]]) -> None:
        """Count these lists of servers, each with its transport, and no others."""
        wanted = Counter(lists)
        for (transport, servers), times in (self._lists - wanted).items():
            self._add(transport, servers, -times)
        for (transport, servers), times in (wanted - self._lists).items():
            self._add(transport, servers, times)
        self._lists = wanted

    def _add(self, transport: object, servers: ServerList, times: int) -> None:
        vips = self._vips.setdefault(transport, {})
        for key in set(servers.keys):
            before = vips.get(key, 0)
            after = before + times
            if after:
                vips[key] = after
            else:
                del vips[key]
            self.shared += (after > 1) - (before > 1)

    def has(self, transport: object, key: bytes) -> bool:
        """Whether a server is in any VIP."""
        return key in self._vips.get(transport, ())


class _Place(NamedTuple):
    """A server of a VIP: who has it, where it is written, and what it is."""

    vip: VipPart
    part: Part
    number: int
    end: End

    def at(self, key: str) -> Location:
        return self.part.at("servers", self.number, key)


def contradictions(sources: Sequence[Source], census: Census) -> Iterator[Told]:
    """Values that do not go together, each told where the later of them stands."""
    vips = [vip for source in sources for vip in source.vips]
    pools = [pool for source in sources for pool in source.pools]
    by_name = {
        pool.end.written_name: pool for pool in reversed(pools) if isinstance(pool.end.written_name, str)
    }
    census.count((vip.transport, _servers(vip, by_name)) for vip in vips)
    yield from _number_of_vips(sources[0], vips)
    yield from _repeated_interfaces(sources[0])
    yield from _repeated_vips(vips)
    yield from _repeated_names(vips, "VIP")
    yield from _repeated_names(pools, "pool")
    yield from _unknown_pools(vips, by_name)
    yield from _vips_in_direct(sources[0], vips)
    for part in (*pools, *vips):
        if part.servers.has_repeats:
            yield from _repeats_within(part)
    for vip in vips:
        yield from _other_families(vip, by_name)
    if census.shared:
        yield from _shared_servers(vips, by_name)
    for vip in vips:
        if vip.key is not None and census.has(vip.transport, vip.key):
            yield from _servers_that_are_vips(vip, vips, by_name)


def _servers(vip: VipPart, pools: dict[str, PoolPart]) -> ServerList:
    pool = pools.get(vip.pool) if isinstance(vip.pool, str) else None
    return vip.servers if pool is None else pool.servers


def _on(there: Source, location: Location, here: Source) -> str:
    """Where something else is, as seen from a file."""
    line = there.line(location)
    return f"on line {line}" if there is here else f"in {there.name}:{line}"


def _number_of_vips(whole: Source, vips: Sequence[VipPart]) -> Iterator[Told]:
    data = whole.document.data
    if not isinstance(data, dict):
        return
    limit = data.get("vip_limit", DEFAULT_VIP_LIMIT)
    if isinstance(limit, int) and 0 < limit < len(vips):
        wanted = f"write at most {_MOST_VIPS}"
        if len(vips) <= _MOST_VIPS:
            wanted = f"write `vip_limit: {1 << (len(vips) - 1).bit_length()}`"
        mistake = f"{len(vips)} VIPs are too many for a vip_limit of {limit}: {wanted}"
        yield vips[limit].source, Finding(vips[limit].location, mistake)


def _repeated_interfaces(whole: Source) -> Iterator[Told]:
    seen: dict[str, Location] = {}
    for index, interface in enumerate(list_in(whole.document.data, "interfaces")):
        location = ("interfaces", index)
        name = interface.get("name") if isinstance(interface, dict) else interface
        if isinstance(name, str) and (first := seen.setdefault(name, location)) != location:
            mistake = f"interface {show(name)} is already on line {whole.line(first)}"
            yield whole, Finding(location, f"{mistake}: keep one of the two")


def _repeated_vips(vips: Iterable[VipPart]) -> Iterator[Told]:
    seen: dict[tuple[object, bytes], VipPart] = {}
    for vip in vips:
        if vip.key is None or vip.transport is None:
            continue
        first = seen.setdefault((vip.transport, vip.key), vip)
        if first is not vip:
            mistake = f"VIP {vip.end} is already {_on(first.source, first.at('address'), vip.source)}"
            yield vip.source, Finding(vip.at("address"), f"{mistake}: put all its servers there")


def _repeated_names(parts: Iterable[Part], what: str) -> Iterator[Told]:
    """Names that were there before; the name of a VIP is ADDRESS:PORT unless it is written."""
    seen: dict[str, Part] = {}
    for part in parts:
        name = part.end.name
        if not isinstance(name, str):
            continue
        first = seen.setdefault(name, part)
        if first is not part and not _is_same_end(first.end, part.end):
            where = _on(first.source, first.at("name"), part.source)
            mistake = f"name {show(name)} is already that of the {what} {where}"
            yield part.source, Finding(part.at("name"), f"{mistake}: choose another")


def _is_same_end(first: End, second: End) -> bool:
    """Whether two have the same name only because they have the same address and port."""
    return second.written_name is None and second.key == first.key


def _unknown_pools(vips: Iterable[VipPart], pools: dict[str, PoolPart]) -> Iterator[Told]:
    for vip in vips:
        if isinstance(vip.pool, str) and vip.pool not in pools:
            guess = closest(vip.pool, pools)
            wanted = f'did you mean "{guess}"?' if guess else "write it under `pools`"
            yield vip.source, Finding(vip.at("pool"), f"there is no pool {show(vip.pool)}: {wanted}")


def _repeats_within(part: Part) -> Iterator[Told]:
    """Servers, and names of servers, that are in a list before."""
    seen: dict[bytes, int] = {}
    names: dict[str, int] = {}
    ends = part.servers.ends
    for index, end in enumerate(ends):
        if end.key is not None and (first := seen.setdefault(end.key, index)) != index:
            line = part.source.line(part.at("servers", first, "address"))
            mistake = f"server {end} is already on line {line}: keep one of the two"
            yield part.source, Finding(part.at("servers", index, "address"), mistake)
        name = end.name
        if not isinstance(name, str):
            continue
        first = names.setdefault(name, index)
        if first != index and not _is_same_end(ends[first], end):
            line = part.source.line(part.at("servers", first, "name"))
            mistake = f"name {show(name)} is already that of the server on line {line}: choose another"
            yield part.source, Finding(part.at("servers", index, "name"), mistake)


def _other_families(vip: VipPart, pools: dict[str, PoolPart]) -> Iterator[Told]:
    address = vip.end.address
    servers = _servers(vip, pools)
    if address is None or not servers.versions - {address.version}:
        return
    version = address.version
    if servers is not vip.servers:
        pool = pools[str(vip.pool)]
        index = next(
            i for i, end in enumerate(servers.ends) if end.address and end.address.version != version
        )
        other = _on(pool.source, pool.at("servers", index, "address"), vip.source)
        mistake = (
            f"pool {show(vip.pool)} has an IPv{10 - version} server {other}, but the VIP is IPv{version}"
        )
        yield vip.source, Finding(vip.at("pool"), f"{mistake}: name a pool with IPv{version} servers only")
        return
    line = vip.source.line(vip.at("address"))
    for index, end in enumerate(servers.ends):
        if end.address and end.address.version != version:
            mistake = f"server {end.address} is IPv{end.address.version}, but its VIP on line {line} is"
            wanted = f"write the server's IPv{version} address"
            yield (
                vip.source,
                Finding(vip.at("servers", index, "address"), f"{mistake} IPv{version}: {wanted}"),
            )


def _places(vip: VipPart, pools: dict[str, PoolPart]) -> Iterator[_Place]:
    servers = _servers(vip, pools)
    part: Part = vip if servers is vip.servers else pools[str(vip.pool)]
    for index, end in enumerate(servers.ends):
        yield _Place(vip, part, index, end)


def _shared_servers(vips: Iterable[VipPart], pools: dict[str, PoolPart]) -> Iterator[Told]:
    """Servers that another VIP has, too; of a pool, only the first of them."""
    seen: dict[tuple[object, bytes], _Place] = {}
    for vip in vips:
        is_told = False
        for place in _places(vip, pools):
            key = place.end.key
            if key is None or vip.transport is None:
                continue
            first = seen.setdefault((vip.transport, key), place)
            if first.vip is vip or is_told:
                continue
            mistake = (
                f"server {place.end} is already {_on(first.part.source, first.at('address'), vip.source)}"
            )
            location = place.at("address")
            if place.part is not vip:
                is_told = True
                mistake = f"pool {show(vip.pool)}: {mistake}"
                location = vip.at("pool")
                if first.part is place.part:
                    where = _on(first.vip.source, first.vip.at("pool"), vip.source)
                    mistake = (
                        f"pool {show(vip.pool)} is already that of the VIP {where}: its servers are there"
                    )
            mistake += " for another VIP, which its replies could not tell apart: use a port for each VIP"
            yield vip.source, Finding(location, mistake)


def _servers_that_are_vips(
    taken: VipPart, vips: Iterable[VipPart], pools: dict[str, PoolPart]
) -> Iterator[Told]:
    for vip in vips:
        if vip.transport != taken.transport or taken.key not in _servers(vip, pools).keys:
            continue
        for place in _places(vip, pools):
            if place.end.key != taken.key:
                continue
            where = _on(taken.source, taken.at("address"), place.part.source)
            where = where.replace("on line", "of line")
            mistake = f"server {place.end} is the VIP {where}: write the server's own address and port"
            yield place.part.source, Finding(place.at("address"), mistake)


def _vips_in_direct(whole: Source, vips: Iterable[VipPart]) -> Iterator[Told]:
    prefixes: dict[IPv4Network | IPv6Network, int] = {}
    for index, written in enumerate(list_in(whole.document.data, "direct")):
        try:
            prefixes.setdefault(parse_prefix(written), index)
        except ValueError:
            continue
    lengths = {(prefix.version, prefix.prefixlen) for prefix in prefixes}
    for vip in vips:
        address = vip.end.address
        if address is None:
            continue
        for version, length in lengths:
            if version != address.version:
                continue
            network = IPv4Network if version == 4 else IPv6Network
            prefix = network((address.packed, length), strict=False)
            if prefix in prefixes:
                where = _on(whole, ("direct", prefixes[prefix]), vip.source).replace("on line", "of line")
                mistake = f"VIP {address} is in the direct prefix {prefix} {where}, which poise leaves alone"
                yield vip.source, Finding(vip.at("address"), f"{mistake}: narrow the prefix")
