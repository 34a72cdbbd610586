# SPDX-License-Identifier: Apache-2.0
"""The script check: a program of the operator's, which exits with 0 if the server is well."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress

from poise.servers.care import Check
from poise.servers.health.judge import Result
from poise.servers.health.target import CannotCheck, Target

_MOST_SAID = 4_096  # bytes of output that are kept
_MOST_SHOWN = 200  # characters of its last line


async def check(target: Target, check: Check) -> Result:
    """Run the command; at the time-out it is killed, with all that it started."""
    began = time.monotonic()
    run = _Run(target, check)
    try:
        async with asyncio.timeout(check.timeout):
            await run.ended
    except TimeoutError:
        return Result(False, time.monotonic() - began, f"did not end within {check.timeout:g} s")
    finally:
        status = run.finish()
    said = run.last_line()
    ending = f"was ended by signal {-status}" if status < 0 else f"exited with {status}"
    return Result(status == 0, time.monotonic() - began, f"{ending}: {said}" if said else ending)


class _Run:
    """One process, in a session and process group of its own."""

    def __init__(self, target: Target, check: Check) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()
        self._said = b""
        self._status: int | None = None
        try:
            # Not asyncio's: that reaps a process by itself, after which its group may be another's.
            self._process = subprocess.Popen(
                check.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(target, check),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise CannotCheck(f"{check.command[0]} cannot be run: {error.strerror}") from None
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._output.fileno(), self._listen)
        self._loop.add_reader(self._pidfd, self._note_end)

    def finish(self) -> int:
        """Kill what is left of its group, reap it, and return its exit status."""
        if self._status is not None:
            return self._status
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Not yet waited for, so its process group cannot belong to anybody else.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._status = self._process.wait()
        self._listen()
        self._loop.remove_reader(self._output.fileno())
        self._output.close()
        return self._status

    def last_line(self) -> str:
        """Return the last line of what it said that is not empty."""
        lines = self._said.decode("utf-8", "replace").split("\n")
        line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return "".join(letter if letter.isprintable() else "?" for letter in line)[:_MOST_SHOWN]

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._output.fileno(), 65_536)
            self._said = (self._said + data)[-_MOST_SAID:]
            if not data:
                self._loop.remove_reader(self._output.fileno())

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self.ended.done():
            self.ended.set_result(None)


def _environment(target: Target, check: Check) -> dict[str, str]:
    """What the script is told, and nothing of the daemon's own environment, which may hold secrets."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "POISE_ADDRESS": str(target.address),
        "POISE_PORT": str(check.port or target.port),
        "POISE_VIP": target.vip,
        "POISE_SERVER": target.server,
    }
