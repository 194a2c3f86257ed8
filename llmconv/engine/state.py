"""The state of a build in SQLite: one row per task, committed when its outputs are on disk under their final names."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmconv.errors import ConvertError

VERSION = 1
RACY = 2.0  # seconds: a file changed this recently may change again without its timestamps showing it
NETWORK = ("nfs", "cifs", "smb", "9p", "fuse", "lustre", "ceph", "gpfs", "beegfs", "afs", "virtiofs")

_SCHEMA = """
create table if not exists task(
    name text primary key, done int, key text, fields text, targets text, result text,
    seconds real, cpu real, peak_rss int, estimate int, finished real) without rowid;
create table if not exists digest(
    dev int, ino int, size int, mtime int, ctime int, hex text,
    primary key(dev, ino, size, mtime, ctime)) without rowid;
"""


@dataclass(frozen=True)
class Row:
    """The last success of a task; `done` is False while (or after) it is being built again.

    fields_text: the key's fields as canonical JSON. targets_text: JSON list of {"stamp", "digest"} by position.
    seconds, cpu: of the action. peak_rss, estimate: bytes, measured and expected. finished: unix time.
    """

    name: str
    done: bool
    key: str
    fields_text: str
    targets_text: str
    values_text: str
    seconds: float
    cpu: float
    peak_rss: int
    estimate: int
    finished: float

    @property
    def fields(self) -> dict[str, Any]:
        """The key's fields, see keys.py."""
        return json.loads(self.fields_text)

    @property
    def targets(self) -> list[dict]:
        """[{"stamp": ..., "digest": sha256}] in the order of the task's targets."""
        return json.loads(self.targets_text)

    @property
    def values(self) -> dict[str, Any]:
        """What the action returned."""
        return json.loads(self.values_text)


class State:
    """The open state of an output directory. Use from one thread, under the lock."""

    def __init__(self, state_dir: Path):
        self.path = state_dir / "state.db"
        self.note = ""  # a remark for the user, such as that a damaged state was moved aside
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and _full(error):
                raise disk_full(error, self.path) from error
            aside = self.path.with_suffix(".damaged")
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            os.replace(self.path, aside)
            self.note = f"{self.path} was damaged ({error}) and is now {aside.name}: everything is checked anew"
            self._open()

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        try:
            self._read()
        except BaseException:
            self._db.close()
            raise

    def _read(self) -> None:
        mode = "truncate" if on_network(self.path.parent) else "wal"
        self._db.execute(f"pragma journal_mode={mode}")
        self._db.execute("pragma synchronous=full")
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version != VERSION:
            self._db.executescript("drop table if exists task; drop table if exists digest;" + _SCHEMA)
            self._db.execute(f"pragma user_version={VERSION}")
        self.rows = {row[0]: Row(row[0], bool(row[1]), *row[2:]) for row in self._db.execute("select * from task")}

    def close(self) -> None:
        """Closes the database; all that matters has been committed before."""
        self._db.close()

    def undo(self, names: Iterable[str]) -> None:
        """Durably marks tasks as not done, before their outputs are touched. The old row stays for `why`."""
        done = [name for name in names if name in self.rows and self.rows[name].done]
        if not done:
            return
        self._write("update task set done=0 where name=?", [(name,) for name in done])
        for name in done:
            self.rows[name] = replace(self.rows[name], done=False)

    def save(self, rows: Iterable[Row]) -> None:
        """Durably records successes; one transaction for all."""
        rows = list(rows)
        if not rows:
            return
        values = [tuple(row.__dict__.values()) for row in rows]
        self._write("insert or replace into task values(?,?,?,?,?,?,?,?,?,?,?)", values)
        self.rows.update((row.name, row) for row in rows)

    def forget(self, names: Iterable[str]) -> None:
        """Drops rows for good."""
        names = list(names)
        self._write("delete from task where name=?", [(name,) for name in names])
        for name in names:
            self.rows.pop(name, None)

    def known_digest(self, identity: tuple) -> str | None:
        """The digest of the file with this identity, if it was taken before."""
        where = "dev=? and ino=? and size=? and mtime=? and ctime=?"
        row = self._db.execute(f"select hex from digest where {where}", identity).fetchone()
        return row[0] if row else None

    def remember_digest(self, identity: tuple, hexdigest: str) -> None:
        """Keeps a digest, unless the file is so young that the same identity could come to mean other content."""
        if time.time() - identity[4] / 1e9 > RACY:
            self._write("insert or replace into digest values(?,?,?,?,?,?)", [(*identity, hexdigest)])

    def _write(self, statement: str, values: list[tuple]) -> None:
        try:
            self._db.execute("begin immediate")
            self._db.executemany(statement, values)
            self._db.execute("commit")
        except sqlite3.OperationalError as error:
            if self._db.in_transaction:
                self._db.execute("rollback")
            if _full(error):
                raise disk_full(error, self.path) from error
            raise


def read_state(state_dir: Path) -> dict[str, Row]:
    """All rows, without a lock and without writing; {} where nothing was built. For why, list and reports."""
    path = state_dir / "state.db"
    if not path.exists():
        return {}
    # immutable: for a read-only file system, where SQLite cannot make its shared-memory file
    for query in ("mode=ro", "mode=ro&immutable=1"):
        try:
            db = sqlite3.connect(f"{path.absolute().as_uri()}?{query}", uri=True, timeout=30)
            try:
                rows = db.execute("select * from task").fetchall()
            finally:
                db.close()
            return {row[0]: Row(row[0], bool(row[1]), *row[2:]) for row in rows}
        except sqlite3.DatabaseError:
            continue
    return {}


def on_network(folder: Path) -> bool:
    """Whether `folder` is on a file system where SQLite's shared memory (WAL) cannot be trusted."""
    best, kind = -1, ""
    here = os.path.realpath(folder)
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                mount, fstype = line.split()[1:3]
                mount = mount.replace("\\040", " ")
                inside = here == mount or here.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= best:
                    best, kind = len(mount), fstype
    except OSError:
        return False
    return kind.startswith(NETWORK)


def _full(error: sqlite3.OperationalError) -> bool:
    return "full" in str(error) or "disk I/O" in str(error)


def disk_full(error: Exception, path: Path) -> ConvertError:
    """The sentence for a state that cannot be written."""
    from llmconv.engine.failure import free_space

    return ConvertError(
        f"cannot write {path}",
        f"{error}; {free_space(str(path))}",
        "Free some space and run the same command again: finished tasks are kept.",
    )
