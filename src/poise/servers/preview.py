# SPDX-License-Identifier: Apache-2.0
"""What a change would do, told before it is made: a pure comparison of two models."""

from collections.abc import Mapping
from dataclasses import dataclass

from poise.servers.model import Model, Policy
from poise.servers.standing import Choice


@dataclass(frozen=True)
class Change:
    """One difference; kind: as `server-added`. server: its name, None of changes of the VIP itself."""

    kind: str
    sentence: str
    server: str | None = None


@dataclass(frozen=True)
class VipPreview:
    """What becomes of a VIP.

    moved: the share of new flows that another server would get. open_connections: a sentence.
    """

    vip: str
    changes: tuple[Change, ...]
    moved: float
    open_connections: str


@dataclass(frozen=True)
class Preview:
    """What a change does, by VIP; VIPs that stay as they are are left out."""

    vips: tuple[VipPreview, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        raise NotImplementedError


def preview(
    present: Model, choices: Mapping[int, Choice], wanted: Model, wanted_choices: Mapping[int, Choice]
) -> Preview:
    """Compare two models; choices: by VIP index, of the present and of the wanted one."""
    raise NotImplementedError


def moved(policy: Policy, choice: Choice, wanted_policy: Policy, wanted: Choice) -> float:
    """Return the share of new flows that another server would get, 0 to 1.

    Exact over the tables of hash and Maglev; of the others, the least share that must move.
    """
    raise NotImplementedError
