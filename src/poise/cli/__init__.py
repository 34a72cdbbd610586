# SPDX-License-Identifier: Apache-2.0
"""The `poise` command: a file for each noun that it knows, and one for what commands print."""

from poise.cli.main import app, main

__all__ = ["app", "main"]
