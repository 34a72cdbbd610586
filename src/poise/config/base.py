# SPDX-License-Identifier: Apache-2.0
"""What all models of poise.yaml have in common."""

from pydantic import BaseModel, ConfigDict


class Written(BaseModel):
    """A mapping of poise.yaml: it cannot be changed, and has no other keys than its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys of a mapping, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]
