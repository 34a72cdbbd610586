# SPDX-License-Identifier: Apache-2.0
"""Say what pydantic found in the words of someone who writes poise.yaml or calls the API."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from poise.config.asked import is_secret
from poise.config.base import keys_of
from poise.config.yaml_lines import Finding, Location, Unquoted, show

_EXAMPLES: Final = {
    "address": "address: 192.0.2.10",
    "direct": "direct: [10.0.0.0/8]",
    "interfaces": "interfaces: [eth0, eth1]",
    "checks": "checks: [{type: http}]",
    "command": "command: [/usr/local/bin/check-web]",
    "pools": "pools: [{name: web, servers: []}]",
    "port": "port: 80",
    "status": "status: [200-299]",
    "servers": "servers: [{address: 10.0.0.1, port: 8080}]",
    "quic_ids": "quic_ids: [{config: 0}]",
    "vips": "vips: [{address: 192.0.2.10, port: 80, servers: []}]",
}
_SECRETS: Final = {"key_file", "token_file", "token_env"}


class Place(NamedTuple):
    """What a mapping is called in a sentence ("a server"), and its model."""

    name: str
    model: type[BaseModel]


Places = Mapping[str, Place]
"""By the key of a mapping, or of the list in which it stands; "" for the outermost one, which comes first.

A mapping of which there are several kinds has one for each, by what tells them apart.
"""


def findings(errors: Iterable[ErrorDetails], places: Places) -> Iterator[Finding]:
    """One sentence an error, with its location.

    A missing key is left out where an unknown key beside it must have meant it.
    """
    found = list(errors)
    meant = {
        (*error["loc"][:-1], guess)
        for error in found
        if error["type"] == "extra_forbidden" and (guess := _guess(error["loc"], places))
    }
    for error in found:
        kind, location = error["type"], _plain(error["loc"])
        meant_by_unknown = kind == "missing" and error["loc"] in meant
        if kind == "union_tag_invalid":
            location = (*location, "type")
        if kind != "default_factory_not_called" and not meant_by_unknown:
            yield Finding(location, _sentence(error, places), at_key=kind == "extra_forbidden")


def closest(text: object, known: Iterable[str]) -> str | None:
    """What a misspelt word was meant to be, if that can be told."""
    wanted = str(text).lower().replace("-", "_")
    by_spelling = {word.lower().replace("-", "_"): word for word in known}
    return next((by_spelling[word] for word in difflib.get_close_matches(wanted, by_spelling, n=1)), None)


def unknown_value(what: str, value: object, choices: Sequence[str]) -> str:
    """The sentence on a value that is none of the choices."""
    shown = value.text if isinstance(value, Unquoted) else value
    if isinstance(shown, str) and (guess := closest(shown, choices)):
        return f'{what} {show(value)} is unknown: did you mean "{guess}"?'
    quoted = [f'"{choice}"' for choice in choices]
    wanted = " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
    return f"{what} {show(value)} is unknown: write {wanted}"


def _sentence(error: ErrorDetails, places: Places) -> str:  # noqa: C901  # one case a kind of error
    location = error["loc"]
    key = str(location[-1]) if location else ""
    example = f", like `{_EXAMPLES[key]}`" if key in _EXAMPLES else ""
    match error["type"]:
        case "value_error":
            sentence = str(error["ctx"]["error"])
        case "missing":
            sentence = f'{_place(location[:-1], places).name} has no "{key}": write it{example}'
        case "extra_forbidden":
            sentence = _unknown_key(location, places)
        case "model_type" | "model_attributes_type":
            keys = ", ".join(f"{name}:" for name in keys_of(_place(location, places).model))
            sentence = (
                f"{_place(location, places).name} must have keys ({keys}), not be {show(error['input'])}"
            )
        case "list_type":
            sentence = f'"{key}" must be a list, not {show(error["input"])}: write one{example}'
        case "too_short":
            sentence = f'"{key}" is empty: write at least one{example}'
        case "too_long":
            limits = error["ctx"]
            sentence = f'"{key}" has {limits["actual_length"]} items: write at most {limits["max_length"]}'
        case "literal_error":
            sentence = unknown_value(key, error["input"], _quoted(error["ctx"]["expected"]))
        case "union_tag_not_found":
            sentence = f'{_place(location, places).name} has no "type": write it, like `type: http`'
        case "union_tag_invalid":
            sentence = unknown_value("type", error["input"]["type"], _quoted(error["ctx"]["expected_tags"]))
        case _:
            sentence = f"{key}: {error['msg']}"
    return sentence


def _quoted(choices: object) -> list[str]:
    """The choices in pydantic's words: 'a', 'b' or 'c'."""
    return re.findall(r"'([^']*)'", str(choices))


def _plain(location: Location) -> Location:
    """Where a value is written: pydantic's location without the kinds of checks."""
    for at, step in enumerate(location):
        if step == "checks" and len(location) > at + 2:
            return location[: at + 2] + location[at + 3 :]
    return location


def _place(location: Location, places: Places) -> Place:
    """The mapping at a location: an item of a list, one with a key of its own, or the outermost one."""
    if location and isinstance(location[-1], int):
        return places[str(location[-2])]
    return places[str(location[-1]) if location else ""]


def _guess(location: Location, places: Places) -> str | None:
    """The key that an unknown key was meant to be."""
    return closest(location[-1], keys_of(_place(location[:-1], places).model))


def _unknown_key(location: Location, places: Places) -> str:
    here = _place(location[:-1], places)
    mistake = f"{here.name} has no key {show(location[-1])}"
    if is_secret(str(location[-1])):
        instead = [key for key in keys_of(here.model) if key in _SECRETS]
        wanted = " or ".join(instead) or "it elsewhere"
        return f"{mistake}, as secrets do not belong in the configuration: write {wanted}"
    if guess := _guess(location, places):
        return f'{mistake}: did you mean "{guess}"?'
    for place in places.values():
        if place.name != here.name and location[-1] in keys_of(place.model):
            return f"{mistake}: it belongs to {place.name}"
    return f"{mistake}: write one of {', '.join(keys_of(here.model))}"
