# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.servers import decide, state
from poise.servers.model import Layout, Mode, Model, Protocol, QuicIds
from tests.servers.models import wanted, wanted_vip


def model_of(*numbers: int) -> Model:
    """A VIP with these servers, the first of them drained."""
    model = decide.reconcile(Model(), [wanted_vip(1, *map(wanted, numbers))], 1.5, 10)
    return decide.drain(model, model.vips[0], f"web{numbers[0]}", 2.5)


def test_a_model_outlives_the_process(tmp_path: Path) -> None:
    """What is saved is what is loaded; where nothing was saved, there is nothing."""
    path = tmp_path / "new" / "servers.json"
    assert state.load_model(path) == Model()
    state.save_model(path, model_of(1, 2))
    assert state.load_model(path) == model_of(1, 2)


def test_a_model_of_ipv6_and_quic_outlives_the_process(tmp_path: Path) -> None:
    """Addresses, protocols, modes, layouts and weights are saved; keys of connection ids are not."""
    path = tmp_path / "servers.json"
    wish = replace(
        wanted_vip(1, wanted(1, version=6, weight=7), version=6, protocol=Protocol.QUIC),
        mode=Mode.STATEFUL,
        layout=Layout.MSB,
        quic_ids=(QuicIds(0, 2, 6, b"\xfe" * 16),),
    )
    model = decide.reconcile(Model(), [wish], 1.5, 10)
    state.save_model(path, model)
    assert state.load_model(path) == Model((replace(model.vips[0], quic_ids=()),))
    assert decide.reconcile(state.load_model(path), [wish], 1.5, 10) == model


def test_a_model_of_the_first_poise_is_read(tmp_path: Path) -> None:
    """What was saved before there were protocols and weights is of TCP, and of equal weights."""
    path = tmp_path / "servers.json"
    path.write_text("""{"vips": [{"index": 0, "name": "vip1", "address": "192.0.2.1", "port": 80,
        "policy": "round-robin", "servers": [{"id": 0, "name": "web1", "address": "10.0.0.1", "port": 8080,
        "state": "drain", "since": 2.5, "declared": true}]}]}""")
    assert state.load_model(path) == model_of(1)


def test_a_power_cut_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    """A process that is killed again and again while it saves never leaves a file that cannot be read."""
    path = tmp_path / "servers.json"
    models = [model_of(*range(1, 60)), model_of(60, 61)]
    state.save_model(path, models[0])
    program = """
import sys
from pathlib import Path
from poise.servers import state
path = Path(sys.argv[1])
models = [state.load_model(Path(argument)) for argument in sys.argv[2:]]
while True:
    for model in models:
        state.save_model(path, model)
        print("saved", flush=True)
"""
    files = [tmp_path / f"{number}.json" for number in range(len(models))]
    for file, model in zip(files, models, strict=True):
        state.save_model(file, model)
    for saves in (3, 7, 20):
        command = [sys.executable, "-c", program, str(path), *map(str, files)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as saving:
            assert saving.stdout
            assert [saving.stdout.readline() for _ in range(saves)] == [b"saved\n"] * saves
            saving.send_signal(signal.SIGKILL)
        assert state.load_model(path) in models


def test_what_a_power_cut_left_behind_does_not_matter(tmp_path: Path) -> None:
    """A half-written new file is neither read nor a hindrance, and its permissions are not inherited."""
    path = tmp_path / "servers.json"
    state.save_model(path, model_of(1))
    rest = tmp_path / "servers.json.new"
    rest.write_text('{"vips": [{"ind')
    rest.chmod(0o666)
    assert state.load_model(path) == model_of(1)
    state.save_model(path, model_of(2))
    assert state.load_model(path) == model_of(2)
    assert path.stat().st_mode & 0o022 == 0
    assert not rest.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"vips": [{"index": 0}]}',
        b'{"vips": 1}',
    ],
)
def test_a_damaged_model_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    """A file that cannot be understood is told in one sentence with the ways out, and is not overwritten."""
    path = tmp_path / "servers.json"
    path.write_bytes(content)
    with pytest.raises(
        PoiseError, match=rf"^cannot read the server ids in {path} \(.+\): restore it "
    ) as fault:
        state.load_model(path)
    assert "\n" not in str(fault.value)
    assert path.read_bytes() == content


def test_ids_that_are_there_twice_are_damage(tmp_path: Path) -> None:
    """A file in which two servers have one id, two VIPs one index, or an id is no id, is not believed."""
    path = tmp_path / "servers.json"
    model = model_of(1, 2)
    (vip,) = model.vips
    first, second = vip.servers
    for broken in (
        Model((replace(vip, servers=(first, replace(second, id=first.id))),)),
        Model((replace(vip, servers=(replace(first, id=512),)),)),
        Model((replace(vip, index=-1),)),
        Model((vip, vip)),
    ):
        state.save_model(path, broken)
        with pytest.raises(PoiseError, match=r" \(an id is there twice or out of range\): "):
            state.load_model(path)


def test_a_key_is_made_once_and_for_root_alone(tmp_path: Path) -> None:
    """The key is random, stays the same, and nobody else can read it, whatever the umask."""
    before = os.umask(0)
    try:
        keys = [state.load_key(tmp_path / name) for name in ("a", "a", "b")]
    finally:
        os.umask(before)
    assert keys[0] == keys[1] != keys[2]
    assert {len(key) for key in keys} == {16}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Who knows the key can choose the server of a connection: a file that others can read is no key."""
    path = tmp_path / "cookie.key"
    state.load_key(path)
    path.chmod(mode)
    with pytest.raises(
        PoiseError, match=rf"^the cookie key {path} can be read by others .*`chmod 600 {path}`$"
    ):
        state.load_key(path)


@pytest.mark.parametrize("content", [b"", b"00", b"\xff" * 32, b"xy" * 16])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """A key that is no key is told, not made anew: another key would break every connection."""
    path = tmp_path / "cookie.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(
        PoiseError, match=rf"^the cookie key {path} is not 16 bytes in hexadecimal: restore it$"
    ):
        state.load_key(path)
    assert path.read_bytes() == content


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Where the state directory cannot be, one sentence names the file."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "servers.json"
    with pytest.raises(PoiseError, match=rf"^cannot write {path}: "):
        state.save_model(path, Model())


@pytest.mark.parametrize("content", [bytes(range(16)), bytes(range(16)).hex().encode() + b"\n"])
def test_a_key_of_connection_ids_is_bytes_or_digits(tmp_path: Path, content: bytes) -> None:
    """A key file holds the 16 bytes themselves, or 32 hexadecimal digits."""
    path = tmp_path / "quic.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert state.load_quic_key(path) == bytes(range(16))


@pytest.mark.parametrize(
    ("content", "mode", "mistake"),
    [
        (b"", 0o600, "is neither 16 bytes nor 32 hexadecimal digits"),
        (bytes(17), 0o600, "is neither 16 bytes nor 32 hexadecimal digits"),
        (b"0" * 31, 0o600, "is neither 16 bytes nor 32 hexadecimal digits"),
        (bytes(16), 0o640, "can be read by others"),
        (bytes(16), 0o604, "can be read by others"),
        (None, 0o600, "No such file"),
    ],
)
def test_a_key_of_connection_ids_that_is_none_is_refused(
    tmp_path: Path, content: bytes | None, mode: int, mistake: str
) -> None:
    """A key file that is missing, damaged or open to others is told, and none is made in its place."""
    path = tmp_path / "quic.key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(PoiseError, match=rf"{path}.*{mistake}"):
        state.load_quic_key(path)
    assert path.exists() == (content is not None)
