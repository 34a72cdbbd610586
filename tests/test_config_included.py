# SPDX-License-Identifier: Apache-2.0
"""Configurations of several files: what they are together, and mistakes across them."""

from pathlib import Path

import pytest

from poise.config import ConfigError, load
from tests.configs import assert_mistakes, write

WHOLE = "interfaces: [eth0]\ninclude: conf.d\n"

# Files by name; mistakes as in test_config_mistakes.
MISTAKES = {
    "keys of another file": {
        "poise.yaml": WHOLE,
        "conf.d/a.yaml": """\
interfaces: [eth1]  # ! an included file has no key "interfaces": it belongs to the configuration
vip: []  # ! an included file has no key "vip": did you mean "vips"?
pools: {}  # ! "pools" must be a list, not keys with values
vips:
  - {address: 192.0.2.1, port: 80, servers: []}
""",
    },
    "VIPs and names that are already in another file": {
        "poise.yaml": WHOLE + "vips: [{address: 192.0.2.1, port: 80, name: web, servers: []}]\n",
        "conf.d/a.yaml": """\
pools:
  - {name: a, servers: []}
vips:
  - {address: 192.0.2.1, port: 80, name: x, servers: []}  # ! VIP 192.0.2.1:80 is already in {at}/poise.yaml:3
  - {address: 192.0.2.2, port: 80, name: web, servers: []}  # ! already that of the VIP in {at}/poise.yaml:3
""",
        "conf.d/b.yaml": """\
pools:
  - name: a  # ! name "a" is already that of the pool in {at}/conf.d/a.yaml:2
    servers: []
""",
    },
    "servers of another file's VIP": {
        "poise.yaml": WHOLE,
        "conf.d/a.yaml": """\
vips:
  - address: 192.0.2.1
    port: 80
    servers:
      - {address: 10.0.0.1, port: 80}
      - {address: 192.0.2.9, port: 80}  # ! is the VIP in {at}/conf.d/b.yaml:2
""",
        "conf.d/b.yaml": """\
vips:
  - address: 192.0.2.9
    port: 80
    servers:
      - {address: 10.0.0.1, port: 80}  # ! is already in {at}/conf.d/a.yaml:5 for another VIP
""",
    },
    "pools": {
        "poise.yaml": WHOLE,
        "conf.d/a.yaml": """\
pools:
  - name: web
    servers:
      - {address: 10.0.0.1, port: 80}
      - {address: 10.0.0.1, port: 80}  # ! is already on line 4: keep one of the two
      - {address: 10.0.0.2, port: 80, name: x}
      - {address: 10.0.0.3, port: 80, name: x}  # ! already that of the server on line 6
  - servers: []  # ! a pool has no "name"
  - name: six
    server: []  # ! a pool has no key "server": did you mean "servers"?
  - name: odd
    servers: [{address: 10.0.0.9, port: 0}]  # ! port 0 is out of range
""",
        "conf.d/b.yaml": """\
vips:
  - {address: 192.0.2.1, port: 80, pool: wbe}  # ! there is no pool "wbe": did you mean "web"?
  - {address: 192.0.2.1, port: 81, pool: other}  # ! there is no pool "other": write it under `pools`
  - {address: 192.0.2.1, port: 82, pool: six, servers: []}  # ! either servers or a pool
  - {address: 192.0.2.1, port: 83}  # ! has no "servers": write them, like
  - {address: 192.0.2.1, port: 84, pol: six}  # ! did you mean "pool"?
  - {address: 192.0.2.1, port: 85, pool: 7}  # ! put it in quotes, "7"
""",
    },
    "a pool that two VIPs name": {
        "poise.yaml": WHOLE,
        "conf.d/a.yaml": """\
pools:
  - {name: web, servers: [{address: 10.0.0.1, port: 80}, {address: 10.0.0.2, port: 80}]}
  - {name: other, servers: [{address: 10.0.0.2, port: 80}]}
vips:
  - {address: 192.0.2.1, port: 80, pool: web}
  - {address: 192.0.2.1, port: 80, name: udp, protocol: udp, pool: web}
""",
        "conf.d/b.yaml": """\
vips:
  - {address: 192.0.2.2, port: 80, pool: web}  # ! "web" is already that of the VIP in {at}/conf.d/a.yaml:5
  - {address: 192.0.2.3, port: 80, pool: other}  # ! server 10.0.0.2:80 is already in {at}/conf.d/a.yaml:2
""",
    },
    "a pool of the other family": {
        "poise.yaml": WHOLE,
        "conf.d/a.yaml": """\
pools:
  - name: mixed
    servers:
      - {address: 10.0.0.1, port: 80}
      - {address: "2001:db8::1", port: 80}
""",
        "conf.d/b.yaml": """\
vips:
  - {address: 192.0.2.2, port: 80, pool: mixed}  # ! an IPv6 server in {at}/conf.d/a.yaml:5, but the
""",
    },
    "a VIP in a direct prefix of another file": {
        "poise.yaml": WHOLE + "direct: [192.0.2.0/24]\n",
        "conf.d/a.yaml": """\
vips:
  - {address: 192.0.2.2, port: 80, servers: []}  # ! in the direct prefix 192.0.2.0/24 in {at}/poise.yaml:3
""",
    },
    "more VIPs than there is room for": {
        "poise.yaml": WHOLE + "vip_limit: 16\n",
        "conf.d/a.yaml": "vips:\n"
        + "\n".join(f"  - {{address: 192.0.2.{i}, port: 80, servers: []}}" for i in range(1, 17)),
        "conf.d/b.yaml": """\
vips:
  - {address: 192.0.2.17, port: 80, servers: []}  # ! too many for a vip_limit of 16: write `vip_limit: 32`
""",
    },
    "no VIP anywhere": {
        "poise.yaml": "interfaces: [eth0]\ninclude: conf.d  # ! there is no VIP\n",
        "conf.d/a.yaml": "# nothing yet\n",
    },
    "broken YAML beside other mistakes": {
        "poise.yaml": WHOLE + "direct: 7  # ! must be a list\n",
        "conf.d/a.yaml": "vips: [  # ! a bracket above is not closed\n",
        "conf.d/b.yaml": "vips: [{address: 192.0.2.1, port: 0, servers: []}]  # ! port 0 is out of range\n",
    },
}


