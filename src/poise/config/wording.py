# SPDX-License-Identifier: Apache-2.0
"""Say what pydantic found in the words of someone who writes poise.yaml or calls the API."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from poise.config.yaml_lines import Finding, Location, show

_EXAMPLES: Final = {
    "address": "address: 192.0.2.10",
    "direct": "direct: [10.0.0.0/8]",
    "interfaces": "interfaces: [eth0, eth1]",
    "port": "port: 80",
    "servers": "servers: [{address: 10.0.0.1, port: 8080}]",
    "quic_ids": "quic_ids: [{config: 0}]",
    "vips": "vips: [{address: 192.0.2.10, port: 80, servers: []}]",
}


class Place(NamedTuple):
    """What a mapping is called in a sentence ("a server"), and its model."""

    name: str
    model: type[BaseModel]


Places = Mapping[str, Place]
"""By the key of the list in which a mapping stands; "" for the outermost one, which comes first."""


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
        kind, location = error["type"], error["loc"]
        meant_by_unknown = kind == "missing" and location in meant
        if kind != "default_factory_not_called" and not meant_by_unknown:
            yield Finding(location, _sentence(error, places), at_key=kind == "extra_forbidden")


def _sentence(error: ErrorDetails, places: Places) -> str:
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
        case "model_type":
            keys = ", ".join(f"{name}:" for name in _place(location, places).model.model_fields)
            sentence = (
                f"{_place(location, places).name} must have keys ({keys}), not be {show(error['input'])}"
            )
        case "list_type":
            sentence = f'"{key}" must be a list, not {show(error["input"])}: write one{example}'
        case "too_short":
            sentence = f'"{key}" is empty: write at least one{example}'
        case "literal_error":
            choices = str(error["ctx"]["expected"]).replace("'", '"')
            sentence = f"{key} {show(error['input'])} is unknown: write {choices}"
        case _:
            sentence = f"{key}: {error['msg']}"
    return sentence


def _place(location: Location, places: Places) -> Place:
    """The mapping at a location, which is an item of a list unless it is the outermost one."""
    return places[str(location[-2]) if len(location) > 1 else ""]


def _guess(location: Location, places: Places) -> str | None:
    """The key that an unknown key was meant to be."""
    key = str(location[-1]).lower().replace("-", "_")
    known = _place(location[:-1], places).model.model_fields
    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def _unknown_key(location: Location, places: Places) -> str:
    here = _place(location[:-1], places).name
    mistake = f"{here} has no key {show(location[-1])}"
    if guess := _guess(location, places):
        return f'{mistake}: did you mean "{guess}"?'
    for place in places.values():
        if place.name != here and location[-1] in place.model.model_fields:
            return f"{mistake}: it belongs to {place.name}"
    known = ", ".join(_place(location[:-1], places).model.model_fields)
    return f"{mistake}: write one of {known}"
