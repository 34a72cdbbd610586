# SPDX-License-Identifier: Apache-2.0
"""poise.yaml: its models, and what reads it or reports every mistake with its line."""

from poise.config.care import CheckConfig, DrainConfig, LoadConfig, PassiveConfig
from poise.config.load import ConfigError, Loader, Mistake, load
from poise.config.model import (
    Config,
    InterfaceConfig,
    PoolConfig,
    QuicIdsConfig,
    ServerConfig,
    VipConfig,
    XdpMode,
)

__all__ = [
    "CheckConfig",
    "Config",
    "ConfigError",
    "DrainConfig",
    "InterfaceConfig",
    "LoadConfig",
    "Loader",
    "Mistake",
    "PassiveConfig",
    "PoolConfig",
    "QuicIdsConfig",
    "ServerConfig",
    "VipConfig",
    "XdpMode",
    "load",
]
