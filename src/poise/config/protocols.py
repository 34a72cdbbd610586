# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what a VIP of poise.yaml says of its protocol; as in `cross`, looked for in the plain data."""

from collections.abc import Iterator
from typing import Any, Final

from poise.config.fields import parse_codepoint, parse_nonce_length, parse_server_id_length
from poise.config.model import MAXIMUM_ID_BYTES, QuicIdsConfig
from poise.config.yaml_lines import Document, Finding, Location, show

_DEFAULT: Final = QuicIdsConfig(config=0)
_PROTOCOLS: Final = {"mode": ("tcp",), "timestamp_layout": ("tcp",), "quic_ids": ("quic",)}


def contradictions(document: Document, index: int) -> Iterator[Finding]:
    """Keys of the VIP with this index that do not go with its protocol or with each other."""
    vips = document.data.get("vips") if isinstance(document.data, dict) else None
    vip = vips[index] if isinstance(vips, list) else None
    if not isinstance(vip, dict):
        return
    location = ("vips", index)
    yield from _of_other_protocols(vip, location)
    yield from _of_other_modes(vip, location)
    ids = vip.get("quic_ids")
    if isinstance(ids, list):
        yield from _quic_ids(document, ids, (*location, "quic_ids"))


def _of_other_protocols(vip: dict[str, Any], location: Location) -> Iterator[Finding]:
    protocol = vip.get("protocol", "tcp")
    for key, protocols in _PROTOCOLS.items():
        if key in vip and protocol in ("tcp", "udp", "quic") and protocol not in protocols:
            wanted = f"leave it out, or write `protocol: {protocols[0]}`"
            yield Finding((*location, key), f"{key} is not for protocol {protocol}: {wanted}", at_key=True)


def _of_other_modes(vip: dict[str, Any], location: Location) -> Iterator[Finding]:
    if vip.get("protocol", "tcp") != "tcp":
        return
    layout, policy = vip.get("timestamp_layout"), vip.get("policy")
    stateful = vip.get("mode") == "stateful"
    if layout in ("msb", "lsb") and (stateful or policy == "hash"):
        because = "mode stateful" if stateful else "policy hash"
        mistake = f"timestamp_layout {show(layout)} does not go with {because}"
        yield Finding((*location, "timestamp_layout"), f"{mistake}: leave out one of the two")
    if stateful and policy == "hash":
        mistake = "mode stateful does not go with policy hash, which keeps nothing of a connection"
        yield Finding((*location, "mode"), f"{mistake}: leave out one of the two")


def _quic_ids(document: Document, ids: list[object], location: Location) -> Iterator[Finding]:
    seen: dict[int, Location] = {}
    for number, item in enumerate(ids):
        if not isinstance(item, dict):
            continue
        here = (*location, number)
        try:
            codepoint = parse_codepoint(item.get("config"))
        except ValueError:
            pass
        else:
            first = seen.setdefault(codepoint, here)
            if first != here:
                mistake = f"config {codepoint} is already on line {document.line((*first, 'config'))}"
                yield Finding((*here, "config"), f"{mistake}: write another one, 0 to 6")
        try:
            lengths = [
                parse_server_id_length(item.get("server_id_length", _DEFAULT.server_id_length)),
                parse_nonce_length(item.get("nonce_length", _DEFAULT.nonce_length)),
            ]
        except ValueError:
            continue
        if sum(lengths) > MAXIMUM_ID_BYTES:
            mistake = f"server_id_length {lengths[0]} and nonce_length {lengths[1]} are more than"
            yield Finding((*here, "nonce_length"), f"{mistake} {MAXIMUM_ID_BYTES} bytes together: write less")
