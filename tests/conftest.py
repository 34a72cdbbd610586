# SPDX-License-Identifier: Apache-2.0
"""Tests marked `root` are skipped without root, and none may be skipped where the environment has CI=true."""

import os
import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Skipped(), "skipped-root-tests")
    # A run that was started in the background, or by nohup, ignores these, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root (network namespaces, BPF)"))


class _Skipped:
    """Fails a run of CI in which root tests were skipped, by the reports, which come together."""

    def __init__(self) -> None:
        self._tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        expected_to_fail = hasattr(report, "wasxfail")  # reported as skipped, too
        if (
            os.environ.get("CI") == "true"
            and report.skipped
            and not expected_to_fail
            and "root" in report.keywords
        ):
            self._tests.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._tests and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._tests:
            terminalreporter.section("CI=true, but root tests were skipped: failed", red=True)
            terminalreporter.write("".join(f"{test}\n" for test in self._tests))
