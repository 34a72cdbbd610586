# SPDX-License-Identifier: Apache-2.0
"""Read YAML text into plain data; the line of every key and value can be looked up."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

import yaml

from poise.config.values import Unquoted, kind_of, plain, scalar, show

Location: TypeAlias = tuple[str | int, ...]
"""Where a value is: the keys and list indices that lead to it, as in pydantic's errors."""

_DEPTH: Final = 20  # poise.yaml needs 7 levels; far fewer than Python's recursion limit
PARSER: Final[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml's is ten times as fast
_SECOND: Final = "not valid YAML: a second document begins here: keep everything before the `---`"
_SYNTAX: Final = (  # part of the wording of PyYAML or libyaml, then ours
    ("cannot start any token", "text that begins with this sign needs quotes"),
    ("escape code", "an escape in quotes that stands for no character: write the character itself"),
    ("mapping values are not allowed", "a colon where no key can be: indent alike, quote text with a colon"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("node content", "a value is missing here, or a bracket above is not closed"),
    ("expected '-' indicator", "the indentation does not fit the lines above"),
    ("expected key", "the indentation does not fit the lines above"),
    ("expected <document start>", "the indentation does not fit the lines above"),
)
_UNFINISHED: Final = (  # the same, for mistakes on the line where something began
    ("could not find expected ':'", "a key without a colon: write `key: value`"),
    ("expected ',' or", "a bracket of this line is not closed, or a comma is missing before line {stop}"),
    ("found unexpected end of stream", "a quote of this line is not closed"),
)


class Fault(NamedTuple):
    """Something wrong in the text: the value it spoils if any, on which line (from 1), and what."""

    location: Location | None
    line: int
    message: str


class Finding(NamedTuple):
    """Something wrong with a value, or with the key itself: where, and what."""

    location: Location
    message: str
    at_key: bool = False


class Lines(NamedTuple):
    """The lines of values, and of keys."""

    values: dict[Location, int]
    keys: dict[Location, int]


@dataclass
class Document:
    """A YAML text as plain data: dict, list, str, int, None and Unquoted.

    Of a key that is written twice, the first value counts. What was wrong with the text is in `faults`.
    """

    text: str = ""
    data: object = None
    faults: list[Fault] = field(default_factory=list)

    @cached_property
    def lines(self) -> Lines:
        """Found when they are asked for first: a text without mistakes needs none."""
        walk = Walk()
        read_with(walk.read, self.text, [])
        return Lines(walk.lines, walk.key_lines)

    def line(self, location: Location, *, at_key: bool = False) -> int:
        """The line of the value at `location` (or of its key), else that of the nearest value around it."""
        lines, keys = self.lines
        if at_key and location in keys:
            return keys[location]
        while location and location not in lines:
            location = location[:-1]
        return lines.get(location, 1)


def read(text: str) -> Document:
    """Read one YAML document; never raises, the faults are in the result."""
    try:
        return Document(text, _read_plain(PARSER(text)))
    except (_Odd, yaml.YAMLError, ValueError, OverflowError):
        document, walk = Document(text), Walk()
        document.data = read_with(walk.read, text, document.faults)
        document.faults += walk.faults
        return document


class _Odd(Exception):
    """Something that poise.yaml must not have, or cannot have."""


def _read_plain(parser: Any) -> object:  # noqa: ANN401, C901  # PyYAML's parsers have no type in common; fast
    """The data of a text that has nothing odd in it: the quick way."""
    next_event = parser.get_event
    mapping_end, sequence_end = yaml.MappingEndEvent, yaml.SequenceEndEvent

    def value(event: Any, depth: int) -> object:  # noqa: ANN401  # likewise
        kind = type(event)
        if kind is yaml.ScalarEvent:
            if event.tag is not None:
                raise _Odd
            return plain(event.value) if event.implicit[0] else event.value
        if kind is yaml.AliasEvent or depth == _DEPTH or event.tag is not None:
            raise _Odd
        depth += 1
        if kind is yaml.MappingStartEvent:
            values: dict[str, object] = {}
            while type(event := next_event()) is not mapping_end:
                if type(event) is not yaml.ScalarEvent or event.tag is not None:
                    raise _Odd
                key = event.value
                if key in values or (key == "<<" and event.implicit[0]):
                    raise _Odd
                values[key] = value(next_event(), depth)
            return values
        items: list[object] = []
        while type(event := next_event()) is not sequence_end:
            items.append(value(event, depth))
        return items

    next_event()  # of the stream
    if type(next_event()) is yaml.StreamEndEvent:
        return None
    data = value(next_event(), 0)
    next_event()  # of the document's end
    if type(next_event()) is not yaml.StreamEndEvent:
        raise _Odd
    return data


def read_with(read: Callable[[Any], object], text: str, faults: list[Fault]) -> object:
    """The data of any text; what its syntax lacks is a fault, and then there are no data."""
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text, 1 if text.startswith("\ufeff") else 0):
        message = f"character U+{ord(bad[0]):04X} is not allowed in YAML: remove it"
        faults.append(Fault(None, text.count("\n", 0, bad.start()) + 1, message))
        return None
    parser = None
    try:
        parser = PARSER(text)
        return read(parser)
    except yaml.MarkedYAMLError as error:
        faults.append(_syntax_fault(error, text.splitlines() or [""]))
    except yaml.YAMLError as error:  # libyaml's reader
        faults.append(Fault(None, 1, f"not valid YAML: {str(error).splitlines()[0]}"))
    except (ValueError, OverflowError):  # PyYAML's scanner hands numbers of any size to chr() and int()
        message = "not valid YAML: an escape in quotes, or a directive, with too large a number"
        faults.append(Fault(None, getattr(parser, "line", 0) + 1, message))
    return None


def _syntax_fault(error: yaml.MarkedYAMLError, lines: list[str]) -> Fault:
    mark = error.problem_mark or error.context_mark
    stop = min(mark.line + 1, len(lines)) if mark else 1
    problem = error.problem or error.context or "unknown problem"
    if error.context_mark:
        for part, message in _UNFINISHED:
            if part in problem:
                start = min(error.context_mark.line + 1, len(lines))
                return Fault(None, start, f"not valid YAML: {message.format(stop=stop)}")
    message = next((message for part, message in _SYNTAX if part in problem), problem)
    if "cannot start any token" in problem and re.match(r" *\t", lines[stop - 1]):
        message = "a tab cannot indent YAML: use spaces"
    return Fault(None, stop, f"not valid YAML: {message}")


class Walk:
    """Reads a text and keeps the lines of its keys and values, and what poise.yaml must not have."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {}
        self.key_lines: dict[Location, int] = {}
        self.faults: list[Fault] = []

    def read(self, parser: Any) -> object:  # noqa: ANN401  # PyYAML's two parsers have no type in common
        self.next = parser.get_event
        self.next()  # of the stream
        if isinstance(self.next(), yaml.StreamEndEvent):
            return None
        data = self._value(self.next(), ())
        self.next()  # of the document's end
        event = self.next()
        if not isinstance(event, yaml.StreamEndEvent):
            self.faults.append(Fault(None, _line(event), _SECOND))
            return None
        return data

    def _value(self, event: Any, location: Location) -> object:  # noqa: ANN401  # likewise
        """Plain data for what begins with an event."""
        line = self.lines[location] = _line(event)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(location, line, f"aliases like `*{event.anchor}`")
            return None
        if isinstance(event, yaml.ScalarEvent):
            kind = kind_of(event)
            value = scalar(event.value, kind, quoted=bool(event.style))
            if value is None and kind != "null":
                self._refuse(location, line, _tags(kind))
            return value
        if len(location) == _DEPTH:
            raise _too_deep(event)
        odd_tag = event.tag not in {None, "!"}
        if isinstance(event, yaml.MappingStartEvent):
            data: object = self._mapping(location)
            odd_tag = odd_tag and event.tag != "tag:yaml.org,2002:map"
        else:
            data = self._sequence(location)
            odd_tag = odd_tag and event.tag != "tag:yaml.org,2002:seq"
        if odd_tag:
            self._refuse(location, line, _tags(event.tag.removeprefix("tag:yaml.org,2002:")))
            return None
        return data

    def _refuse(self, location: Location, line: int, what: str) -> None:
        self.faults.append(Fault(location, line, f"{what} are not supported: write the plain value"))

    def _sequence(self, location: Location) -> list[object]:
        items: list[object] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            items.append(self._value(event, (*location, len(items))))
        return items

    def _mapping(self, location: Location) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            line = _line(event)
            message, key = self._key(event, location)
            if not message and (first := self.key_lines.get((*location, key))):
                message = f"the key {show(key)} is already on line {first}: keep one of the two"
            if message:
                self.faults.append(Fault(None, line, message))
                self._pass_over(self.next(), len(location) + 1)
                continue
            self.key_lines[*location, key] = line
            values[key] = self._value(self.next(), (*location, key))
        return values

    def _key(self, event: Any, location: Location) -> tuple[str, str]:  # noqa: ANN401  # likewise
        """What is wrong with a key, if anything, and the key."""
        if not isinstance(event, yaml.ScalarEvent):
            self._pass_over(event, len(location) + 1)
            return "a key must be a plain word", ""
        if kind_of(event) == "merge":
            return "merging with `<<` is not supported: write the keys out", ""
        return "", str(event.value)

    def _pass_over(self, event: Any, depth: int) -> None:  # noqa: ANN401  # likewise
        """Read a value that does not count."""
        opened = 0
        while True:
            if isinstance(event, yaml.CollectionStartEvent):
                opened += 1
                if depth + opened > _DEPTH:
                    raise _too_deep(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                opened -= 1
            if not opened:
                return
            event = self.next()


def _tags(kind: str) -> str:
    return f"tags like {show(kind if kind.startswith('!') else f'!!{kind}')}"


def _too_deep(event: Any) -> yaml.MarkedYAMLError:  # noqa: ANN401  # likewise
    return yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1 if event.start_mark else 1


__all__ = ["Document", "Fault", "Finding", "Location", "Unquoted", "read", "show"]
