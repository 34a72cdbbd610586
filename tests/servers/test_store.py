# SPDX-License-Identifier: Apache-2.0
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.servers import decide, reconcile
from poise.servers.care import LoadKind, LoadSource
from poise.servers.decide import WantedVip
from poise.servers.model import Layout, Mode, Model, Policy, Protocol, QuicIds, State
from poise.servers.store import Down, Store
from tests.disks import fill, small_disk
from tests.servers.models import wanted, wanted_vip


def model_of(*numbers: int) -> Model:
    """A VIP with these servers, the first of them drained."""
    model = reconcile.reconcile(Model(), [wanted_vip(1, *map(wanted, numbers))], 1.5, 10)
    return decide.set_state(model, model.vips[0], f"web{numbers[0]}", State.DRAIN, 2.5, deadline=9.5)


def save(path: Path, model: Model) -> None:
    """Save a model as the only one."""
    with Store(path) as store:
        store.save(model.vips)


def load(path: Path) -> Model:
    """What was saved."""
    with Store(path) as store:
        return store.load()


def test_a_model_outlives_the_process(tmp_path: Path) -> None:
    """What is saved is what is loaded; where nothing was saved, there is nothing."""
    path = tmp_path / "new" / "servers.db"
    assert load(path) == Model()
    save(path, model_of(1, 2))
    assert load(path) == model_of(1, 2)


def test_what_poise_yaml_says_is_not_saved(tmp_path: Path) -> None:
    """With the same poise.yaml everything is as before; keys and tokens are never in the file."""
    path = tmp_path / "servers.db"
    wish = replace(
        wanted_vip(1, wanted(1, version=6, weight=7), version=6, protocol=Protocol.QUIC),
        mode=Mode.STATEFUL,
        layout=Layout.MSB,
        quic_ids=(QuicIds(0, 2, 6, b"\xfe" * 16),),
        load=LoadSource(LoadKind.AGENT, token="do not tell"),  # noqa: S106
    )
    model = reconcile.reconcile(Model(), [wish], 1.5, 10)
    save(path, model)
    assert reconcile.reconcile(load(path), [wish], 1.5, 10) == model
    content = path.read_bytes()
    assert b"\xfe" * 16 not in content
    assert b"do not tell" not in content


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    """A change of one VIP leaves the others' rows alone; one that is gone is forgotten with its verdicts."""
    path = tmp_path / "servers.db"
    model = reconcile.reconcile(Model(), [wanted_vip(number) for number in (1, 2, 3)], 0, 1)
    save(path, model)
    changed = replace(model.vips[1], policy=Policy.MAGLEV)
    with Store(path) as store:
        store.save_down(
            {(0, 1): Down("10.0.0.1:80", 5.0, "refused"), (2, 1): Down("10.0.0.1:80", 6.0, "refused")}
        )
        store.save([changed], gone=[2])
        assert store.load().vips == (model.vips[0], changed)
        assert store.down() == {(0, 1): Down("10.0.0.1:80", 5.0, "refused")}


def test_who_was_down_outlives_the_process(tmp_path: Path) -> None:
    """Verdicts against servers are there after a restart, until they are taken back."""
    path = tmp_path / "servers.db"
    with Store(path) as store:
        store.save_down(
            {(0, 1): Down("10.0.0.1:80", 5.0, "answered 503"), (0, 2): Down("10.0.0.1:80", 6.0, "refused")}
        )
        store.save_down({(0, 1): None, (7, 7): None})
    with Store(path) as store:
        assert store.down() == {(0, 2): Down("10.0.0.1:80", 6.0, "refused")}


def test_a_model_of_the_first_poise_is_read(tmp_path: Path) -> None:
    """The ids in a servers.json are taken over: no connection breaks with the new poise."""
    (tmp_path / "servers.json").write_text("""{"vips": [{"index": 0, "name": "vip1", "address": "192.0.2.1",
        "port": 80, "policy": "hash", "servers": [{"id": 3, "name": "web1", "address": "10.0.0.1",
        "port": 8080, "state": "drain", "since": 2.5, "declared": true}]}]}""")
    (vip,) = load(tmp_path / "servers.db").vips
    assert (vip.policy, vip.mode) == (Policy.HASH, Mode.COOKIELESS)
    (server,) = vip.servers
    assert (server.id, server.name, server.state, server.weight) == (3, "web1", State.DRAIN, 1)


