# SPDX-License-Identifier: Apache-2.0
"""What must outlive a reboot: which id is which server's, the servers' states, and who was down."""

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from poise.errors import PoiseError
from poise.servers.model import SERVER_IDS, Address, Mode, Model, Policy, Protocol, Server, State, Vip

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS vips (
    number INTEGER PRIMARY KEY,
    content TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS down (
    vip INTEGER NOT NULL,
    server INTEGER NOT NULL,
    address TEXT NOT NULL,
    since REAL NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (vip, server)
) STRICT, WITHOUT ROWID;
"""

_MAGIC: Final = b"SQLite format 3\0"
_SHORTEST: Final = 512  # bytes: a page
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}  # ERROR: other tables

Key = tuple[int, int]
"""A server: the index of its VIP and its id."""


class Down(NamedTuple):
    """That a server was found to be down: where it listens, since when (seconds since 1970), and why."""

    end: str
    since: float
    reason: str


class Store:
    """The file of the servers: a change is on the disk when the call returns, or none of it ever will be."""

    def __init__(self, path: Path) -> None:
        """Open the file, made at first use; one process at a time. Raises PoiseError if it cannot be used."""
        self._path = path
        self._saved: dict[int, bytes] = {}  # by VIP, a digest of what the file holds
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = _is_new(path)
            # Calls come from several threads, one at a time: the control plane has a lock for changes.
            self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._unwritable(error) from None
        try:
            # EXTRA: also the end of a change outlives a power cut, or an id could be given out twice.
            self._file.executescript(f"PRAGMA synchronous = EXTRA; BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except sqlite3.DatabaseError as error:
            self._file.close()
            if is_new:
                path.unlink(missing_ok=True)
            raise self._fault(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def load(self) -> Model:
        """Return the model that was saved, VIPs by their index; PoiseError if the file is damaged.

        Where poise 0.1 has left its servers.json, and nothing was saved since, what that says.
        """
        try:
            rows = self._file.execute("SELECT number, content FROM vips ORDER BY number").fetchall()
            vips = tuple(_read(number, json.loads(content)) for number, content in rows)
            self._saved = {number: _digest(content) for number, content in rows}
        except sqlite3.DatabaseError as error:
            raise _unreadable(self._path, str(error)) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unreadable(self._path, f"a VIP is not as poise writes it: {error}") from None
        model = Model(vips) if vips else _former(self._path.with_name("servers.json"))
        if not _is_consistent(model):
            raise _unreadable(self._path, "an id is there twice or out of range")
        return model

    def save(self, changed: Collection[Vip], gone: Collection[int] = ()) -> None:
        """Save these VIPs, without secrets, and forget those of these indices, all in one step.

        What is in the file already is not written again.
        """
        rows = [(vip.index, json.dumps(_written(vip))) for vip in changed]
        rows = [(index, content) for index, content in rows if self._saved.get(index) != _digest(content)]
        if not rows and not gone:
            return
        with self._transaction():
            for table, column in (("vips", "number"), ("down", "vip")):
                statement = f"DELETE FROM {table} WHERE {column} = ?"  # noqa: S608  names of our own
                self._file.executemany(statement, [(index,) for index in gone])
            self._file.executemany("INSERT OR REPLACE INTO vips VALUES (?, ?)", rows)
        for index in gone:
            self._saved.pop(index, None)
        self._saved.update((index, _digest(content)) for index, content in rows)

    def down(self) -> dict[Key, Down]:
        """Return the servers that were found to be down when that was last saved."""
        try:
            rows = self._file.execute("SELECT vip, server, address, since, reason FROM down").fetchall()
        except sqlite3.DatabaseError as error:
            raise _unreadable(self._path, str(error)) from None
        return {(vip, server): Down(*found) for vip, server, *found in rows}

    def save_down(self, changes: Mapping[Key, Down | None]) -> None:
        """Save who was found to be down, and (None) who no longer is."""
        with self._transaction():
            self._file.executemany(
                "DELETE FROM down WHERE vip = ? AND server = ?",
                [key for key, down in changes.items() if down is None],
            )
            self._file.executemany(
                "INSERT OR REPLACE INTO down VALUES (?, ?, ?, ?, ?)",
                [(*key, *down) for key, down in changes.items() if down is not None],
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise self._fault(error) from None

    def _fault(self, error: sqlite3.Error) -> PoiseError:
        if getattr(error, "sqlite_errorcode", None) in _DAMAGED:
            return _unreadable(self._path, str(error))
        return self._unwritable(error)

    def _unwritable(self, error: Exception) -> PoiseError:
        why = getattr(error, "strerror", None) or error
        return PoiseError(f"cannot write {self._path} ({why}): make room there, or make it writable")


def _is_new(path: Path) -> bool:
    """Return whether nothing is there yet; SQLite would overwrite a file that is shorter than a page."""
    try:
        with path.open("rb") as file:
            beginning = file.read(_SHORTEST)
    except FileNotFoundError:
        return True
    if beginning and not (beginning.startswith(_MAGIC) and len(beginning) == _SHORTEST):
        raise _unreadable(path, "it is no file of SQLite")
    return False


def _unreadable(path: Path, why: str | None) -> PoiseError:
    return PoiseError(
        f"cannot read the server ids in {path} ({why!s:.100}): restore it from a backup, or delete it, which "
        "breaks the connections that are open"
    )


def _digest(content: str) -> bytes:
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def _written(vip: Vip) -> dict[str, object]:
    """Return what is kept of a VIP: all else is poise.yaml's alone to say, and secrets are a part of it."""
    return {
        "name": vip.name,
        "address": str(vip.address),
        "port": vip.port,
        "protocol": vip.protocol.value,
        "policy": vip.policy.value,
        "mode": vip.mode.value,
        "servers": [
            (
                *(each.id, each.name, str(each.address), each.port, each.state.value, each.since),
                *(each.declared, each.weight, each.deadline),
            )
            for each in vip.servers
        ],
    }


def _read(index: int, written: dict[str, Any]) -> Vip:
    return Vip(
        index,
        written["name"],
        _address(written["address"]),
        int(written["port"]),
        Policy(written["policy"]),
        tuple(_read_server(*server) for server in written["servers"]),
        Protocol(written["protocol"]),
        Mode(written["mode"]),
    )


def _read_server(  # noqa: PLR0917  as they stand in a row
    server_id: int,
    name: str,
    address: str,
    port: int,
    state: str,
    since: float,
    declared: bool,  # noqa: FBT001  a member of a row
    weight: int,
    deadline: float | None,
) -> Server:
    return Server(
        int(server_id), name, _address(address), int(port), State(state), since, declared, weight, deadline
    )


@lru_cache(maxsize=4096)
def _address(written: str) -> Address:
    return ip_address(written)


def _is_consistent(model: Model) -> bool:
    return all(
        vip.index >= 0
        and all(0 <= server.id < SERVER_IDS for server in vip.servers)
        and len({server.id for server in vip.servers}) == len(vip.servers) == len(vip.at)
        for vip in model.vips
    )


def _former(path: Path) -> Model:
    """Return the model in the file of poise 0.1, or an empty one; there, hashing all packets was a policy."""
    try:
        return Model(tuple(_read_former(vip) for vip in json.loads(path.read_bytes())["vips"]))
    except FileNotFoundError:
        return Model()
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, f"a VIP is not as poise writes it: {error}") from None


def _read_former(written: dict[str, Any]) -> Vip:
    members = ("id", "name", "address", "port", "state", "since", "declared")
    servers = [
        (*(server[name] for name in members), server.get("weight", 1), None) for server in written["servers"]
    ]
    mode = Mode.COOKIELESS if written["policy"] == "hash" else written.get("mode", Mode.STATELESS)
    known = {"protocol": Protocol.TCP} | written | {"mode": mode, "servers": servers}
    return _read(int(written["index"]), known)
