# SPDX-License-Identifier: Apache-2.0
"""What stands in YAML: text, whole numbers, nothing, and what readers of YAML disagree on."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import yaml

_TAG: Final = "tag:yaml.org,2002:"
_CLIP: Final = 60  # characters of a value in a message
_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_TEXT_KINDS: Final = {"str", "merge", "value", "yaml"}  # `<<` and `=` mean nothing special in a value
_ODD_KINDS: Final = {"bool": "a truth value", "float": "a number", "int": "a number", "timestamp": "a date"}
_RESOLVER: Final = yaml.resolver.Resolver()


@dataclass(frozen=True)
class Unquoted:
    """A plain YAML scalar that is neither text nor a decimal number, like `off`, `1.5`, `010` or `10:50`.

    YAML readers disagree on what most of them mean; of all, only `true` and `false` are ever accepted.
    """

    text: str
    kind: str


def show(value: object) -> str:
    """A value as a message shows it: one line, not too long."""
    match value:
        case None:
            shown = "nothing"
        case list():
            shown = "a list"
        case dict():
            shown = "keys with values"
        case Unquoted():
            shown = value.text
        case str():
            text = value if len(value) <= _CLIP else f"{value[:_CLIP]}..."
            shown = json.dumps(text, ensure_ascii=not text.isprintable())
        case _:
            shown = str(value)
    return shown


@lru_cache(maxsize=1 << 14)
def plain(text: str) -> str | int | Unquoted | None:
    """The value of a scalar without quotes and tag."""
    if text.count(".") > 1:  # no number and no date has two: most are addresses
        return text
    return scalar(text, _resolve(text, (True, False)))


def scalar(text: str, kind: str, *, quoted: bool = False) -> str | int | Unquoted | None:
    """The value of a scalar of a kind that YAML knows; None for one that is empty or not supported."""
    if kind in _TEXT_KINDS:
        return text
    if kind == "int" and _DECIMAL.fullmatch(text):
        return int(text)
    if kind in _ODD_KINDS and not quoted:
        return Unquoted(text, _ODD_KINDS[kind])
    return None


def kind_of(event: yaml.ScalarEvent) -> str:
    """What a scalar is in YAML's words: str, int, null, ...; a tag of one's own as it is written."""
    tag = event.tag
    if tag is None or tag == "!":
        return _resolve(event.value, event.implicit)
    return str(tag).removeprefix(_TAG)


def _resolve(text: str, implicit: tuple[bool, bool]) -> str:
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, implicit)  # type: ignore[no-untyped-call]  # in types-PyYAML
    return str(tag).removeprefix(_TAG)
