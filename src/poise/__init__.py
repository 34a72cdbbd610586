# SPDX-License-Identifier: Apache-2.0
"""poise balances load across servers: packets in XDP, everything that thinks in Python."""

from importlib.metadata import version

__version__ = version("poise")
