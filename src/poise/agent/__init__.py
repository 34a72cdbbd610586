# SPDX-License-Identifier: Apache-2.0
"""`poise agent`: tells balancers how loaded this server is; needs neither root nor anything but Python."""

from poise.agent.main import main

__all__ = ["main"]
