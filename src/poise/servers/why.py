# SPDX-License-Identifier: Apache-2.0
"""Why a server gets a connection: pure explanations of what the packets' side does."""

from collections.abc import Mapping
from dataclasses import dataclass

from poise.servers.model import Vip
from poise.servers.standing import Choice, Standing


@dataclass(frozen=True)
class Live:
    """A server's load in effect, per weight, as struct live has it; latency in microseconds, 0 if unknown."""

    load: int = 0
    latency: int = 0


def explain(
    vip: Vip,
    client: str,
    standings: Mapping[int, Standing],
    choice: Choice,
    lives: Mapping[int, Live],
    *,
    flow: int,
    turn: int,
) -> dict[str, object]:
    """Return which server a new connection would get, and why, for JSON.

    client: ADDRESS:PORT. lives: by server id. flow: the hash of the flow by which the packets' side picks.
    turn: the next one of the schedule. Returned: vip, client, rule, server (None if there is none, else the
    most likely), chance (0 to 1), sentence, and servers, each with name, id, state, share, chance, load,
    reason.
    """
    raise NotImplementedError


def explain_watch(vip: Vip, client: str, server: int | None, reason: int) -> dict[str, object]:
    """Return where the packet that was watched for went, and why, for JSON.

    server: its id, None if none was found. reason: of enum reason. Returned: vip, client, server, reason,
    sentence.
    """
    raise NotImplementedError
