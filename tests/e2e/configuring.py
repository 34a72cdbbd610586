# SPDX-License-Identifier: Apache-2.0
"""Changing the poise.yaml of a balancer that a lab has made."""

import json

from poise.lab.balancer import Balancer


def reconfigure(balancer: Balancer, **settings: object) -> None:
    """Change settings in the file, which poise reads at its next start or reload."""
    path = balancer.configuration
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
