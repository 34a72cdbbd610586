# SPDX-License-Identifier: Apache-2.0
"""The HTTP API of a running poise: JSON over a unix socket that only root may open."""

from pathlib import Path
from typing import Final

DEFAULT_SOCKET: Final = Path("/run/poise/poise.sock")
