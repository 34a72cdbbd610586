# SPDX-License-Identifier: Apache-2.0
"""The kinds of values in poise.yaml and in the API: each turns what was written into what poise uses.

Every parser takes the value as read and raises ValueError with a sentence: what is wrong, what to write.
"""

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

from poise.config.addresses import parse_text
from poise.config.yaml_lines import Unquoted, show

# What is not named is called by its address and port: of IPv6, [2001:db8::10]:80.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}|\[[0-9a-f:.]{2,45}\]:[0-9]{1,5}")
_INTERFACE_BYTES: Final = 15  # IFNAMSIZ - 1, include/uapi/linux/if.h
_SOCKET_BYTES: Final = 107  # sun_path less its final zero, include/uapi/linux/un.h
_MAXIMUM_RATE: Final = 10_000_000
_ROWS: Final = {  # the lowest and highest of each size that must be a power of two
    "handshake_rows": (1024, 4194304),
    "connection_rows": (1, 32768),
    "vip_limit": (16, 512),
}


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
    """A port of TCP or UDP, 1 to 65535."""
    return parse_whole_number(value, "port", 1, 65535)


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


def parse_rows(value: object, info: ValidationInfo) -> int:
    """A number of rows, or of VIPs that tables have room for: a power of two."""
    what = info.field_name or ""
    rows = parse_whole_number(value, what, *_ROWS[what])
    if rows & (rows - 1):
        lower = 1 << (rows.bit_length() - 1)
        raise ValueError(f"{what} {rows} is not a power of two: write {lower} or {2 * lower}")
    return rows


def parse_flow_rows(value: object) -> int:
    """The size of the table of flows without a cookie."""
    return parse_whole_number(value, "flow_rows", 1024, 4194304)


def parse_flow_rate(value: object) -> int:
    """How many flows without a cookie each CPU may remember anew in a second."""
    return parse_whole_number(value, "flow_rate", 1, _MAXIMUM_RATE)


def parse_weight(value: object) -> int:
    """A server's share of what is placed by hash, 1 to 100."""
    return parse_whole_number(value, "weight", 1, 100)


def parse_vlan(value: object) -> int:
    """A VLAN id, 1 to 4094 (IEEE 802.1Q reserves 0 and 4095)."""
    return parse_whole_number(value, "VLAN id", 1, 4094)


def parse_codepoint(value: object) -> int:
    """A value of a connection id's config-rotation bits; 7 says that the id names no server."""
    return parse_whole_number(value, "config", 0, 6)


def parse_server_id_length(value: object) -> int:
    """Bytes of the server id in a QUIC connection id (draft-ietf-quic-load-balancers, section 3)."""
    return parse_whole_number(value, "server_id_length", 1, 15)


def parse_nonce_length(value: object) -> int:
    """Bytes of the nonce in a QUIC connection id (draft-ietf-quic-load-balancers, section 3)."""
    return parse_whole_number(value, "nonce_length", 4, 18)


def parse_include(value: object) -> Path:
    """The path of a directory, absolute or from the configuration's own directory."""
    text = str(value) if isinstance(value, Path) else parse_text(value, "include")
    if not text or not text.isprintable() or "*" in text:
        raise ValueError(f"include {show(text)} is not a directory: write one, like conf.d")
    return Path(text)


def parse_path(value: object, info: ValidationInfo) -> Path:
    """An absolute path; that of the socket must fit into a socket address."""
    what = info.field_name or "path"
    path = value if isinstance(value, Path) else Path(parse_text(value, what))
    if not path.is_absolute() or not str(path).isprintable():
        raise ValueError(f"{what} {show(str(path))} is not an absolute path: begin it with /")
    if what == "socket" and len(str(path).encode()) > _SOCKET_BYTES:
        raise ValueError(f"socket path is longer than {_SOCKET_BYTES} bytes: write a shorter one")
    return path


def _whole(lowest: int, highest: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": lowest, "maximum": highest})


_TEXT: Final = WithJsonSchema({"type": "string", "minLength": 1})
_PATH: Final = WithJsonSchema({"type": "string", "pattern": "^/"})

Port = Annotated[int, BeforeValidator(parse_port), _whole(1, 65535)]
OptionalPort = Annotated[int | None, BeforeValidator(parse_port), _whole(1, 65535)]
Name = Annotated[
    str, BeforeValidator(parse_name), WithJsonSchema({"type": "string", "pattern": f"^({_NAME.pattern})$"})
]
OptionalName = Annotated[
    str | None,
    BeforeValidator(parse_name),
    WithJsonSchema({"type": "string", "pattern": f"^({_NAME.pattern})$"}),
]
Interface = Annotated[str, BeforeValidator(parse_interface), _TEXT]
HandshakeRows = Annotated[int, BeforeValidator(parse_rows), _whole(*_ROWS["handshake_rows"])]
ConnectionRows = Annotated[int, BeforeValidator(parse_rows), _whole(*_ROWS["connection_rows"])]
VipLimit = Annotated[int, BeforeValidator(parse_rows), WithJsonSchema({"enum": [16, 32, 64, 128, 256, 512]})]
FlowRows = Annotated[int, BeforeValidator(parse_flow_rows), _whole(1024, 4194304)]
FlowRate = Annotated[int, BeforeValidator(parse_flow_rate), _whole(1, _MAXIMUM_RATE)]
Weight = Annotated[int, BeforeValidator(parse_weight), _whole(1, 100)]
Vlan = Annotated[int, BeforeValidator(parse_vlan), _whole(1, 4094)]
Codepoint = Annotated[int, BeforeValidator(parse_codepoint), _whole(0, 6)]
ServerIdLength = Annotated[int, BeforeValidator(parse_server_id_length), _whole(1, 15)]
NonceLength = Annotated[int, BeforeValidator(parse_nonce_length), _whole(4, 18)]
AbsolutePath = Annotated[Path, BeforeValidator(parse_path), _PATH]
OptionalPath = Annotated[Path | None, BeforeValidator(parse_path), _PATH]
Include = Annotated[Path | None, BeforeValidator(parse_include), _TEXT]
