# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest

from poise.kernel import features
from poise.kernel.features import Feature

pytestmark = pytest.mark.root

XDP = 6  # BPF_PROG_TYPE_XDP


def test_this_kernel_has_what_poise_needs() -> None:
    """On a kernel that runs the other tests, nothing is missing."""
    assert features.missing() == []


@pytest.mark.parametrize(
    "feature",
    [
        Feature("time travel", "Linux 99", program=999),
        Feature("time travel", "Linux 99", program=XDP, helper=9999),
        Feature("time travel", "Linux 99", map=999),
    ],
)
def test_what_the_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch, feature: Feature) -> None:
    """A program type, helper or map type that the kernel does not know is told, with what brings it."""
    monkeypatch.setattr(features, "REQUIRED", (*features.REQUIRED, feature))
    assert features.missing() == ["the kernel lacks time travel: poise needs Linux 99"]


def test_a_root_that_may_not_use_bpf_is_told_once() -> None:
    """In a container without the capabilities, one sentence says so, not one for each feature."""
    run = "from poise.kernel import features; print(*features.missing(), sep='\\n')"
    without = "--bounding-set=-bpf,-sys_admin,-net_admin"
    command = ["setpriv", without, "--inh-caps=-all", sys.executable, "-c", run]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (sentence,) = done.stdout.splitlines()
    assert sentence.startswith("this machine does not let poise load XDP programs: ")
    assert "CAP_BPF" in sentence
