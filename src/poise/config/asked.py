# SPDX-License-Identifier: Apache-2.0
"""What health checks and load signals ask servers, and what must come back.

As in `fields`, each parser raises ValueError with a sentence.
"""

import re
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

from poise.config.addresses import parse_text
from poise.config.fields import parse_whole_number
from poise.config.yaml_lines import show

_STATUSES: Final = re.compile(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|[0-9A-Fa-f:.]{2,45}")
_DNS_NAME: Final = re.compile(r"\.|[A-Za-z0-9_][\w-]{0,62}(\.[A-Za-z0-9_][\w-]{0,62})*\.?", re.ASCII)
_METRIC: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_SECRET: Final = re.compile(r"(?i)passw|passphrase|secret|token|credential|(^|[_-]|api)key$")
_REQUEST_BYTES: Final = 2000  # of a path or URL; servers take up to 8,000 by custom
_PATTERN_BYTES: Final = 1000


def is_secret(key: str) -> bool:
    """Whether a key is called like something that must not be seen by those who may read poise.yaml."""
    return bool(_SECRET.search(key)) and not key.endswith(("_file", "_env"))


def parse_rise(value: object) -> int:
    """Successes in a row."""
    return parse_whole_number(value, "rise", 1, 100)


def parse_fall(value: object) -> int:
    """Failures in a row."""
    return parse_whole_number(value, "fall", 1, 100)


def parse_connections(value: object) -> int:
    """How many new connections it takes to judge a server by."""
    return parse_whole_number(value, "connections", 1, 1_000_000)


def parse_request_path(value: object) -> str:
    """The path of an HTTP request, with its query."""
    path = parse_text(value, "path")
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError(f"path {show(path)} cannot be asked for: begin it with /, and write %20 for a space")
    if len(path) > _REQUEST_BYTES:
        raise ValueError(f"path is longer than {_REQUEST_BYTES} bytes: write a shorter one")
    _refuse_secrets("path", path)
    return path


def parse_host(value: object) -> str:
    """The name of a host, for the Host header and TLS."""
    host = parse_text(value, "host")
    if not _HOST.fullmatch(host):
        raise ValueError(f"host {show(host)} is not a host's name: write one like www.example.com")
    return host


def parse_statuses(value: object) -> tuple[int, int]:
    """The lowest and the highest of a range of HTTP statuses, from a number or text like 200-299."""
    if isinstance(value, tuple):  # of a model that was made in Python
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    parts = _STATUSES.fullmatch(text) if isinstance(text, str) else None
    if parts is None or int(parts[1]) > int(parts[2] or parts[1]):
        raise ValueError(
            f"status {show(value)} is not understood: write one like 200, or a range like 200-299"
        )
    return int(parts[1]), int(parts[2] or parts[1])


def parse_pattern(value: object) -> str:
    """A regular expression of Python's kind."""
    pattern = parse_text(value, "body")
    if len(pattern) > _PATTERN_BYTES:
        raise ValueError(f"body is longer than {_PATTERN_BYTES} characters: write a shorter pattern")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        mistake = f"body {show(pattern)} is not a regular expression ({error})"
        raise ValueError(f"{mistake}: put a \\ before signs that are meant as such") from None
    return pattern


def parse_query(value: object) -> str:
    """A name that a DNS server is asked for."""
    name = parse_text(value, "query")
    if not _DNS_NAME.fullmatch(name) or len(name) > 254:
        raise ValueError(f"query {show(name)} is not a name in DNS: write one like www.example.com, or .")
    return name


def parse_argument(value: object) -> str:
    """One word of a command."""
    argument = parse_text(value, "an item of command")
    if "\0" in argument or not argument.isprintable():
        raise ValueError(f"command cannot be run with {show(argument)}: leave out signs that are not printed")
    return argument


def parse_url(value: object) -> str:
    """A URL with {address} and {port} for those of each server."""
    url = parse_text(value, "url")
    mistake = f"url {show(url)}"
    unknown = set(_PLACEHOLDER.findall(url)) - {"address", "port"}
    if unknown:
        wanted = "write {address} or {port}, or %7B for a brace"
        raise ValueError(f"{mistake} has an unknown part {{{min(unknown)}}}: {wanted}")
    try:
        parts = urlsplit(_PLACEHOLDER.sub("1", url))
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = None, False
    if parts is None or not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{mistake} cannot be asked: write one like http://{{address}}:9110/load")
    if len(url) > _REQUEST_BYTES:
        raise ValueError(f"url is longer than {_REQUEST_BYTES} bytes: write a shorter one")
    if parts.username is not None:
        raise ValueError(
            "url has a user's name or password in it, which do not belong here: write token_file"
        )
    _refuse_secrets("url", url)
    return url


def _refuse_secrets(what: str, url: str) -> None:
    for key, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if is_secret(key):
            raise ValueError(
                f"{what} has a secret in it ({show(key)}), which does not belong here: leave it out"
            )


def parse_metric(value: object, info: ValidationInfo) -> str:
    """The way to a number in JSON, with dots."""
    what = info.field_name or "metric"
    metric = parse_text(value, what)
    if not _METRIC.fullmatch(metric):
        raise ValueError(f"{what} {show(metric)} is not understood: write keys with dots, like load.cpu")
    return metric


def parse_variable(value: object) -> str:
    """The name of an environment variable."""
    variable = parse_text(value, "token_env")
    if not _VARIABLE.fullmatch(variable):
        raise ValueError("token_env is not the name of an environment variable: write one like POISE_TOKEN")
    return variable


def _text(pattern: str = "") -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern} if pattern else {"type": "string"})


def _whole(lowest: int, highest: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": lowest, "maximum": highest})


Rise = Annotated[int, BeforeValidator(parse_rise), _whole(1, 100)]
Fall = Annotated[int, BeforeValidator(parse_fall), _whole(1, 100)]
Connections = Annotated[int, BeforeValidator(parse_connections), _whole(1, 1_000_000)]
RequestPath = Annotated[str, BeforeValidator(parse_request_path), _text("^/[!-~]*$")]
Host = Annotated[str | None, BeforeValidator(parse_host), _text(f"^({_HOST.pattern})$")]
Statuses = Annotated[
    tuple[int, int],
    BeforeValidator(parse_statuses),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 999},
                {"type": "string", "pattern": "^[1-9][0-9]{2}-[1-9][0-9]{2}$"},
            ]
        }
    ),
]
Pattern = Annotated[str | None, BeforeValidator(parse_pattern), _text()]
Query = Annotated[str, BeforeValidator(parse_query), _text()]
Argument = Annotated[str, BeforeValidator(parse_argument), _text()]
Url = Annotated[str | None, BeforeValidator(parse_url), _text("^https?://")]
Metric = Annotated[str | None, BeforeValidator(parse_metric), _text(f"^{_METRIC.pattern}$")]
Variable = Annotated[str | None, BeforeValidator(parse_variable), _text(f"^{_VARIABLE.pattern}$")]
