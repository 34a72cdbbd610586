# SPDX-License-Identifier: Apache-2.0
"""The installed `poise` program."""

import subprocess
import sys
from pathlib import Path

POISE = Path(sys.executable).with_name("poise")


def poise(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What `poise` with these arguments prints, and its exit status."""
    return subprocess.run([POISE, *arguments], capture_output=True, text=True, timeout=60, check=False)
