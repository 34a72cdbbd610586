# SPDX-License-Identifier: Apache-2.0
"""Read YAML text into plain data that remembers the line of every key and value."""

import json
import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import yaml

Location: TypeAlias = tuple[str | int, ...]
"""Where a value is: the keys and list indices that lead to it, as in pydantic's errors."""

_TAG: Final = "tag:yaml.org,2002:"
_ALIAS: Final = "alias"
_CLIP: Final = 60  # characters of a value in a message
_DEPTH: Final = 20  # poise.yaml needs 5 levels; far fewer than Python's recursion limit
_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_TEXT_KINDS: Final = {"str", "merge", "value", "yaml"}  # `<<` and `=` mean nothing special in a value
_ODD_KINDS: Final = {"bool": "a truth value", "float": "a number", "int": "a number", "timestamp": "a date"}
_SYNTAX: Final = (  # the beginning of PyYAML's wording, then ours
    ("found character '\\t'", "a tab cannot indent YAML: use spaces"),
    ("mapping values are not allowed", "a colon where no key can be: indent alike, quote text with a colon"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("but found another document", "a second document begins here: keep everything before the `---`"),
    ("found undefined alias", "aliases like `*name` are not supported: write the plain value"),
)
_UNFINISHED: Final = (  # the same, for mistakes on the line where something began
    ("could not find expected ':'", "a key without a colon: write `key: value`"),
    ("expected ',' or", "a bracket of this line is not closed, or a comma is missing before line {stop}"),
    ("found unexpected end of stream", "a quote of this line is not closed"),
)


@dataclass(frozen=True)
class Unquoted:
    """A plain YAML scalar that is neither text nor a decimal number, like `off`, `1.5`, `010` or `10:50`.

    YAML readers disagree on what most of them mean, so that no field of poise.yaml accepts one.
    """

    text: str
    kind: str


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


@dataclass
class Document:
    """A YAML text as plain data: dict, list, str, int, None and Unquoted.

    Of a key that is written twice, the first value counts. What was wrong with the text is in `faults`.
    """

    data: object = None
    lines: dict[Location, int] = field(default_factory=dict)
    key_lines: dict[Location, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, location: Location, *, at_key: bool = False) -> int:
        """The line of the value at `location` (or of its key), else that of the nearest value around it."""
        if at_key and location in self.key_lines:
            return self.key_lines[location]
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


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


def read(text: str) -> Document:
    """Read one YAML document; never raises, the faults are in the result."""
    document = Document()
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"character U+{error.character:04X} is not allowed in YAML: remove it"
        document.faults.append(Fault(None, line, message))
        return document
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        document.faults.append(_syntax_fault(error, last_line=max(1, len(text.splitlines()))))
    except (ValueError, OverflowError):  # PyYAML's scanner hands numbers of any size to chr() and int()
        message = "not valid YAML: a number in an escape or directive is too large"
        document.faults.append(Fault(None, loader.line + 1, message))
    else:
        if root is not None:
            document.data = _value(root, (), document)
    return document


class _Loader(yaml.SafeLoader):
    """Composes nodes without expanding aliases, and not deeper than poise.yaml can be."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]  # so in types-PyYAML
            return yaml.ScalarNode(_ALIAS, event.anchor, event.start_mark, event.end_mark)
        if self.depth == _DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # so in types-PyYAML
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _syntax_fault(error: yaml.MarkedYAMLError, last_line: int) -> Fault:
    mark = error.problem_mark or error.context_mark
    stop = min(mark.line + 1, last_line) if mark else 1
    problem = error.problem or error.context or "unknown problem"
    if error.context_mark:
        for beginning, message in _UNFINISHED:
            if problem.startswith(beginning):
                return Fault(
                    None, error.context_mark.line + 1, f"not valid YAML: {message.format(stop=stop)}"
                )
    message = next((message for beginning, message in _SYNTAX if problem.startswith(beginning)), problem)
    return Fault(None, stop, f"not valid YAML: {message}")


def _value(node: yaml.Node, location: Location, document: Document) -> object:
    """Plain data for a node; records lines and faults in the document."""
    line = document.lines[location] = _line(node)
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, location, document)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(item, (*location, index), document) for index, item in enumerate(node.value)]
    value = _scalar(node, kind) if isinstance(node, yaml.ScalarNode) else None
    if value is None and kind != "null":
        tag = show(node.tag.replace(_TAG, "!!"))
        what = f"aliases like `*{node.value}`" if kind == _ALIAS else f"tags like {tag}"
        document.faults.append(Fault(location, line, f"{what} are not supported: write the plain value"))
    return value


def _scalar(node: yaml.ScalarNode, kind: str) -> str | int | Unquoted | None:
    """The value of a scalar; None for one that is empty or not supported."""
    text = str(node.value)
    if kind in _TEXT_KINDS:
        return text
    if kind == "int" and _DECIMAL.fullmatch(text):
        return int(text)
    if kind in _ODD_KINDS and not node.style:
        return Unquoted(text, _ODD_KINDS[kind])
    return None


def _mapping(node: yaml.MappingNode, location: Location, document: Document) -> dict[str, object]:
    values: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _ALIAS:
            document.faults.append(Fault(None, line, "a key must be a plain word"))
            continue
        if key_node.tag == f"{_TAG}merge":
            message = "merging with `<<` is not supported: write the keys out"
            document.faults.append(Fault(None, line, message))
            continue
        key = str(key_node.value)
        key_location = (*location, key)
        if key in values:
            first = document.key_lines[key_location]
            message = f"the key {show(key)} is already on line {first}: keep one of the two"
            document.faults.append(Fault(None, line, message))
            continue
        document.key_lines[key_location] = line
        values[key] = _value(value_node, key_location, document)
    return values


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 1
