# SPDX-License-Identifier: Apache-2.0
"""What README and docs/ say, held against the code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from starlette.routing import Route
from typer.main import get_command

from poise.api.routes import application
from poise.cli import app
from poise.config.model import Config, InterfaceConfig, QuicIdsConfig, ServerConfig, VipConfig
from tests.api.serving import ListFacade
from tests.cli import reference

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
REFERENCE = ROOT / "docs" / "reference"

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

_SERVER = {"address": "10.0.0.1", "port": 8080}
_VIP = {"address": "192.0.2.10", "port": 80, "servers": [_SERVER]}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text())


def _commands(page: Path) -> Iterator[list[str]]:
    """Each `poise ...` or `make ...` that a page shows as a span or a line of code, in words."""
    lines = [line for _, block in _FENCED.findall(page.read_text()) for line in block.splitlines()]
    spans = (span.replace("\n", " ") for span in _SPAN.findall(_prose(page)))
    for text in (*lines, *spans):
        words = re.sub(r"^(\$ )?(sudo )?", "", text)
        if re.match(r"(poise|make)( [a-z]|$)", words):
            yield shlex.split(words, comments=True)


def _rows(page: Path, heading: str = "") -> list[list[str]]:
    """The cells of all table rows below a heading, or of the whole page."""
    text = page.read_text()
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def _slugs(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_shows_the_smallest_example() -> None:
    """The configuration in README is examples/minimal.yaml to the letter, and the only one there."""
    blocks = [
        block for language, block in _FENCED.findall((ROOT / "README.md").read_text()) if language == "yaml"
    ]
    assert blocks == [(ROOT / "examples" / "minimal.yaml").read_text()]


@each_page
def test_commands_exist(page: Path) -> None:
    """Every command that a page shows exists, with its options."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, *words in _commands(page):
        if program == "make":
            assert set(words) <= set(targets), words
            continue
        command: Any = get_command(app)
        for word in words:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
            elif word.startswith("-"):
                options = {option for parameter in command.params for option in parameter.opts}
                assert word in {*options, "--help"}, (page, words)
            else:
                assert not hasattr(command, "commands") or word == "...", (page, words)


@each_page
def test_links_resolve(page: Path) -> None:
    """Every relative link leads to a file of the repository, and its anchor to a heading there."""
    for link in _LINK.findall(_prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in _slugs(target), link


@each_page
def test_files_exist(page: Path) -> None:
    """Every file of the repository that a page names is there."""
    for span in _SPAN.findall(_prose(page)):
        if re.fullmatch(r"(bpf|src|tests|docs|examples|bench|tools)/[\w./*-]*", span):
            assert list(ROOT.glob(span.replace("NAME", "*"))), span


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_functions_are_where_docs_say(page: Path) -> None:
    """A line that names functions and source files names files in which these functions are."""
    for line in _prose(page).splitlines():
        spans = _SPAN.findall(line)
        sources = [span for span in spans if re.search(r"/\w+(\.bpf)?\.(h|c|py)$", span)]
        text = "".join((ROOT / source.removeprefix("../../")).read_text() for source in sources)
        for function in (span for span in spans if sources and span.endswith("()")):
            assert re.search(rf"\b{function[:-2]}\(", text), (function, sources)


def test_functions_on_a_packets_way() -> None:
    """Every function in the picture of a packet's way is in the table below it."""
    way = (ROOT / "docs" / "how-it-works.md").read_text().split("\n## A packet's way\n")[1].split("\n## ")[0]
    [(_, picture)] = _FENCED.findall(way)
    listed = set(re.findall(r"`(\w+)\(\)`", way)) | {"bpf_fib_lookup"}  # which is the kernel's
    assert set(re.findall(r"(\w+)\(\)", picture)) <= listed


def test_every_counter_is_explained() -> None:
    """The reference explains each counter of contract.h once, and no others."""
    contract = (ROOT / "bpf" / "poise" / "contract.h").read_text()
    names = [name.lower() for name in re.findall(r"\bEVENT_(\w+),", contract)]
    rows = [cells[0].strip("`") for cells in _rows(REFERENCE / "counters.md") if cells[0].startswith("`")]
    assert sorted(rows) == sorted(names)


def test_counters_that_other_pages_name() -> None:
    """No page names a counter that does not exist."""
    known = {cells[0].strip("`") for cells in _rows(REFERENCE / "counters.md")} | set(Config.model_fields)
    named = re.findall(
        r"`((?:pass|drop|reset|syn|synack|handshake|no_timestamp|neighbour)_[a-z0-9_]+)`",
        "".join(page.read_text() for page in PAGES),
    )
    assert set(named) <= known


@pytest.mark.parametrize(
    ("heading", "model", "least"),
    [
        ("The whole", Config, {"interfaces": ["eth0"], "vips": [_VIP]}),
        ("A VIP", VipConfig, _VIP),
        ("A server", ServerConfig, _SERVER),
        ("An interface", InterfaceConfig, {"name": "eth0"}),
        ("An item of quic_ids", QuicIdsConfig, {"config": 0}),
    ],
)
def test_every_key_is_explained(heading: str, model: type[BaseModel], least: dict[str, Any]) -> None:
    """The reference lists each key of a configuration with its default, and what is required."""
    documented = {key.strip("`"): default for key, default, _ in _rows(REFERENCE / "config.md", heading)[2:]}
    assert set(documented) == set(model.model_fields)
    assert {key for key, default in documented.items() if default == "required"} == set(least)
    absent = model.model_validate(least)
    for key in documented.keys() - least.keys():
        if documented[key] == "none":
            assert getattr(absent, key) is None
            continue
        default = documented[key].strip("`")
        if key == "name":
            default = default.replace("ADDRESS", least["address"]).replace("PORT", str(least["port"]))
        written = model.model_validate(least | {key: yaml.safe_load(default)})
        assert getattr(written, key) == getattr(absent, key), key


def test_every_request_is_explained() -> None:
    """The reference lists each request of the API."""
    routes = [route for route in application(ListFacade()).routes if isinstance(route, Route)]
    served = {
        (method, route.path.replace(":path", ""))
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    }
    rows = [
        cells[0].strip("`").split(" ") for cells in _rows(REFERENCE / "api.md") if cells[0].startswith("`")
    ]
    assert {(row[0], row[1]) for row in rows if row[0].isupper() and len(row) == 2} == served


def test_commands_reference() -> None:
    """The reference of the commands is what the program says of them; its first line says how to renew it."""
    assert reference.PAGE.read_text() == reference.page()