def test_a_power_cut_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    """A process that is killed again and again while it saves never leaves half a change behind."""
    path = tmp_path / "servers.db"
    models = [model_of(*range(1, 60)), model_of(60, 61)]
    program = """
import sys
from pathlib import Path
from poise.servers.store import Store
models = [Store(Path(path)).load() for path in sys.argv[2:]]
store = Store(Path(sys.argv[1]))
while True:
    for model in models:
        store.save(model.vips)
        print("saved", flush=True)
"""
    files = [tmp_path / f"{number}.db" for number in range(len(models))]
    for file, model in zip(files, models, strict=True):
        save(file, model)
    for saves in (3, 7, 20):
        command = [sys.executable, "-c", program, str(path), *map(str, files)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as saving:
            assert saving.stdout
            assert [saving.stdout.readline() for _ in range(saves)] == [b"saved\n"] * saves
            saving.send_signal(signal.SIGKILL)
        assert load(path) in models


@pytest.mark.root
def test_a_full_disk_refuses_a_change_and_changes_nothing(tmp_path: Path) -> None:
    """Where there is no room, one sentence says so, what was saved stays; with room again, all goes on."""
    disk = tmp_path / "disk"
    with small_disk(disk, 256):
        with Store(disk / "servers.db") as store:
            store.save(model_of(1, 2).vips)
            fill(disk / "ballast")
            with pytest.raises(PoiseError, match=r"^cannot write .*servers\.db \(.*\): make room") as told:
                store.save(model_of(*range(3, 300)).vips)
            assert "\n" not in str(told.value)
            with pytest.raises(PoiseError, match=r"^cannot write "):
                store.save_down(
                    {(0, number): Down("10.0.0.1:80", 1.0, "refused " * 50) for number in range(500)}
                )
            assert store.load() == model_of(1, 2)
            (disk / "ballast").unlink()
            store.save(model_of(3).vips)
            assert store.load() == model_of(3)
        assert load(disk / "servers.db") == model_of(3)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe" * 100, b"SQLite format 3\0" + bytes(50)])
def test_a_damaged_file_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    """A file that cannot be understood is told in one sentence with the ways out, and is not overwritten."""
    path = tmp_path / "servers.db"
    path.write_bytes(content)
    with pytest.raises(
        PoiseError, match=rf"^cannot read the server ids in {path} \(.+\): restore it "
    ) as told:
        load(path)
    assert "\n" not in str(told.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_damaged_page_is_told(tmp_path: Path, at: float) -> None:
    """Wherever in the file garbage was written, a start says so or finds what was saved."""
    path = tmp_path / "servers.db"
    model = reconcile.reconcile(Model(), [full_vip(number) for number in range(1, 6)], 0, 1)
    save(path, model)
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * at))
        file.write(os.urandom(8192))
    with pytest.raises(PoiseError, match=rf"^cannot read the server ids in {path} \(.+\): restore it "):
        load(path)


def full_vip(number: int) -> WantedVip:
    """A VIP with 500 servers."""
    return replace(
        wanted_vip(number), servers=tuple(replace(wanted(n), port=8000 + number) for n in range(500))
    )


def test_ids_that_are_there_twice_are_damage(tmp_path: Path) -> None:
    """A file in which two servers have one id, or an id is no id, is not believed."""
    (vip,) = model_of(1, 2).vips
    first, second = vip.servers
    for number, broken in enumerate(
        (
            replace(vip, servers=(first, replace(second, id=first.id))),
            replace(vip, servers=(replace(first, id=512),)),
            replace(vip, index=-1),
            replace(vip, servers=(first, replace(first, id=7))),
        )
    ):
        path = tmp_path / f"{number}.db"
        save(path, Model((broken,)))
        with pytest.raises(PoiseError, match=r" \(an id is there twice or out of range\): "):
            load(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"servers": 1}', "null"])
def test_a_row_of_another_kind_is_damage(tmp_path: Path, content: str) -> None:
    """A row that poise did not write is told as such."""
    path = tmp_path / "servers.db"
    save(path, Model())
    with sqlite3.connect(path) as file:
        file.execute("INSERT INTO vips VALUES (0, ?)", (content,))
    file.close()
    with pytest.raises(PoiseError, match=r"a VIP is not as poise writes it"):
        load(path)


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Where the state directory cannot be, one sentence names the file."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "servers.db"
    with pytest.raises(PoiseError, match=rf"^cannot write {path} \("):
        load(path)
