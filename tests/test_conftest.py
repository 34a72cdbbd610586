# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SKIPPED_ROOT_TEST = """
import pytest

@pytest.mark.root
def test_of_the_kernel():
    pytest.skip("the kernel lacks something")
"""
OTHER_SKIPPED_TESTS = """
import pytest

def test_without_root():
    pytest.skip("not today")

@pytest.mark.root
@pytest.mark.xfail
def test_that_is_known_to_fail():
    raise AssertionError
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two processes"])
@pytest.mark.parametrize(
    ("tests", "ci", "status"),
    [
        (SKIPPED_ROOT_TEST, "true", pytest.ExitCode.TESTS_FAILED),
        (SKIPPED_ROOT_TEST, "", pytest.ExitCode.OK),
        (OTHER_SKIPPED_TESTS, "true", pytest.ExitCode.OK),
    ],
)
def test_ci_tolerates_no_skipped_root_test(
    tmp_path: Path, tests: str, ci: str, status: pytest.ExitCode, options: tuple[str, ...]
) -> None:
    """A machine that cannot run the root tests cannot pass CI; elsewhere they may be skipped."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(REPOSITORY / "tests/conftest.py", tmp_path / "tests")
    (tmp_path / "tests/test_some.py").write_text(tests)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"CI": ci},
    )
    assert result.returncode == status, result.stdout
    assert ("tests/test_some.py::test_of_the_kernel" in result.stdout) == (status != pytest.ExitCode.OK)
