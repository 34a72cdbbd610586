# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema that docs/reference/ publishes, held against the models, the examples and itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from poise.config import ConfigError, load
from poise.config.schema import schema
from tests.configs import EXAMPLES

PUBLISHED = EXAMPLES.parent / "docs" / "reference" / "poise.schema.json"
WHOLE = [*sorted(EXAMPLES.glob("*.yaml")), EXAMPLES / "full" / "poise.yaml"]
INCLUDED = sorted((EXAMPLES / "full" / "conf.d").glob("*.yaml"))

SCHEMA = schema()
OF_WHOLE = Draft202012Validator(SCHEMA)
OF_INCLUDED = Draft202012Validator({"$ref": "#/$defs/Included", "$defs": SCHEMA["$defs"]})


def _faults(validator: Draft202012Validator, text: str) -> list[str]:
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


def _models(schema: object) -> Iterator[dict[str, Any]]:
    """The schemas of all mappings in a schema."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for each in schema.values():
            yield from _models(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _models(each)


def test_published() -> None:
    """The published schema is that of the models; write it anew with `poise schema`."""
    assert json.loads(PUBLISHED.read_text()) == SCHEMA


def test_is_a_schema() -> None:
    """It is valid JSON Schema."""
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_is_described() -> None:
    """Every key has a description, or that of its mapping, but for the one that tells checks apart."""
    for model in _models(SCHEMA):
        for key, value in model["properties"].items():
            assert {"description", "$ref"} & set(value) or key == "type", (model.get("title"), key)


def test_defaults_are_valid() -> None:
    """Every default is written as the key itself would be."""
    number = 0
    for model in _models(SCHEMA):
        for key, value in model["properties"].items():
            if "default" in value:
                number += 1
                validator = Draft202012Validator({**value, "$defs": SCHEMA["$defs"]})
                assert validator.is_valid(value["default"]), (key, value["default"])
    assert number > 50


@pytest.mark.parametrize("example", WHOLE, ids=lambda path: path.name)
def test_examples(example: Path) -> None:
    """The examples fit the schema, as they fit poise."""
    assert _faults(OF_WHOLE, example.read_text()) == []
    load(example)


@pytest.mark.parametrize("example", INCLUDED, ids=lambda path: path.name)
def test_included_examples(example: Path) -> None:
    """The included files of the examples fit the schema of such files, and not that of the whole."""
    assert _faults(OF_INCLUDED, example.read_text()) == []
    assert _faults(OF_WHOLE, example.read_text()) != []


def test_examples_have_every_key() -> None:
    """Each key of the configuration stands in the full example, so that it shows all there is."""
    texts = "".join(path.read_text() for path in (EXAMPLES / "full" / "poise.yaml", *INCLUDED))
    for model in _models(SCHEMA):
        for key in model["properties"]:
            assert f"{key}:" in texts, key


@pytest.mark.parametrize(
    "change",
    [
        ("interfaces:", "interface:"),
        ("interfaces: [eth0, eth1]", "interfaces: []"),
        ("interfaces: [eth0, eth1]", "interfaces: eth0"),
        ("port: 80\n", "port: 0\n"),
        ("port: 80\n", "port: eighty\n"),
        ("    port: 80\n", ""),
        ("address: 192.0.2.10", "address: [192.0.2.10]"),
        ("port: 80\n", "port: 80\n    policy: fastest\n"),
        ("port: 80\n", "port: 80\n    pool: web\n"),
        ("port: 80\n", "port: 80\n    panic: 0.5\n"),
        ("port: 80\n", "port: 80\n    slow_start: 2 minutes\n"),
        ("port: 80\n", "port: 80\n    checks: [{type: ping}]\n"),
        ("port: 80\n", "port: 80\n    checks: [{type: http, colour: red}]\n"),
        ("port: 80\n", "port: 80\n    load: {from: moon}\n"),
        ("port: 80\n", "port: 80\n    load: {source: agent}\n"),
        ("vips:", "vip_limit: 100\nvips:"),
        ("vips:", "key_file: cookie.key\nvips:"),
    ],
    ids=" to ".join,
)
def test_mistakes_that_both_find(tmp_path: Path, change: tuple[str, str]) -> None:
    """What is wrong with the shape of a configuration is wrong for the schema, too."""
    text = (EXAMPLES / "minimal.yaml").read_text()
    assert change[0] in text
    text = text.replace(*change, 1)
    file = tmp_path / "poise.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file)
    assert _faults(OF_WHOLE, text) != []
