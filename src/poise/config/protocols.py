# SPDX-License-Identifier: Apache-2.0
"""Keys of one VIP of poise.yaml that do not go together.

They are looked for in the plain data, so that a bad value elsewhere does not hide them.
"""

from collections.abc import Iterator
from typing import Any, Final, get_args

from poise.config.base import keys_of
from poise.config.fields import parse_codepoint, parse_nonce_length, parse_server_id_length
from poise.config.model import HASHING, MAXIMUM_ID_BYTES, Policy, QuicIdsConfig, VipConfig
from poise.config.wording import closest
from poise.config.yaml_lines import Document, Finding, Location, show

_DEFAULT: Final = QuicIdsConfig(config=0)
_PROTOCOLS: Final = {"timestamp_layout": "tcp", "quic_ids": "quic"}
_PREQUAL: Final = "load: {from: agent}"


def contradictions(document: Document, index: int) -> Iterator[Finding]:
    """Keys of the VIP with this index that do not go with its protocol or with each other."""
    vips = document.data.get("vips") if isinstance(document.data, dict) else None
    vip = vips[index] if isinstance(vips, list) else None
    if not isinstance(vip, dict):
        return
    location = ("vips", index)
    yield from _servers(vip, location)
    yield from _of_other_protocols(vip, location)
    yield from _of_other_modes(vip, location)
    yield from _of_other_policies(vip, location)
    if "passive" in vip and vip["passive"] is None:
        message = "passive has no value: write `passive: {}` for what is usual, or leave it out"
        yield Finding((*location, "passive"), message)
    ids = vip.get("quic_ids")
    if isinstance(ids, list):
        yield from _quic_ids(document, ids, (*location, "quic_ids"))


def _servers(vip: dict[str, Any], location: Location) -> Iterator[Finding]:
    if "pool" in vip and "servers" in vip:
        message = "a VIP has either servers or a pool: leave out one of the two"
        yield Finding((*location, "pool"), message, at_key=True)
    if "pool" not in vip and "servers" not in vip:
        known = keys_of(VipConfig)
        meant = {closest(key, known) for key in vip if key not in known}
        if not meant & {"pool", "servers"}:
            message = 'a VIP has no "servers": write them, like `servers: [{address: 10.0.0.1, port: 8080}]`'
            yield Finding(location, f"{message}, or name a pool, like `pool: web`")


def _of_other_protocols(vip: dict[str, Any], location: Location) -> Iterator[Finding]:
    protocol = vip.get("protocol", "tcp")
    if protocol not in ("tcp", "udp", "quic"):
        return
    for key, wanted in _PROTOCOLS.items():
        if key in vip and protocol != wanted:
            mistake = f"{key} is not for protocol {protocol}: leave it out, or write `protocol: {wanted}`"
            yield Finding((*location, key), mistake, at_key=True)
    if vip.get("mode") == "stateful" and protocol != "tcp":
        mistake = f"mode stateful is not for protocol {protocol}"
        yield Finding((*location, "mode"), f"{mistake}: leave it out, or write `protocol: tcp`")


def _of_other_modes(vip: dict[str, Any], location: Location) -> Iterator[Finding]:
    mode, layout, policy = vip.get("mode"), vip.get("timestamp_layout"), vip.get("policy")
    is_tcp = vip.get("protocol", "tcp") == "tcp"
    if is_tcp and layout in ("msb", "lsb") and mode in ("stateful", "cookieless"):
        mistake = f"timestamp_layout {show(layout)} does not go with mode {mode}"
        yield Finding((*location, "timestamp_layout"), f"{mistake}: leave out one of the two")
    if mode == "cookieless" and policy in get_args(Policy) and policy not in HASHING:
        mistake = f"policy {policy} does not go with mode cookieless, where a hash places every packet"
        yield Finding((*location, "policy"), f"{mistake}: write hash or maglev, or leave it out")


def _of_other_policies(vip: dict[str, Any], location: Location) -> Iterator[Finding]:
    policy, load = vip.get("policy"), vip.get("load")
    if "awrr_alpha" in vip and policy != "awrr" and (policy is None or policy in get_args(Policy)):
        mistake = "awrr_alpha is only for policy awrr: leave it out, or write `policy: awrr`"
        yield Finding((*location, "awrr_alpha"), mistake, at_key=True)
    if policy != "prequal":
        return
    wanted = f"write `{_PREQUAL}`, or a URL that tells it"
    source = load.get("from", "connections") if isinstance(load, dict) else "connections"
    if source in ("connections", "packets", "bytes") and isinstance(load, dict | None):
        mistake = "policy prequal needs the latency of servers, which poise does not see itself"
        yield Finding((*location, "policy"), f"{mistake}: {wanted}")
    if isinstance(load, dict) and source == "url" and "latency" not in load:
        mistake = "policy prequal needs the latency of servers: write where it is in the answer, like"
        yield Finding((*location, "load"), f"{mistake} `latency: latency_ms`")


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
