# SPDX-License-Identifier: Apache-2.0
"""What a server reports of its load, read with suspicion: nobody has checked what it runs. Pure."""

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from poise.errors import PoiseError
from poise.servers.care import LoadKind, LoadSource
from poise.servers.model import Server

LARGEST_BODY: Final = 1 << 16  # bytes
LARGEST: Final = 1e15
_AGENT_URL: Final = "http://{address}:9110/load"
_AGENT_METRIC: Final = "cpu"
_AGENT_LATENCY: Final = "latency_ms"
_SHOWN: Final = 40  # characters of what was not understood


class BadReport(PoiseError):
    """An answer that says nothing of the load."""


@dataclass(frozen=True)
class Report:
    """What a server said: its load, and its latency in milliseconds if it was asked for and there is one."""

    load: float
    latency: float | None = None


def url_of(source: LoadSource, server: Server) -> str:
    """Return what is asked for a server's load."""
    host = f"[{server.address}]" if server.address.version == 6 else str(server.address)
    pattern = source.url or _AGENT_URL
    return pattern.replace("{address}", host).replace("{port}", str(server.port))


def read(body: bytes, source: LoadSource, url: str) -> Report:
    """Return what an answer says; raises BadReport."""
    if len(body) > LARGEST_BODY:
        raise BadReport(f"{url} answered with more than {LARGEST_BODY >> 10} KiB, which cannot be a load")
    is_agent = source.kind is LoadKind.AGENT
    answer = _parse(body, url)
    load = _number(answer, source.metric or (_AGENT_METRIC if is_agent else None), url)
    path = source.latency or (_AGENT_LATENCY if is_agent else None)
    if path is None or (source.latency is None and not _has(answer, path)):
        return Report(load)
    return Report(load, _number(answer, path, url))


def _parse(body: bytes, url: str) -> Any:  # noqa: ANN401 - JSON may be anything
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        start = body[:_SHOWN].decode(errors="replace")
        raise BadReport(f"{url} answered neither a number nor JSON, but {start!r}") from None


def _has(answer: object, path: str) -> bool:
    """Whether there is something at a path of one name."""
    return isinstance(answer, dict) and answer.get(path) is not None


def _number(answer: Any, path: str | None, url: str) -> float:  # noqa: ANN401
    what = f"the answer of {url}"
    if path is None and isinstance(answer, dict | list):
        raise BadReport(f"{url} answered JSON of more than a number: name the number's path under `metric`")
    for name in path.split(".") if path else ():
        answer = _member(answer, name, f"{url} answered JSON without {path}")
        what = f"{path} of {url}"
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise BadReport(f"{what} is {_shown(answer)}, which is not a number")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise BadReport(f"{what} is {_shown(answer)}, which is not finite")
    if answer < 0:
        raise BadReport(f"{what} is {_shown(answer)}, but a load is not negative")
    if answer > LARGEST:
        raise BadReport(f"{what} is {_shown(answer)}, more than {LARGEST:g}: no load is so large")
    return float(answer)


def _member(answer: Any, name: str, fault: str) -> Any:  # noqa: ANN401
    if isinstance(answer, dict) and name in answer:
        return answer[name]
    if isinstance(answer, list) and name.isdecimal() and len(name) < 6 and int(name) < len(answer):
        return answer[int(name)]
    raise BadReport(fault)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
