# SPDX-License-Identifier: Apache-2.0
"""Telling when the load signals of servers are lost, and when they are back."""

from collections.abc import Callable, Mapping
from typing import Final

from poise.servers.care import LoadKind
from poise.servers.events import Events, Kind
from poise.servers.model import Vip
from poise.servers.steering import BY_LOAD, Shown
from poise.servers.store import Key

_ASKED: Final = (LoadKind.AGENT, LoadKind.URL)


class Signals:
    """Who has no usable signal at present, of servers that are asked for it."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lost: dict[Key, str] = {}

    def look(self, vips: Mapping[int, Vip], shown: Callable[[], Mapping[Key, Shown]]) -> None:
        """Tell whose signal was lost or came back since the last look; shown: the loads that are known."""
        asked = {index for index, vip in vips.items() if vip.policy in BY_LOAD and vip.load.kind in _ASKED}
        if not asked and not self._lost:
            return
        known = {key: each for key, each in shown().items() if key[0] in asked}
        for key, each in known.items():
            if each.fault and key not in self._lost:
                self._lost[key] = each.fault
                self._tell(Kind.SIGNAL_LOST, vips, key, f"has no load signal: {each.fault}")
        for key in [key for key in self._lost if key not in known or not known[key].fault]:
            del self._lost[key]
            if key in known:
                self._tell(Kind.SIGNAL_BACK, vips, key, "has a load signal again")

    def _tell(self, kind: Kind, vips: Mapping[int, Vip], key: Key, what: str) -> None:
        vip = vips[key[0]]
        server = next((server for server in vip.servers if server.id == key[1]), None)
        if server is not None:
            self._events.add(kind, f"server {server.name} {what}", vip=vip.name, server=server.name)
