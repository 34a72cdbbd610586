# SPDX-License-Identifier: Apache-2.0
"""From poise.yaml's models to those of the servers level, with the secrets that it names files of."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from poise.config import CheckConfig, Config, DrainConfig, LoadConfig, PassiveConfig, QuicIdsConfig, VipConfig
from poise.errors import PoiseError
from poise.servers import keys
from poise.servers.care import Check, CheckKind, Drain, LoadKind, LoadSource, Passive
from poise.servers.decide import WantedServer, WantedVip
from poise.servers.model import Layout, Mode, Policy, Protocol, QuicIds


class Wishes:
    """What poise.yaml wants; VIPs that a new reading of it leaves as they were are the very same objects."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[VipConfig, WantedVip]] = {}  # by the identity of what is written

    def read(self, config: Config) -> list[WantedVip]:
        """Return the VIPs of a configuration; raises PoiseError where a key or token cannot be used."""
        read = {id(written): (written, self._read(written)) for written in config.vips}
        self._known = read
        return [wish for _, wish in read.values()]

    def _read(self, written: VipConfig) -> WantedVip:
        known = self._known.get(id(written))
        if known is None or known[0] is not written:
            return vip(written)
        if not _has_secrets(written):
            return known[1]
        again = vip(written)
        return known[1] if again == known[1] else again


def _has_secrets(written: VipConfig) -> bool:
    load = written.load
    return bool(load.token_file or load.token_env or any(ids.key_file for ids in written.quic_ids))


def vip(written: VipConfig) -> WantedVip:
    """Return what is wanted of a VIP; raises PoiseError where a key or token cannot be used."""
    protocol = Protocol(written.protocol)
    return WantedVip(
        written.name,
        written.address,
        written.port,
        Policy(written.policy),
        tuple(
            WantedServer(server.name, server.address, server.port, server.weight)
            for server in written.servers
        ),
        protocol,
        Mode(written.mode),
        Layout(written.timestamp_layout),
        tuple(_quic_ids(written.quic_ids)) if protocol is Protocol.QUIC else (),
        tuple(map(_check, written.checks)),
        _passive(written.passive),
        written.panic,
        written.slow_start,
        _drain(written.drain),
        _load(written.load),
        written.awrr_alpha,
    )


def _quic_ids(written: Iterable[QuicIdsConfig]) -> Iterator[QuicIds]:
    for ids in written:
        key = None if ids.key_file is None else keys.load_quic_key(ids.key_file)
        yield QuicIds(ids.config, ids.server_id_length, ids.nonce_length, key)


def _check(written: CheckConfig) -> Check:
    said = written.model_dump(exclude={"type", "status", "ca_file", "answer", "command"}, exclude_none=True)
    kind = CheckKind(written.type)
    more: dict[str, Any] = {}
    if written.type in {"http", "https"}:
        more["statuses"] = tuple(tuple(statuses) for statuses in written.status)
    if written.type in {"https", "tls"} and written.ca_file:
        more["ca_file"] = str(written.ca_file)
    if written.type == "dns" and written.answer:
        more["answer"] = str(written.answer)
    if written.type == "script":
        more["command"] = tuple(written.command)
    return Check(kind, **said, **more)


def _passive(written: PassiveConfig | None) -> Passive | None:
    return None if written is None else Passive(**written.model_dump())


def _drain(written: DrainConfig) -> Drain:
    return Drain(written.quiet, written.deadline, written.at_deadline == "cut")


def _load(written: LoadConfig) -> LoadSource:
    return LoadSource(
        LoadKind(written.source),
        written.interval,
        written.stale,
        written.url,
        written.metric,
        written.latency,
        _token(written.token_file, written.token_env),
    )


def _token(file: Path | None, variable: str | None) -> str | None:
    if file is not None:
        return keys.load_token(file)
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise PoiseError(f"the environment variable {variable}, which is to hold a token, is not set: set it")
    return token
