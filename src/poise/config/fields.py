# SPDX-License-Identifier: Apache-2.0
"""The kinds of values in poise.yaml and in the API: each turns what was written into what poise uses.

Every parser takes the value as read and raises ValueError with a sentence: what is wrong, what to write.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, NetmaskValueError
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, ValidationInfo

from poise.config.yaml_lines import Unquoted, show

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}")
_INTERFACE_BYTES: Final = 15  # IFNAMSIZ - 1, include/uapi/linux/if.h
_SOCKET_BYTES: Final = 107  # sun_path less its final zero, include/uapi/linux/un.h
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST: Final = 365 * 86400
_MINIMUM_ROWS: Final = 1024
_MAXIMUM_ROWS: Final = 4194304


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


def parse_whole_number(value: object, what: str, lowest: int, highest: int) -> int:
    """A whole number from `lowest` to `highest`."""
    if isinstance(value, int) and not isinstance(value, bool):
        if lowest <= value <= highest:
            return value
        fault = f"{value} is out of range"
    elif value is None:
        fault = "has no value"
    else:
        fault = f"{show(value)} is not a plain number"
        text = value.text if isinstance(value, Unquoted) else value
        if isinstance(text, str) and re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
            # `080` is text, `010` is eight, "80" is quoted: the digits say what was meant
            fault += f", leave out quotes and leading zeros ({text.lstrip('0')})"
    raise ValueError(f"{what} {fault}: write a whole number from {lowest} to {highest}")


def parse_port(value: object) -> int:
    """A TCP port, 1 to 65535."""
    return parse_whole_number(value, "port", 1, 65535)


def parse_address(value: object) -> IPv4Address:
    """The IPv4 address of one host."""
    if isinstance(value, IPv4Address):
        address = value
    else:
        text = parse_text(value, "address")
        try:
            address = IPv4Address(text)
        except AddressValueError as error:
            raise ValueError(_address_mistake(text)) from error
    kinds = {
        "a loopback": address.is_loopback,
        "a multicast": address.is_multicast,
        "the broadcast": address == IPv4Address("255.255.255.255"),
        "the unspecified": address.is_unspecified,
    }
    for kind, applies in kinds.items():
        if applies:
            raise ValueError(f"address {address} is {kind} address: write the address of one host")
    return address


def _address_mistake(text: str) -> str:
    mistake = f"address {show(text)} is not an IPv4 address"
    host, slash, _ = text.partition("/")
    if slash:
        return f"{mistake}: leave out the prefix length"
    host, colon, port = text.partition(":")
    if colon and port.isdecimal() and host.count(".") == host.count(":") + 3:
        return f"{mistake}: write the port apart, as `port: {port}`"
    try:
        IPv6Address(text)
    except AddressValueError:
        pass
    else:
        return f"{mistake} but IPv6, which poise does not balance yet: write an IPv4 address"
    if re.search(r"[A-Za-z]", text):
        return f"{mistake}: host names are not looked up, write numbers like 192.0.2.10"
    return f"{mistake}: write four numbers from 0 to 255 without leading zeros, like 192.0.2.10"


def parse_prefix(value: object) -> IPv4Network:
    """An IPv4 prefix, as ADDRESS/LENGTH."""
    if isinstance(value, IPv4Network):
        return value
    text = parse_text(value, "direct prefix")
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError) as error:
        mistake = f"direct prefix {show(text)} is not an IPv4 prefix"
        raise ValueError(f"{mistake}: write one like 10.0.0.0/8") from error
    except ValueError as error:  # bits of the host are set
        network = IPv4Network(text, strict=False)
        raise ValueError(f"direct prefix {show(text)} has bits of a host set: write {network}") from error


def parse_name(value: object) -> str:
    """The name of a VIP or server: 1 to 63 ASCII letters, digits, `.`, `_`, `:` and `-`."""
    name = parse_text(value, "name")
    if not _NAME.fullmatch(name):
        wanted = "write at most 63 letters, digits or . _ : -, a letter or digit first"
        raise ValueError(f"name {show(name)} cannot be used: {wanted}")
    return name


def parse_interface(value: object) -> str:
    """The name of a network interface (what dev_valid_name() of net/core/dev.c accepts)."""
    name = parse_text(value, "interface")
    if (
        not name.isprintable()
        or not 0 < len(name.encode(errors="replace")) <= _INTERFACE_BYTES
        or name in {".", ".."}
        or re.search(r"[/:\s]", name)
    ):
        raise ValueError(
            f"interface {show(name)} cannot exist: write a name as `ip link` shows it, like eth0"
        )
    return name


def parse_duration(value: object) -> int:
    """A time in seconds, 1 s to 365 d, from a number of seconds or text like 90s, 30m, 24h or 7d."""
    if isinstance(value, str) and (parts := re.fullmatch(r"(0|[1-9][0-9]{0,8})([smhd])", value)):
        seconds = int(parts[1]) * _UNIT_SECONDS[parts[2]]
        if 1 <= seconds <= _LONGEST:
            return seconds
        raise ValueError(f"duration {show(value)} is out of range: write one from 1s to 365d")
    if isinstance(value, int) and not isinstance(value, bool):
        return parse_whole_number(value, "duration", 1, _LONGEST)
    raise ValueError(f"duration {show(value)} is not understood: write seconds, or like 90s, 30m, 24h or 7d")


def parse_rows(value: object) -> int:
    """The size of the handshake table: a power of two."""
    rows = parse_whole_number(value, "handshake_rows", _MINIMUM_ROWS, _MAXIMUM_ROWS)
    if rows & (rows - 1):
        lower = 1 << (rows.bit_length() - 1)
        raise ValueError(f"handshake_rows {rows} is not a power of two: write {lower} or {2 * lower}")
    return rows


def parse_path(value: object, info: ValidationInfo) -> Path:
    """An absolute path; that of the socket must fit into a socket address."""
    what = info.field_name or "path"
    path = value if isinstance(value, Path) else Path(parse_text(value, what))
    if not path.is_absolute() or not str(path).isprintable():
        raise ValueError(f"{what} {show(str(path))} is not an absolute path: begin it with /")
    if what == "socket" and len(str(path).encode()) > _SOCKET_BYTES:
        raise ValueError(f"socket path is longer than {_SOCKET_BYTES} bytes: write a shorter one")
    return path


Address = Annotated[IPv4Address, BeforeValidator(parse_address)]
Port = Annotated[int, BeforeValidator(parse_port)]
Prefix = Annotated[IPv4Network, BeforeValidator(parse_prefix)]
Name = Annotated[str, BeforeValidator(parse_name)]
Interface = Annotated[str, BeforeValidator(parse_interface)]
Duration = Annotated[int, BeforeValidator(parse_duration)]
Rows = Annotated[int, BeforeValidator(parse_rows)]
AbsolutePath = Annotated[Path, BeforeValidator(parse_path)]