@pytest.mark.parametrize("files", MISTAKES.values(), ids=MISTAKES)
def test_every_mistake_at_its_line(tmp_path: Path, files: dict[str, str]) -> None:
    """Every mistake is reported in its own file and line, and names the other place with its file."""
    assert_mistakes(tmp_path, {name: text.replace("{at}", str(tmp_path)) for name, text in files.items()})


def test_together(tmp_path: Path) -> None:
    """The files are one configuration, in their order, and VIPs have the servers of the pools they name."""
    config = load(
        write(
            tmp_path,
            {
                "poise.yaml": WHOLE + "vips: [{address: 192.0.2.1, port: 80, name: first, pool: web}]\n",
                "conf.d/20.yaml": "vips: [{address: 192.0.2.3, port: 80, name: third, servers: []}]\n",
                "conf.d/10.yaml": "vips: [{address: 192.0.2.2, port: 80, name: second, servers: []}]\n",
                "conf.d/30.yaml": "pools: [{name: web, servers: [{address: 10.0.0.1, port: 80, name: a}]}]\n",
                "conf.d/.hidden.yaml": "no: configuration\n",
                "conf.d/README": "no configuration, either\n",
            },
        )
    )
    assert [vip.name for vip in config.vips] == ["first", "second", "third"]
    assert [server.name for server in config.vips[0].servers] == ["a"]
    assert config.vips[0].pool == "web"
    assert [pool.name for pool in config.pools] == ["web"]


def test_absolute_include(tmp_path: Path) -> None:
    """The directory is taken from the configuration's own, or is an absolute path."""
    files = {
        "poise.yaml": f"interfaces: [eth0]\ninclude: {tmp_path}/more\n",
        "more/a.yaml": "vips: [{address: 192.0.2.1, port: 80, servers: []}]\n",
    }
    assert len(load(write(tmp_path, files)).vips) == 1


@pytest.mark.parametrize(
    ("files", "file", "sentence"),
    [
        ({}, "conf.d", "there is no such directory: make it, or leave `include` out"),
        ({"conf.d": "a file"}, "conf.d", "cannot be read as a directory"),
        ({"conf.d/a\nb.yaml": ""}, "conf.d", 'the file "a\\nb.yaml" cannot be told in messages'),
        ({"conf.d/a.yml": ""}, "conf.d/a.yml", "is not read: call it a.yaml, or move it away"),
        ({"conf.d/a.yaml/b": ""}, "conf.d/a.yaml", "this is a directory"),
        ({"conf.d/a.yaml": "#" * (4 << 20) + "\n"}, "conf.d/a.yaml", "larger than 4 MiB"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, files: dict[str, str], file: str, sentence: str) -> None:
    """What is wrong with an included file as a whole is one sentence with its path."""
    path = write(
        tmp_path, {"poise.yaml": WHOLE + "vips: [{address: 192.0.2.1, port: 80, servers: []}]\n", **files}
    )
    with pytest.raises(ConfigError) as raised:
        load(path)
    [mistake] = raised.value.mistakes
    assert (mistake.file, mistake.line) == (str(tmp_path / file), None)
    assert sentence in mistake.message


def test_too_much_together(tmp_path: Path) -> None:
    """All files together are bounded: the first one that is too much is told, and no others are read."""
    files = {f"conf.d/{i:02}.yaml": "#" * (4 << 20) for i in range(18)}
    path = write(
        tmp_path, {"poise.yaml": WHOLE + "vips: [{address: 192.0.2.1, port: 80, servers: []}]\n", **files}
    )
    with pytest.raises(ConfigError) as raised:
        load(path)
    [mistake] = raised.value.mistakes
    assert (Path(mistake.file).name, "larger than 64 MiB together" in mistake.message) == ("15.yaml", True)


def test_not_utf8(tmp_path: Path) -> None:
    """A byte that is not UTF-8 is reported with its file and line."""
    path = write(tmp_path, {"poise.yaml": WHOLE, "conf.d/a.yaml": ""})
    (tmp_path / "conf.d" / "a.yaml").write_bytes(b"vips: []\n# caf\xe9\n")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert (str(tmp_path / "conf.d" / "a.yaml"), 2) in {
        mistake[:2] for mistake in raised.value.mistakes if "0xe9" in mistake.message
    }


def test_mistakes_in_the_order_of_the_files(tmp_path: Path) -> None:
    """Mistakes come file by file, and line by line in each."""
    vips = "vips:\n  - {address: 192.0.2.%d, port: 0, servers: []}\n  - {address: 192.0.2.%d, port: 0}\n"
    files = {"poise.yaml": WHOLE, "conf.d/b.yaml": vips % (1, 2), "conf.d/a.yaml": vips % (3, 4)}
    with pytest.raises(ConfigError) as raised:
        load(write(tmp_path, files))
    assert [(Path(each.file).name, each.line) for each in raised.value.mistakes] == [
        *(("a.yaml", 2), ("a.yaml", 3), ("a.yaml", 3)),
        *(("b.yaml", 2), ("b.yaml", 3), ("b.yaml", 3)),
    ]
