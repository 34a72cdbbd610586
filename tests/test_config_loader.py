# SPDX-License-Identifier: Apache-2.0
"""Loading again: what changed is new, what did not is the same, and both are the same as loading afresh."""

import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poise.config import Config, ConfigError, Loader
from tests.configs import write

WHOLE = "interfaces: [eth0]\ninclude: conf.d\nvip_limit: 512\n"
POOL = "pools: [{{name: p{0}, servers: [{{address: 10.0.0.{0}, port: {1}}}]}}]\n"
VIP = "vips: [{{address: 192.0.2.{0}, port: 80, name: v{0}, pool: p{0}}}]\n"


def _files(port: int = 80) -> dict[str, str]:
    names = {f"conf.d/{i}.yaml": POOL.format(i, port) + VIP.format(i) for i in (1, 2, 3)}
    return {"poise.yaml": WHOLE, **names}


def test_only_what_changed_is_new(tmp_path: Path) -> None:
    """VIPs of files that did not change are the same objects; the digest changes with any content."""
    loader = Loader(write(tmp_path, _files()))
    before, digest = loader.load(), loader.digest
    again = loader.load()
    assert all(new is old for new, old in zip(again.vips, before.vips, strict=True))
    assert loader.digest == digest
    write(tmp_path, {"conf.d/2.yaml": _files(port=81)["conf.d/2.yaml"]})
    after = loader.load()
    assert [new is old for new, old in zip(after.vips, before.vips, strict=True)] == [True, False, True]
    assert [vip.servers[0].port for vip in after.vips] == [80, 81, 80]
    assert loader.digest != digest
    write(tmp_path, _files())
    loader.load()
    assert loader.digest == digest


def test_pool_of_another_file(tmp_path: Path) -> None:
    """A VIP is new when its pool has changed, wherever that is written."""
    files = {"poise.yaml": WHOLE + VIP.format(1), "conf.d/1.yaml": POOL.format(1, 80)}
    loader = Loader(write(tmp_path, files))
    loader.load()
    write(tmp_path, {"conf.d/1.yaml": POOL.format(1, 81)})
    assert loader.load().vips[0].servers[0].port == 81


def test_mistake_and_back(tmp_path: Path) -> None:
    """After a load that failed, the digest is that of the last good one, and the next load finds all."""
    loader = Loader(write(tmp_path, _files()))
    before, digest = loader.load(), loader.digest
    write(tmp_path, {"conf.d/2.yaml": POOL.format(2, 80) + VIP.format(2).replace("192.0.2.2", "192.0.2.1")})
    with pytest.raises(ConfigError, match="is already in"):
        loader.load()
    assert loader.digest == digest
    write(tmp_path, _files())
    assert loader.load() == before


class Reloading(RuleBasedStateMachine):
    """Changes files at random; a loader that has seen them all must find what a new one finds."""

    directory: Path
    loader: Loader

    numbers = st.integers(1, 4)

    @rule(name=numbers, vip=numbers, pool=numbers, port=st.integers(80, 82), udp=st.booleans())
    def write_file(self, name: int, vip: int, pool: int, port: int, *, udp: bool) -> None:
        """Writes a file; VIPs and servers of several files may well be the same."""
        text = POOL.format(pool, port) + VIP.format(vip)
        if udp:
            text = text.replace("name: v", "protocol: udp, name: u")
        write(self.directory, {f"conf.d/{name}.yaml": text})

    @rule(name=numbers)
    def remove_file(self, name: int) -> None:
        """Removes a file, if there is one."""
        (self.directory / "conf.d" / f"{name}.yaml").unlink(missing_ok=True)

    @invariant()
    def finds_what_a_new_one_finds(self) -> None:
        """The same configuration, or the same mistakes in the same words."""
        assert _outcome(self.loader) == _outcome(Loader(self.directory / "poise.yaml"))


def _outcome(loader: Loader) -> Config | list[str]:
    try:
        return loader.load()
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes]


def test_reloading_is_loading(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever changes between loads, loading again finds what loading afresh finds."""

    class Machine(Reloading):
        def __init__(self) -> None:
            super().__init__()
            self.directory = tmp_path_factory.mktemp("reloading")
            self.loader = Loader(write(self.directory, {"poise.yaml": WHOLE, "conf.d/README": ""}))

    Machine.TestCase.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
    Machine.TestCase().runTest()


def _many(vips: int, servers: int) -> dict[str, str]:
    """As many VIPs, each in a file of its own with a pool of as many servers."""
    files = {"poise.yaml": WHOLE}
    for vip in range(vips):
        place = f"{vip // 256}.{vip % 256}"
        lines = "".join(
            f"      - {{name: s{i}, address: 10.{place}.{i % 250 + 1}, port: {i // 250 + 1}, "
            f"weight: {i % 9 + 1}}}\n"
            for i in range(servers)
        )
        files[f"conf.d/{vip:03}.yaml"] = (
            f"pools:\n  - name: p{vip}\n    servers:\n{lines}"
            f"vips:\n  - {{address: 198.{place}.1, port: 80, pool: p{vip}, checks: [{{type: http}}]}}\n"
        )
    return files


def _seconds(loader: Loader) -> float:
    begun = time.process_time()
    loader.load()
    return time.process_time() - begun


def _seconds_after_a_change(directory: Path, loader: Loader, text: str) -> float:
    """The least of three, as others may use the machine, too."""
    seconds = []
    for weight in (11, 12, 13):
        write(directory, {"conf.d/007.yaml": text.replace("weight: 3", f"weight: {weight}")})
        seconds.append(_seconds(loader))
    return min(seconds)


def test_time_to_load(tmp_path: Path) -> None:
    """Loading takes less than 40 us a server, and again after a change of one file of 500 less than 60 ms."""
    files = _many(32, 500)
    loader = Loader(write(tmp_path, files))
    assert _seconds(loader) < 32 * 500 * 40e-6
    assert _seconds_after_a_change(tmp_path, loader, files["conf.d/007.yaml"]) < 0.060


@pytest.mark.slow
def test_time_to_load_the_largest(tmp_path: Path) -> None:
    """512 VIPs of 500 servers load in less than 10 s, and again after a change in less than 60 ms."""
    files = _many(512, 500)
    loader = Loader(write(tmp_path, files))
    assert _seconds(loader) < 10
    assert len(loader.load().vips) == 512
    assert _seconds_after_a_change(tmp_path, loader, files["conf.d/007.yaml"]) < 0.060
