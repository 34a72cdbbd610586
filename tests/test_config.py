# SPDX-License-Identifier: Apache-2.0
import tempfile
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from poise.config import Config, ConfigError, ServerConfig, VipConfig, load
from tests.configs import EXAMPLES, mistakes_in

MINIMAL = (EXAMPLES / "minimal.yaml").read_text()

# What is wrong with a file as a whole: content, part of the message.
UNUSABLE = {
    "empty": (b"", "the file is empty"),
    "only comments": (b"# nothing yet\n", "the file is empty"),
    "only the word null": (b"---\nnull\n", "the file is empty"),
    "large": (b"#" * (4 << 20) + b"\n", "larger than 4 MiB"),
}


@pytest.mark.parametrize(("content", "part"), UNUSABLE.values(), ids=UNUSABLE)
def test_file_that_cannot_be_used(tmp_path: Path, content: bytes, part: str) -> None:
    """What is wrong with the whole file is one sentence without a line."""
    [mistake] = mistakes_in(tmp_path, content)
    assert (mistake.line, part in mistake.message) == (None, True), mistake


def test_not_utf8(tmp_path: Path) -> None:
    """A byte that is not UTF-8 is reported with its line."""
    [mistake] = mistakes_in(tmp_path, b"interfaces: [eth0]\n# caf\xe9\n")
    assert (mistake.line, "0xe9" in mistake.message) == (2, True)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("absent.yaml", "there is no such file"),
        (".", "this is a directory"),
        ("a\0b", "check the path"),
        ("poise.yaml/x", "cannot be read"),
    ],
)
def test_no_file(tmp_path: Path, path: str, sentence: str) -> None:
    """A path that leads to no file is one sentence with the path."""
    (tmp_path / "poise.yaml").touch()
    with pytest.raises(ConfigError, match=sentence) as raised:
        load(tmp_path / path)
    assert str(raised.value).startswith(f"{tmp_path / path}: ")


def test_too_many_servers(tmp_path: Path) -> None:
    """The 513th server of a VIP is too many, and does not hide mistakes in those before it."""
    servers = [f"      - {{address: 10.0.{i // 256}.{i % 256}, port: 80}}" for i in range(1, 514)]
    servers[7] = servers[7].replace("80", "0")
    head = "interfaces: [eth0]\nvips:\n  - address: 192.0.2.1\n    port: 80\n    servers:\n"
    few, many = mistakes_in(tmp_path, head + "\n".join(servers))
    assert (few.line, "out of range" in few.message) == (5 + 8, True)
    assert (many.line, "513 servers in a VIP are too many" in many.message) == (5 + 513, True)


def test_expansion_bomb(tmp_path: Path) -> None:
    """Aliases that would expand to a billion values are refused without expanding them."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert len(mistakes_in(tmp_path, "\n".join(levels))) > 90


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(example: Path) -> None:
    """What users start from has no mistakes."""
    load(example)


def test_minimal_example_is_short() -> None:
    """Ten lines are enough for a configuration."""
    assert len(MINIMAL.splitlines()) <= 10


def test_values() -> None:
    """Values are read as written, and what is not written has its default."""
    config = load(EXAMPLES / "two-interfaces.yaml")
    assert config.interface_names == ["eth0", "eth1"]
    assert config.direct == [IPv4Network("10.9.0.0/16"), IPv6Network("2001:db8:9::/48")]
    assert config.id_rest == 24 * 3600
    assert [vip.name for vip in config.vips] == ["web", "web-tls", "web-quic", "web6"]
    assert config.vips[0].servers[1].address == IPv4Address("10.0.0.2")
    assert [server.weight for server in config.vips[0].servers] == [1, 2]
    assert config.vips[3].address == IPv6Address("2001:db8::10")
    minimal = load(EXAMPLES / "minimal.yaml")
    assert minimal.vips[0].name == "192.0.2.10:80"
    assert minimal == Config(interfaces=minimal.interfaces, vips=minimal.vips)


@pytest.mark.parametrize(
    ("written", "seconds"), [("5", 5), ("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800)]
)
def test_durations(tmp_path: Path, written: str, seconds: int) -> None:
    """A duration is a number of seconds, or a number with its unit."""
    file = tmp_path / "poise.yaml"
    file.write_text(f"{MINIMAL}id_rest: {written}\n")
    assert load(file).id_rest == seconds


def test_interfaces_with_tags(tmp_path: Path) -> None:
    """An interface is its name alone, or a name with the tags of its frames."""
    file = tmp_path / "poise.yaml"
    text = MINIMAL.replace("[eth0, eth1]", "[eth0, {name: eth1, vlans: [100, 10]}]")
    file.write_text(text)
    config = load(file)
    assert [(interface.name, interface.vlans) for interface in config.interfaces] == [
        ("eth0", []),
        ("eth1", [100, 10]),
    ]


def test_line_endings_and_mark(tmp_path: Path) -> None:
    """A file saved by an editor of another system is read all the same."""
    file = tmp_path / "poise.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load(file) == load(EXAMPLES / "minimal.yaml")


def test_models_in_python() -> None:
    """Models made in Python name themselves, cannot be changed, and check their values, too."""
    server = ServerConfig(address=IPv4Address("10.0.0.1"), port=80)
    assert server.name == "10.0.0.1:80"
    assert ServerConfig(address=IPv6Address("2001:DB8::1"), port=80).name == "[2001:db8::1]:80"
    with pytest.raises(ValidationError, match="frozen"):
        server.port = 81  # type: ignore[misc]  # that is what must fail
    with pytest.raises(ValidationError, match="multicast"):
        VipConfig(address=IPv4Address("224.0.0.1"), port=80, servers=[])


PIECES = st.sampled_from(
    [
        *MINIMAL.split(" "),
        *"\n\n\n\t:-[]{},&*!|>?'\"#%@`~<=\\\x07\x85\u2028\ufeff",
        *("  ", "    ", "- ", ": ", "\n? ", "\n---\n", "...", "%YAML 9.9\n", "&a ", "*a", "<<: "),
        *("!!int ", "!!set ", "!x%0ay ", "\\x0", '"\\ud800"', "9" * 5000, "192.0.2.1/8", "::1"),
        *("off", "010", "1:30", "0x1", "-0", "1e3", ".inf", "null", "2026-11-22"),
    ]
)


@pytest.fixture(scope="module")
def any_file() -> Path:
    """A file for hypothesis to write to, again and again."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        return Path(file.name)


def assert_only_mistakes(file: Path, content: bytes) -> None:
    """The content is a configuration, or has mistakes of one line each, within the file."""
    file.write_bytes(content)
    try:
        load(file)
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        return
    last = len(content.decode(errors="replace").splitlines()) or 1
    assert mistakes
    for mistake in mistakes:
        assert mistake.line is None or 1 <= mistake.line <= last
        assert len(str(mistake).splitlines()) == 1
        assert str(mistake).encode()


@settings(deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join), st.integers(0, len(MINIMAL)), st.integers(0, 9))
def test_only_config_errors(any_file: Path, text: str, start: int, length: int) -> None:
    """Whatever is written into a configuration or instead of it, load raises nothing but ConfigError."""
    assert_only_mistakes(any_file, text.encode())
    assert_only_mistakes(any_file, (MINIMAL[:start] + text + MINIMAL[start + length :]).encode())


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_only_config_errors_for_bytes(any_file: Path, content: bytes) -> None:
    """Whatever bytes a file has, load raises nothing but ConfigError."""
    assert_only_mistakes(any_file, content)
