# SPDX-License-Identifier: Apache-2.0
"""The machine around a running poise, set up as the configuration needs it, also when that changes."""

from collections.abc import Mapping
from pathlib import Path

import structlog

from poise.config import Config
from poise.servers import host

_log = structlog.get_logger()


class Hosting:
    """Sets the host up and back for one run of poise."""

    def __init__(self, file: Path, modes: Mapping[str, str], *, everything: bool) -> None:
        """Remember in this file what was changed; modes: of XDP, by interface.

        everything: else only what poise cannot do without, and the rest is merely checked.
        """
        self._file = file
        self._modes = modes
        self._everything = everything

    def set_up(self, config: Config, *, later: tuple[type, ...] = ()) -> list[host.Setting]:
        """Make the settings that this configuration needs; returns all of them.

        later: kinds of settings whose time has not come.
        """
        settings = host.plan(config, self._modes)
        due = [setting for setting in settings if self._everything or isinstance(setting, host.Clsact)]
        now = [setting for setting in due if not isinstance(setting, later)]
        for sentence in host.set_up(now, self._file):
            _log.info("host set up", change=sentence)
        return settings

    def check(self, settings: list[host.Setting]) -> None:
        """Tell what is not set up, if that is left to others."""
        if not self._everything:
            for sentence in host.check(settings):
                _log.warning("host not set up", fault=sentence)

    def revise(self, former: Config, config: Config) -> None:
        """Take the addresses of VIPs that are gone from the machine, before the tables lose them."""
        if _addresses(former) <= _addresses(config):
            return
        kept = {setting.name for setting in host.plan(config, self._modes)}
        for sentence in host.undo(
            self._file, lambda setting: isinstance(setting, host.Address) and setting.name not in kept
        ):
            _log.info("no longer wanted", change=sentence)

    def complete(self, former: Config, config: Config) -> None:
        """Give the machine the addresses of new VIPs, once the tables have them."""
        if not _addresses(config) <= _addresses(former):
            self.check(self.set_up(config))


def _addresses(config: Config) -> set[object]:
    return {vip.address for vip in config.vips}
