# SPDX-License-Identifier: Apache-2.0
"""poise.yaml: its models, and `load`, which reads it or reports every mistake with its line."""

from poise.config.load import ConfigError, Mistake, load
from poise.config.model import Config, InterfaceConfig, QuicIdsConfig, ServerConfig, VipConfig, XdpMode

__all__ = [
    "Config",
    "ConfigError",
    "InterfaceConfig",
    "Mistake",
    "QuicIdsConfig",
    "ServerConfig",
    "VipConfig",
    "XdpMode",
    "load",
]
