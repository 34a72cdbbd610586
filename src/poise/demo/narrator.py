# SPDX-License-Identifier: Apache-2.0
"""Tells the audience of a demo what is happening, and how it goes."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status


class Narrator:
    """Sentences that stay, and on a terminal a last line that changes.

    Talks on stderr if stdout is for programs.
    """

    def __init__(self, *, stderr: bool) -> None:
        self._console = Console(stderr=stderr, highlight=False, soft_wrap=True)
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("building the network")
            self._status.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def title(self, text: str) -> None:
        """A part begins."""
        self._console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        """Something has happened."""
        self._console.print(text)

    def show(self, text: str) -> None:
        """How it goes at this moment; replaces what was shown before, and is seen on a terminal only."""
        if self._status is not None:
            self._status.update(text)
