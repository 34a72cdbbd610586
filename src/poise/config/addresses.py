# SPDX-License-Identifier: Apache-2.0
"""Addresses and prefixes in poise.yaml and in the API, of IPv4 and IPv6.

As in `fields`, every parser takes the value as read and raises ValueError with a sentence.
"""

import re
from functools import lru_cache
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
    ip_network,
)
from socket import AF_INET, AF_INET6, inet_pton
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from poise.config.yaml_lines import Unquoted, show


def parse_text(value: object, what: str) -> str:
    """Text; unquoted YAML that means something else is refused with the advice to quote it."""
    match value:
        case str():
            return value
        case None:
            fault = "has no value: write one, or leave the key out"
        case Unquoted():
            fault = f'{value.text} is {value.kind} in YAML: put it in quotes, "{value.text}"'
        case int() if not isinstance(value, bool):
            fault = f'{value} is a number, not text: put it in quotes, "{value}"'
        case _:
            fault = f"must be text, not {show(value)}"
    raise ValueError(f"{what} {fault}")


def parse_address(value: object) -> IPv4Address | IPv6Address:
    """The address of one host, which others can reach by routing."""
    if isinstance(value, IPv4Address | IPv6Address):
        address = value
    else:
        text = parse_text(value, "address")
        if (usual := _usual(text)) is not None:
            return usual
        try:
            address = ip_address(text)
        except ValueError as error:
            raise ValueError(_address_mistake(text)) from error
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"address {address} names an interface: leave out the % and what follows")
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    link_local = isinstance(address, IPv6Address) and address.is_link_local
    kinds = {
        "an IPv4-mapped": mapped,
        "a loopback": address.is_loopback,
        "a multicast": address.is_multicast,
        "the broadcast": address == IPv4Address("255.255.255.255"),
        "the unspecified": address.is_unspecified,
        "a link-local": link_local,  # of IPv6 only: it means another host on each interface
    }
    for kind, applies in kinds.items():
        if applies:
            raise ValueError(f"address {address} is {kind} address: write the address of one host")
    return address


@lru_cache(maxsize=1 << 16)  # servers are in many VIPs, and one object for each address is quick to compare
def _usual(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is, if it is one of those that hosts usually have; libc is quick to tell."""
    try:
        if ":" in text:
            packed = inet_pton(AF_INET6, text)
            return IPv6Address(packed) if packed[0] >> 5 == 1 else None  # global unicast, 2000::/3
        packed = inet_pton(AF_INET, text)
        return IPv4Address(packed) if 0 < packed[0] < 224 and packed[0] != 127 else None
    except (OSError, ValueError):
        return None


def _address_mistake(text: str) -> str:
    mistake = f"address {show(text)} is not an IP address"
    _, slash, _ = text.partition("/")
    if slash:
        return f"{mistake}: leave out the prefix length"
    host, colon, port = text.rpartition(":")
    bare = host.strip("[]")
    if colon and port.isdecimal() and (host.count(".") == host.count(":") + 3 or bare != host):
        return f"{mistake}: write the port apart, as `port: {port}`"
    if text.strip("[]") != text:
        return f"{mistake}: leave out the brackets"
    if ":" in text:
        return f"{mistake}: write groups of hexadecimal digits, like 2001:db8::10"
    if re.search(r"[A-Za-z]", text):
        return f"{mistake}: host names are not looked up, write numbers like 192.0.2.10 or 2001:db8::10"
    return f"{mistake}: write four numbers from 0 to 255 without leading zeros, like 192.0.2.10"


def parse_prefix(value: object) -> IPv4Network | IPv6Network:
    """A prefix, as ADDRESS/LENGTH."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    text = parse_text(value, "direct prefix")
    kind = IPv6Network if ":" in text else IPv4Network
    try:
        return kind(text)
    except (AddressValueError, NetmaskValueError) as error:
        mistake = f"direct prefix {show(text)} is not an IP prefix"
        raise ValueError(f"{mistake}: write one like 10.0.0.0/8 or 2001:db8::/32") from error
    except ValueError as error:  # bits of the host are set
        network = ip_network(text, strict=False)
        raise ValueError(f"direct prefix {show(text)} has bits of a host set: write {network}") from error


_ADDRESS = WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
_PREFIX = WithJsonSchema({"type": "string", "pattern": "^[0-9A-Fa-f.:]+/[0-9]+$"})

Address = Annotated[IPv4Address | IPv6Address, BeforeValidator(parse_address), _ADDRESS]
OptionalAddress = Annotated[IPv4Address | IPv6Address | None, BeforeValidator(parse_address), _ADDRESS]
Prefix = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_prefix), _PREFIX]
