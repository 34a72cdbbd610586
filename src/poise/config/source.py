# SPDX-License-Identifier: Apache-2.0
"""Take one file of a configuration apart, and find what is wrong with it on its own."""

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from poise.config import care, files, protocols, secret_files, yaml_lines
from poise.config.base import Written
from poise.config.fields import parse_include
from poise.config.model import (
    MAXIMUM_POOLS,
    MAXIMUM_PREFIXES,
    MAXIMUM_QUIC_IDS,
    MAXIMUM_SERVERS,
    MAXIMUM_TAGS,
    Config,
    Included,
    InterfaceConfig,
    PoolConfig,
    QuicIdsConfig,
    ServerConfig,
    VipConfig,
)
from poise.config.parts import PoolPart, Source, VipPart, list_in
from poise.config.wording import Place, Places, findings
from poise.config.yaml_lines import Document, Finding, Location

_PARTS: Final[Places] = {
    "vips": Place("a VIP", VipConfig),
    "pools": Place("a pool", PoolConfig),
    "servers": Place("a server", ServerConfig),
    "quic_ids": Place("an item of quic_ids", QuicIdsConfig),
    "interfaces": Place("an interface", InterfaceConfig),
    "checks": Place("a check", care.TcpCheckConfig),
    "http": Place("a check of type http", care.HttpCheckConfig),
    "https": Place("a check of type https", care.HttpsCheckConfig),
    "tcp": Place("a check of type tcp", care.TcpCheckConfig),
    "tls": Place("a check of type tls", care.TlsCheckConfig),
    "dns": Place("a check of type dns", care.DnsCheckConfig),
    "script": Place("a check of type script", care.ScriptCheckConfig),
    "passive": Place("passive", care.PassiveConfig),
    "drain": Place("drain", care.DrainConfig),
    "load": Place("load", care.LoadConfig),
}
_WHOLE: Final[Places] = {"": Place("the configuration", Config), **_PARTS}
_INCLUDED: Final[Places] = {
    "": Place("an included file", Included),
    **_PARTS,
    "whole": Place("the configuration", Config),
}
_EMPTY: Final = "the file is empty: write at least `interfaces` and `vips`"
_STAND_IN: Final = VipConfig(address=IPv4Address("192.0.2.1"), port=1)

_Model = TypeVar("_Model", bound=Written)


def take_apart(path: Path, content: bytes, *, is_included: bool = False) -> Source:
    """The parts of a file, and what is wrong with it; ConfigError if it is no text, or empty.

    A file in the `include` directory may be empty, too.
    """
    document = yaml_lines.read(files.text_of(path, content))
    source = Source(str(path), content, document)
    if document.data is None:
        if not is_included and not document.faults:
            raise files.unusable(path, _EMPTY)
        return source
    places = _INCLUDED if is_included else _WHOLE
    source.findings += _too_long(document)
    for index, written in enumerate(list_in(document.data, "pools")):
        location: Location = ("pools", index)
        pool = _understand(PoolConfig, written, location, places, source)
        source.pools.append(PoolPart(source, location, written, pool))
    for index, written in enumerate(list_in(document.data, "vips")):
        location = ("vips", index)
        vip = _understand(VipConfig, written, location, places, source)
        source.vips.append(VipPart(source, location, written, vip))
        source.findings += protocols.contradictions(document, index)
    rest = _rest(document.data, is_included=is_included)
    if not is_included:
        source.include = _include(document.data)
    source.secrets += secret_files.secrets_in(document.data)
    source.settings = _understand(Included if is_included else Config, rest, (), places, source)
    if source.is_clean:
        document.data = rest  # the models say the rest, and 256,000 servers take much room
    return source


def _understand(
    model: type[_Model], written: object, location: Location, places: Places, source: Source
) -> _Model | None:
    """The model of a mapping; None if it has mistakes, which the source then tells."""
    try:
        return model.model_validate(written)
    except ValidationError as error:
        errors = error.errors()
        for each in errors:
            each["loc"] = (*location, *each["loc"])
        source.findings += findings(errors, places)
        return None


def _include(data: object) -> Path | None:
    try:
        return parse_include(data["include"]) if isinstance(data, dict) and "include" in data else None
    except ValueError:
        return None


def _rest(data: object, *, is_included: bool) -> object:
    """What is written outside of the parts; a VIP stands in for those of a configuration."""
    if not isinstance(data, dict):
        return data
    rest: dict[str, Any] = dict(data)
    if isinstance(data.get("pools"), list):
        rest["pools"] = []
    vips = data.get("vips", [] if "include" in data else None)
    if isinstance(vips, list):
        stands_in = not is_included and (vips or "include" in data)
        rest["vips"] = [_STAND_IN] if stands_in else []
    return rest


def _too_long(document: Document) -> Iterator[Finding]:
    """Lists with more items than poise can hold; what is too much is cut off the data."""
    data = document.data
    yield from _cut(list_in(data, "direct"), ("direct",), MAXIMUM_PREFIXES, "prefixes")
    for index, interface in enumerate(list_in(data, "interfaces")):
        location: Location = ("interfaces", index, "vlans")
        yield from _cut(list_in(interface, "vlans"), location, MAXIMUM_TAGS, "VLAN tags of a frame")
    pools = list_in(data, "pools")
    yield from _cut(pools, ("pools",), MAXIMUM_POOLS, "pools")
    for index, pool in enumerate(pools):
        location = ("pools", index, "servers")
        yield from _cut(list_in(pool, "servers"), location, MAXIMUM_SERVERS, "servers in a pool")
    for index, vip in enumerate(list_in(data, "vips")):
        location = ("vips", index, "servers")
        yield from _cut(list_in(vip, "servers"), location, MAXIMUM_SERVERS, "servers in a VIP")
        location = ("vips", index, "quic_ids")
        yield from _cut(list_in(vip, "quic_ids"), location, MAXIMUM_QUIC_IDS, "kinds of connection ids")


def _cut(items: list[object], location: Location, limit: int, what: str) -> Iterator[Finding]:
    if len(items) > limit:
        yield Finding((*location, limit), f"{len(items)} {what} are too many: write at most {limit}")
        del items[limit:]
