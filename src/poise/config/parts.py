# SPDX-License-Identifier: Apache-2.0
"""The parts of a configuration file, each checked on its own: what one holds against another is in `cross`.

What could not be understood as a whole is still read as far as possible, so that one bad port does not hide
other mistakes: a value that cannot be understood is passed over, as it is reported on its own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, NamedTuple

from poise.config.addresses import parse_address
from poise.config.base import Written
from poise.config.fields import parse_port
from poise.config.model import PoolConfig, ServerConfig, VipConfig
from poise.config.yaml_lines import Document, Finding, Location
from poise.endpoints import write_end

_TRANSPORTS: Final = {"tcp": "tcp", "udp": "udp", "quic": "udp"}


class End(NamedTuple):
    """The address, port and name of a VIP or server, as far as they could be read."""

    address: IPv4Address | IPv6Address | None
    port: int | None
    written_name: object

    @property
    def key(self) -> bytes | None:
        """What no two of a kind may share, of one transport; None if unknown."""
        return None if self.address is None or self.port is None else key_of(self.address, self.port)

    @property
    def name(self) -> object:
        """The name, which is ADDRESS:PORT unless it is written."""
        return str(self) if self.written_name is None and self.key else self.written_name

    def __str__(self) -> str:
        return write_end(self.address, self.port) if self.address and self.port else "?"


def key_of(address: IPv4Address | IPv6Address, port: int) -> bytes:
    """Address and port in network order, which hash and compare fast."""
    return address.packed + port.to_bytes(2, "big")


def end_of(written: object) -> End:
    """What can be read of a VIP or server."""
    if isinstance(written, ServerConfig):
        name = None if "name" not in written.model_fields_set else written.name
        return End(written.address, written.port, name)
    values = written if isinstance(written, dict) else {}
    try:
        address = parse_address(values.get("address"))
    except ValueError:
        address = None
    try:
        port = parse_port(values.get("port"))
    except ValueError:
        port = None
    return End(address, port, values.get("name"))


def list_in(mapping: object, key: str) -> list[object]:
    """The list under a key of plain data, empty if there is none."""
    items = mapping.get(key) if isinstance(mapping, dict) else None
    return items if isinstance(items, list) else []


class ServerList:
    """The servers of a VIP or pool: their keys, and whether there is any mistake among them."""

    def __init__(self, written: Sequence[object], models: Sequence[ServerConfig] | None) -> None:
        """models: the same, if all of them could be understood."""
        self._written = written if models is None else models
        if models is None:
            ends = self.ends
            self.keys = [end.key for end in ends if end.key is not None]
            names = [name for end in ends if isinstance(name := end.name, str)]
            self.versions = {end.address.version for end in ends if end.address is not None}
        else:
            self.keys = [key_of(server.address, server.port) for server in models]
            names = [server.name for server in models]
            self.versions = {4 if len(key) == 6 else 6 for key in self.keys}
        self.has_repeats = len(set(self.keys)) < len(self.keys) or len(set(names)) < len(names)

    @cached_property
    def ends(self) -> list[End]:
        """The servers one by one, in their order; only mistakes need them."""
        return [end_of(written) for written in self._written]


@dataclass(eq=False)
class Source:
    """A file: `name` is what messages call it.

    include: the directory that it includes. secrets: the files with secrets that it points to.
    """

    name: str
    content: bytes
    document: Document
    settings: Written | None = None
    include: Path | None = None
    findings: list[Finding] = field(default_factory=list)
    secrets: list[tuple[Location, str]] = field(default_factory=list)
    vips: list["VipPart"] = field(default_factory=list)
    pools: list["PoolPart"] = field(default_factory=list)

    def line(self, location: Location, *, at_key: bool = False) -> int:
        """The line of a value, or of its key."""
        return self.document.line(location, at_key=at_key)

    @cached_property
    def digest(self) -> bytes:
        """Of the content."""
        return hashlib.blake2b(self.content, digest_size=16).digest()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong with the file on its own."""
        return not self.findings and not self.document.faults


class Part:
    """An item of `vips` or `pools`: where it is, and what of it can be read."""

    def __init__(
        self, source: Source, location: Location, written: object, model: VipConfig | PoolConfig | None
    ) -> None:
        """model: None if it could not be understood."""
        self.source = source
        self.location = location
        self.end = end_of(written)
        self.servers = ServerList(list_in(written, "servers"), None if model is None else model.servers)

    def at(self, *keys: str | int) -> Location:
        """Where something in it is."""
        return (*self.location, *keys)


class PoolPart(Part):
    """An item of `pools`."""

    def __init__(self, source: Source, location: Location, written: object, model: PoolConfig | None) -> None:
        """model: None if it could not be understood."""
        super().__init__(source, location, written, model)
        self.model = model


class VipPart(Part):
    """An item of `vips`."""

    def __init__(self, source: Source, location: Location, written: object, model: VipConfig | None) -> None:
        """model: None if it could not be understood."""
        super().__init__(source, location, written, model)
        self.model = model
        self.key = self.end.key
        self._resolved: VipConfig | None = None
        values = written if isinstance(written, dict) else {}
        self.pool: object = values.get("pool")
        protocol = values.get("protocol", "tcp")
        self.transport = _TRANSPORTS.get(protocol) if isinstance(protocol, str) else None

    def resolved(self, pool: PoolConfig | None) -> VipConfig | None:
        """The model with the servers of its pool; the same object as before unless something changed."""
        if self.model is None or pool is None:
            return self.model
        if self._resolved is None or self._resolved.servers is not pool.servers:
            self._resolved = self.model.model_copy(update={"servers": pool.servers})
        return self._resolved
