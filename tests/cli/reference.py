# SPDX-License-Identifier: Apache-2.0
"""docs/reference/cli.md, made from the commands: `python -m tests.cli.reference` writes it anew."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from poise.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

_INTRODUCTION = """\
# Commands

Made from the program by `python -m tests.cli.reference`; each command tells the same with `--help`.

- What a command prints is a table or a sentence, and with `-o json` or `-o yaml` one value: what the
  [API](api.md) answers, where the command asks it.
- A failure is one sentence on stderr. The exit status is 0 if all went well, 2 if the command was written
  wrongly, 130 after Ctrl-C, and 1 otherwise.
- `poise --install-completion` has the shell complete commands, options, and the names of VIPs and servers.
- Commands that ask a running poise find it by `--socket`, or by the environment variable `POISE_SOCKET`.
"""


def page() -> str:
    """What the page is to say."""
    command = get_command(app)
    names = [" ".join(name) for name, _ in _leaves(command, ("poise",))]
    contents = "\n".join(f"- [`{name}`](#{name.replace(' ', '-')})" for name in names)
    sections = "\n".join(_section(name, leaf) for name, leaf in _leaves(command, ("poise",)))
    return f"{_INTRODUCTION}\n{contents}\n\n{sections}"


def _leaves(command: Any, name: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401  # typer's
    for verb, each in getattr(command, "commands", {}).items():
        if hasattr(each, "commands"):
            yield from _leaves(each, (*name, verb))
        else:
            yield (*name, verb), each


def _section(name: tuple[str, ...], command: Any) -> str:  # noqa: ANN401  # typer's
    context = command.make_context(" ".join(name), [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    records = [each.get_help_record(context) for each in command.params if each.name != "help"]
    rows = [f"| `{_cell(left)}` | {_cell(right)} |" for left, right in records]
    table = "\n".join(["| Argument or option | Meaning |", "|---|---|", *rows])
    return f"## {' '.join(name)}\n\n`{' '.join(name)} {usage}`\n\n{command.help}\n\n{table}\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
