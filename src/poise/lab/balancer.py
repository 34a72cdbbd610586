# SPDX-License-Identifier: Apache-2.0
"""The balancer of a lab: the installed `poise` program, run in a namespace as a user would run it."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from poise.api.client import Client
from poise.errors import PoiseError
from poise.lab.namespaces import LabError, Namespace, end

_READY_WITHIN = 30.0  # seconds: loading and verifying the BPF programs on a busy machine


class Balancer:
    """One `poise up -c FILE` and the client for its socket."""

    def __init__(self, namespace: Namespace, configuration: Path, socket: Path, log: Path) -> None:
        self.namespace = namespace
        self.configuration = configuration
        self.log = log
        self.client = Client(socket)
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running `poise up`."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self, within: float = _READY_WITHIN) -> None:
        """Start it and return once its socket answers; LabError with its log if it does not in time."""
        with self.log.open("a") as log:
            self._process = self.namespace.popen(self._command("up"), stdout=log, stderr=log)
        deadline = time.monotonic() + within
        while not self._answers():
            # Waiting for its end is the pause between two tries, and ends at once when it has failed.
            if time.monotonic() > deadline or self._ended_within(0.05):
                said = self.log.read_text().strip()
                refusal = said.splitlines()[-1:] if self.pid is None else []
                if refusal and refusal[0].startswith("poise: "):  # a sentence for users
                    raise LabError(refusal[0].removeprefix("poise: "))
                raise LabError(f"`poise up` did not start; its log says:\n{said}")

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would; what it pinned stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        if self._process is not None:
            end(self._process)

    def down(self) -> str:
        """`poise down`: returns what it said."""
        return self.namespace.run(self._command("down"))

    def undo(self) -> None:
        """Stop it and take its programs away; also when it never started properly."""
        self.stop()
        with suppress(LabError):
            self.down()

    def _command(self, verb: str) -> list[str]:
        return [str(Path(sys.executable).with_name("poise")), verb, "-c", str(self.configuration)]

    def _ended_within(self, seconds: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _answers(self) -> bool:
        try:
            self.client.status()
        except PoiseError:
            return False
        return True
