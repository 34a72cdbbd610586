# SPDX-License-Identifier: Apache-2.0
"""What docs/reference/config.md says of the keys of a VIP's care, held against the models."""

import re
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from poise.config import DrainConfig, LoadConfig, PassiveConfig, PoolConfig
from poise.config import care as checks
from poise.config.base import keys_of
from poise.config.model import Policy
from tests.configs import EXAMPLES

PAGE = (EXAMPLES.parent / "docs" / "reference" / "config.md").read_text()

CHECKS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "tcp": (checks.TcpCheckConfig, {}),
    "http": (checks.HttpCheckConfig, {}),
    "https": (checks.HttpsCheckConfig, {}),
    "tls": (checks.TlsCheckConfig, {}),
    "dns": (checks.DnsCheckConfig, {}),
    "script": (checks.ScriptCheckConfig, {"command": ["/bin/true"]}),
}


def _rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines][2:]


def _assert_explained(model: type[BaseModel], least: dict[str, Any], defaults: dict[str, str]) -> None:
    assert sorted(defaults) == sorted(keys_of(model))
    assert {key for key, default in defaults.items() if default == "required"} == set(least)
    absent = model.model_validate(least)
    for key in defaults.keys() - least.keys():
        name = next(name for name, field in model.model_fields.items() if (field.alias or name) == key)
        if defaults[key] == "none":
            assert getattr(absent, name) is None
            continue
        written = model.model_validate(least | {key: yaml.safe_load(defaults[key])})
        assert getattr(written, name) == getattr(absent, name), key


@pytest.mark.parametrize(
    ("heading", "model", "least"),
    [
        ("A pool", PoolConfig, {"name": "web", "servers": []}),
        ("passive", PassiveConfig, {}),
        ("load", LoadConfig, {}),
    ],
)
def test_every_key_is_explained(heading: str, model: type[BaseModel], least: dict[str, Any]) -> None:
    """The reference lists each key of a mapping with its default, and what is required."""
    _assert_explained(model, least, {row[0].strip("`"): row[1].strip("`") for row in _rows(heading)})


def test_every_key_of_a_drain_is_explained() -> None:
    """The reference lists each key of a drain with its default; what is done at the deadline needs one."""
    defaults = {row[0].strip("`"): row[1].strip("`") for row in _rows("drain")}
    assert defaults.pop("at_deadline") == DrainConfig().at_deadline
    assert sorted(defaults) == sorted(set(keys_of(DrainConfig)) - {"at_deadline"})
    assert DrainConfig.model_validate({"quiet": defaults["quiet"]}) == DrainConfig()
    assert (defaults["deadline"], DrainConfig().deadline) == ("none", None)


@pytest.mark.parametrize("kind", CHECKS)
def test_every_key_of_a_check_is_explained(kind: str) -> None:
    """The reference lists each key of each type of check with its default."""
    model, least = CHECKS[kind]
    defaults = {}
    for key, default, kinds, _ in _rows("A check"):
        named = re.findall(r"`(\w+)`", kinds)
        if kinds.startswith("all but") != (kind in named) or kinds in {"", "all"}:
            defaults[key.strip("`")] = default.strip("`")
    _assert_explained(model, {"type": kind, **least}, defaults)


def test_every_policy_is_explained() -> None:
    """The reference lists each policy."""
    assert [row[0].strip("`") for row in _rows("Policies")] == list(get_args(Policy))
