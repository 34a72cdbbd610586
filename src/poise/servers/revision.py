# SPDX-License-Identifier: Apache-2.0
"""Reading poise.yaml again while poise runs: what differs is applied, and what is wrong changes nothing."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from poise.config import Config, Loader
from poise.errors import PoiseError
from poise.servers.control import Controller
from poise.servers.events import Kind
from poise.servers.hosting import Hosting
from poise.servers.model import Model, Refused
from poise.servers.preview import preview
from poise.servers.reconcile import reconcile
from poise.servers.wanted import Wishes
from poise.words import listed

FIXED: Final = (
    *("interfaces", "xdp_mode", "socket", "state_directory", "pin_directory", "key_file"),
    *("vip_limit", "handshake_rows", "flow_rows", "flow_rate", "connection_rows"),
)
"""The settings that only a restart changes."""


@dataclass(frozen=True)
class Reading:
    """The last reading of poise.yaml: when (seconds since 1970), and what was wrong, None if nothing."""

    at: float
    error: str | None = None


@dataclass
class Counts:
    """How many readings were in force afterwards, and how many were refused."""

    ok: int = 0
    refused: int = 0


class Revision:
    """What poise.yaml says, and what a controller has made of it."""

    def __init__(
        self,
        loader: Loader,
        config: Config,
        controller: Controller,
        hosting: Hosting,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Begin with a configuration that the loader has loaded; nothing is applied yet.

        settings: those that hold whatever the files say.
        """
        self._settings = settings or {}
        self.config = config
        self.digest = loader.digest
        self.last: Reading | None = None
        self.counts = Counts()
        self._loader = loader
        self._controller = controller
        self._hosting = hosting
        self._wishes = Wishes()
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file of the configuration."""
        return self._loader.path

    def begin(self) -> None:
        """Apply the configuration for the first time."""
        self._apply(self.config)

    def reload(self) -> dict[str, object]:
        """Read the files again and apply what differs; changes nothing if it raises PoiseError."""
        with self._lock:
            begun = time.perf_counter()
            events = self._controller.events
            try:
                config = self._loader.load().model_copy(update=self._settings)
                revised = self._revise(config)
            except PoiseError as error:
                self.counts.refused += 1
                self.last = Reading(time.time(), str(error))
                events.add(Kind.REFUSED, f"{self.path} is not put in force: {_first_line(error)}")
                raise
            self.counts.ok += 1
            self.last = Reading(time.time())
            milliseconds = round((time.perf_counter() - begun) * 1000, 1)
            if any(revised.values()):
                told = "; ".join(f"{what} {listed(names)}" for what, names in revised.items() if names)
                events.add(Kind.RELOADED, f"{self.path} is in force: {told}")
            return {**revised, "milliseconds": milliseconds, "digest": self.digest}

    def plan(self, path: Path) -> dict[str, Any]:
        """Say what `reload` would do if this file were the configuration; see Facade.plan()."""
        with self._lock:
            # Of the file that runs, only what was changed is read anew.
            is_own = path.absolute() == self.path.absolute()
            loader, wishes = (self._loader, self._wishes) if is_own else (Loader(path), Wishes())
            config = loader.load().model_copy(update=self._settings)
            wanted = wishes.read(config)
        controller = self._controller
        with controller.lock:
            present, choices, settled = controller.model, dict(controller.choices), controller.settled(wanted)
        model = reconcile(present, wanted, time.time(), config.id_rest, settled=settled)
        known = {vip.index: vip for vip in present.vips}
        changed = tuple(vip for vip in model.vips if known.get(vip.index) is not vip)
        kept = {vip.index for vip in model.vips} - {vip.index for vip in changed}
        expected = {vip.index: controller.expected(vip) for vip in changed}
        before = Model(tuple(vip for vip in present.vips if vip.index not in kept))
        found = preview(before, choices, Model(changed), expected).as_dict()
        return {**found, "restart": fixed(self.config, config)}

    def _revise(self, config: Config) -> dict[str, list[str]]:
        differing = fixed(self.config, config)
        if differing:
            names = ", ".join(differing)
            raise Refused(
                f"{self.path}: {names} only change with a restart: restart poise, or write what was there"
            )
        former = self.config
        self._hosting.revise(former, config)
        try:
            revised = self._apply(config)
        except BaseException:
            self._hosting.complete(config, former)
            raise
        self.config, self.digest = config, self._loader.digest
        self._hosting.complete(former, config)
        return revised

    def _apply(self, config: Config) -> dict[str, list[str]]:
        wishes = self._wishes.read(config)
        revised = self._controller.read(wishes, direct=config.direct, rest=config.id_rest)
        return revised._asdict()


def fixed(running: Config, config: Config) -> list[str]:
    """Return the names of settings that differ and that only a restart changes."""
    return [name for name in FIXED if getattr(running, name) != getattr(config, name)]


def _first_line(error: PoiseError) -> str:
    first, *more = str(error).splitlines()
    return f"{first} (and {len(more)} more)" if more else first
