# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of poise.yaml, for editors that complete and check what is written."""

from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from poise.config.measures import PERCENTAGE, TIME, write_time
from poise.config.model import Config, Included

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Writes defaults as they are written in YAML, and leaves out titles that only repeat the key."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """The schema of a value with a default."""
        found = super().default_schema(schema)
        default = found.get("default")
        if default is None:
            found.pop("default", None)
        elif found.get("title") == TIME:
            found["default"] = write_time(1000 * default)
        elif found.get("title") == PERCENTAGE:
            found["default"] = f"{default:.0%}"
        else:
            found["default"] = _written(default)
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401  # pydantic's union of schemas
        """Whether a key gets a title."""
        del schema
        return False


def _written(default: object) -> object:
    """A default as it is written in YAML."""
    match default:
        case dict():
            return {}  # a mapping without keys has all of its defaults
        case [{"config": config}]:
            return [{"config": config}]
        case [[lowest, highest]]:
            return [f"{lowest}-{highest}"]
        case _:
            return default


def schema() -> dict[str, Any]:
    """The schema of a configuration; that of the files in its `include` directory is at #/$defs/Included."""
    models, whole = models_json_schema(
        [(Config, "validation"), (Included, "validation")], schema_generator=_Generator
    )
    definitions = whole["$defs"]
    config = definitions.pop(models[Config, "validation"]["$ref"].rpartition("/")[2])
    config["required"] = ["interfaces"]
    config["anyOf"] = [{"required": ["vips"]}, {"required": ["include"]}]
    del config["properties"]["vips"]["minItems"]
    vip = definitions["VipConfig"]
    vip["oneOf"] = [{"required": ["servers"]}, {"required": ["pool"]}]
    _tidy([config, definitions])
    return {"$schema": _DIALECT, "title": "poise.yaml", **config, "$defs": dict(sorted(definitions.items()))}


def _tidy(value: object) -> None:
    """Take the titles away: they only say what kind of value it is, or repeat a model's name."""
    if isinstance(value, dict):
        value.pop("title", None)
        for each in value.values():
            _tidy(each)
    elif isinstance(value, list):
        for each in value:
            _tidy(each)
