# SPDX-License-Identifier: Apache-2.0
"""Times, fractions and truth values in poise.yaml.

As in `fields`, each parser raises ValueError with a sentence.
"""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

from poise.config.yaml_lines import Unquoted, show

_TIME: Final = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s|m|h|d)")
_PERCENT: Final = re.compile(r"(0|[1-9][0-9]{0,2})%")
_UNIT_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DAY: Final = 86_400_000
_YEAR: Final = 365 * _DAY


def _milliseconds(value: object, what: str, lowest: int, highest: int) -> int:
    """A time that is written as a number of seconds, or with its unit."""
    if isinstance(value, int) and not isinstance(value, bool):
        milliseconds = value * 1000
    elif isinstance(value, str) and (parts := _TIME.fullmatch(value)):
        milliseconds = int(parts[1]) * _UNIT_MILLISECONDS[parts[2]]
    elif value is None:
        raise ValueError(f"{what} has no value: write one like {write_time(lowest or 1000)}")
    else:
        example = "500ms, 2s or 1m" if lowest < 1000 else "90s, 30m, 24h or 7d"
        raise ValueError(f"{what} {show(value)} is not understood: write seconds, or like {example}")
    if not lowest <= milliseconds <= highest or (lowest >= 1000 and milliseconds % 1000):
        bounds = f"from {write_time(lowest)} to {write_time(highest)}"
        raise ValueError(f"{what} {show(value)} is out of range: write one {bounds}")
    return milliseconds


def write_time(milliseconds: float) -> str:
    """A time as it is written in poise.yaml, in its largest whole unit."""
    for unit, size in reversed(_UNIT_MILLISECONDS.items()):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size:.0f}{unit}"
    return "0s"


def parse_duration(value: object) -> int:
    """A time in seconds, 1 s to 365 d, from a number of seconds or text like 90s, 30m, 24h or 7d."""
    return _milliseconds(value, "duration", 1000, _YEAR) // 1000


def _name(info: ValidationInfo) -> str:
    return info.field_name or "time"


def parse_interval(value: object, info: ValidationInfo) -> float:
    """Seconds between two looks at something, or that it may take: 100 ms to 1 h."""
    return _seconds(value, info, 100, 3_600_000)


def parse_span(value: object, info: ValidationInfo) -> float:
    """Seconds of something that goes on for a while: 1 s to 7 d."""
    return _seconds(value, info, 1000, 7 * _DAY)


def parse_slow_start(value: object, info: ValidationInfo) -> float:
    """Seconds of a slow start: none, or up to 1 h."""
    return _seconds(value, info, 0, 3_600_000)


def _seconds(value: object, info: ValidationInfo, lowest: int, highest: int) -> float:
    if isinstance(value, float):  # of a model that was made in Python
        return value
    return _milliseconds(value, _name(info), lowest, highest) / 1000


def parse_percent(value: object, info: ValidationInfo) -> float:
    """A fraction, written as a whole number with %: 0% to 100%."""
    return _fraction(value, info, 0, 100)


def parse_jitter(value: object, info: ValidationInfo) -> float:
    """The fraction of an interval that is left to chance: 0% to 50%."""
    return _fraction(value, info, 0, 50)


def parse_alpha(value: object, info: ValidationInfo) -> float:
    """The alpha of AWRR: 0% to 90%."""
    return _fraction(value, info, 0, 90)


def _fraction(value: object, info: ValidationInfo, lowest: int, highest: int) -> float:
    if isinstance(value, float):  # of a model that was made in Python
        return value
    what = info.field_name or "fraction"
    wanted = f"write one from {lowest}% to {highest}%"
    if isinstance(value, str) and (parts := _PERCENT.fullmatch(value)):
        if lowest <= int(parts[1]) <= highest:
            return int(parts[1]) / 100
        raise ValueError(f"{what} {value} is out of range: {wanted}")
    if value is None:
        raise ValueError(f"{what} has no value: {wanted}")
    raise ValueError(f"{what} {show(value)} is not a percentage: {wanted}")


def parse_truth(value: object, info: ValidationInfo) -> bool:
    """A truth value: true or false, the two that all YAML readers understand alike."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Unquoted) and value.text in {"true", "false"}:
        return value.text == "true"
    raise ValueError(f"{info.field_name} {show(value)} is not a truth value: write true or false")


# The titles tell `schema` how a default is written.
TIME: Final = "time"
PERCENTAGE: Final = "percentage"

_TIME_SCHEMA: Final = WithJsonSchema(
    {
        "title": TIME,
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_TIME.pattern}$"}],
    }
)
_PERCENT_SCHEMA: Final = WithJsonSchema(
    {"title": PERCENTAGE, "type": "string", "pattern": f"^{_PERCENT.pattern}$"}
)

Duration = Annotated[int, BeforeValidator(parse_duration), _TIME_SCHEMA]
Interval = Annotated[float, BeforeValidator(parse_interval), _TIME_SCHEMA]
Span = Annotated[float, BeforeValidator(parse_span), _TIME_SCHEMA]
OptionalSpan = Annotated[float | None, BeforeValidator(parse_span), _TIME_SCHEMA]
SlowStart = Annotated[float, BeforeValidator(parse_slow_start), _TIME_SCHEMA]
Percent = Annotated[float, BeforeValidator(parse_percent), _PERCENT_SCHEMA]
Jitter = Annotated[float, BeforeValidator(parse_jitter), _PERCENT_SCHEMA]
Alpha = Annotated[float, BeforeValidator(parse_alpha), _PERCENT_SCHEMA]
Truth = Annotated[bool, BeforeValidator(parse_truth), WithJsonSchema({"type": "boolean"})]
