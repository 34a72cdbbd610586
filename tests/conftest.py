# SPDX-License-Identifier: Apache-2.0
"""Tests marked `root` are skipped without root, and none may be skipped where the environment has CI=true."""

import os
import signal
from collections.abc import Generator

import pytest

SKIPPED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SKIPPED] = []
    # A run that was started in the background, or by nohup, ignores these, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root (network namespaces, BPF)"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected_to_fail = hasattr(report, "wasxfail")  # reported as skipped, too
    if report.skipped and not expected_to_fail and item.get_closest_marker("root"):
        item.config.stash[SKIPPED].append(item.nodeid)
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _forbidden(session.config) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    forbidden = _forbidden(config)
    if forbidden:
        terminalreporter.section("CI=true, but root tests were skipped: failed", red=True)
        terminalreporter.write("".join(f"{test}\n" for test in forbidden))


def _forbidden(config: pytest.Config) -> list[str]:
    return config.stash[SKIPPED] if os.environ.get("CI") == "true" else []
