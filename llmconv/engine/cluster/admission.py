"""What a worker is and what it sees: asked before it gets tasks."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterable
from pathlib import Path

from llmconv import __version__
from llmconv.engine import machine, own_code
from llmconv.engine.cluster.errand import Question, Told, question, to_json
from llmconv.engine.cluster.host import HOST
from llmconv.engine.perform import resolve


def passport(call: str) -> dict[str, str]:
    """What results depend on here: {what: version}."""
    return {
        "llmconv": f"{__version__} {own_code.digest('.')[:16]}",
        "system library": " ".join(platform.libc_ver()),
        **((resolve(call)() or {}) if call else {}),
    }


def examine(text: str) -> str:
    """On a worker: answer a Question. Returns a Told."""
    asked = question(text)
    found = Told(
        host=HOST,
        wrote=_write_beside(asked),
        missing=tuple(path for path, facts in asked.files if _facts(path) != facts),
        memory=int(machine.available() * machine.SHARE),
        passport=passport(asked.passport),
    )
    return to_json(found)


def ask(folder: Path, inputs: Iterable[str], call: str) -> Question:
    """Here: make a Question, and the file that it is about. OSError where that cannot be written."""
    token = secrets.token_hex(16)
    probe = folder / f"probe.{token[:8]}"
    probe.write_text(token)
    facts = ((path, _facts(path)) for path in inputs)
    return Question(str(probe), token, tuple((path, found) for path, found in facts if found), call)


def shares(asked: Question, said: Told) -> bool:
    """Here: whether the worker writes where this machine reads, and sees its inputs. Removes what it wrote."""
    if not said.wrote or said.missing:
        return False
    path = Path(asked.probe).with_name(os.path.basename(said.wrote))
    try:
        found = path.read_text() == asked.token + said.host
        path.unlink()
    except OSError:
        return False
    return found


def _write_beside(asked: Question) -> str:
    try:
        if Path(asked.probe).read_text() != asked.token:
            return ""
        mine = f"{asked.probe}.{HOST}"
        Path(mine).write_text(asked.token + HOST)
        return mine
    except OSError:
        return ""


def _facts(path: str) -> tuple[int, ...]:
    """Size, mtime and inode, which a shared file has on all machines; () for what is not there."""
    try:
        st = os.stat(path)
    except OSError:
        return ()
    return st.st_size, st.st_mtime_ns, st.st_ino
