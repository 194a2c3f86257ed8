"""An action cache behind HTTP or HTTPS, in the layout that a cache's directory has: a server of plain files gives what
lies there, and one that takes PUT keeps what is new.

meta.json is written last, and what it names is held against its digests on arrival: an entry is there whole or not at
all. A server that does not answer is left out until the process ends.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from llmconv.engine import files, outputs
from llmconv.engine.cache import Entry, folder, trees

if TYPE_CHECKING:
    import httpx2

TOKEN = "LLMCONV_CACHE_TOKEN"  # with it entries are written too; the server decides what it allows
WAIT = 10.0  # seconds, for a connection and for each answer
_MISSING = (403, 404, 410)  # what servers of files and of objects say of something that is not there
_clients: dict[str, httpx2.Client] = {}
_silent: dict[str, str] = {}  # server -> why it is left out
_looked_at: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


class Remote:
    """The cache below `url`. Several processes and machines may use it at once."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.token = os.environ.get(TOKEN, "")

    def __str__(self) -> str:
        return self.url

    @property
    def fault(self) -> str:
        """Why the server is left out, "" while it answers."""
        return _silent.get(self.url, "")

    def find(self, key: str) -> Entry | None:
        """The entry for a key; None where there is none, or no answer."""
        text = self._ask(f"{folder(key)}/meta.json")
        return Entry.read(text, lambda position: self._copy(key, position)) if text else None

    def fetch(self, key: str, staged: list[str], stopped: Callable[[], bool] = lambda: False) -> Entry | None:
        """Put an entry's outputs at `staged`; None when it is absent, damaged or does not arrive.

        OSError of the destination (no space, ...) is raised."""
        entry = self.find(key)
        if entry is None or len(entry.digests) != len(staged):
            return None
        for position, path in enumerate(staged):
            if not self._output(entry, key, position, path, stopped):
                outputs.remove(path)
                return None
        return entry

    def store(self, key: str, paths: list[str], meta: dict) -> None:
        """Add an entry. OSError when the server does not take it."""
        if not self.token or self.fault or self.find(key):
            return
        listed = trees(paths)
        for position, path in enumerate(paths):
            for name in listed.get(str(position), [""]):
                with open(os.path.join(path, name) if name else path, "rb") as file:
                    self._put(key, f"{position}/{name}" if name else str(position), file)
        self._put(key, "meta.json", json.dumps(meta | {"trees": listed}).encode())

    def _output(self, entry: Entry, key: str, position: int, path: str, stopped: Callable[[], bool]) -> bool:
        """Whether an output is at `path` now, whole."""
        names = entry.trees.get(str(position))
        if names is None:
            found = self._download(f"{folder(key)}/{position}", path, stopped)
        else:
            os.makedirs(path, exist_ok=True)
            found = all(map(_plain, names)) and all(
                self._download(f"{folder(key)}/{position}/{name}", os.path.join(path, name), stopped) for name in names
            )
        return found and os.path.exists(path) and files.digest(path) == entry.digests[position]

    def _copy(self, key: str, position: int) -> str:
        """A file with an output's content, for who only looks at it."""
        _looked_at.append(tempfile.TemporaryDirectory(prefix="llmconv-cache-"))
        path = os.path.join(_looked_at[-1].name, str(position))
        entry = self.find(key)
        if entry is not None:
            self._output(entry, key, position, path, lambda: False)
        return path

    def _download(self, name: str, path: str, stopped: Callable[[], bool]) -> bool:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            for part in self._parts(name):
                if stopped():
                    raise InterruptedError("stopped")
                if part is None:
                    return False
                file.write(part)
        return True

    def _parts(self, name: str) -> Iterator[bytes | None]:
        """The content of a file of the server; None at its end when it is not there or breaks off."""
        if self.fault:
            yield None
            return
        import httpx2

        try:
            with self._client().stream("GET", f"{self.url}/{name}", headers=self._headers()) as answer:
                if answer.status_code != 200:
                    yield None
                    return
                yield from answer.iter_bytes(1 << 20)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            self._leave(error)
            yield None

    def _ask(self, name: str) -> bytes:
        """The content of a small file; b"" for what is not there, and from a server that does not answer."""
        if self.fault:
            return b""
        import httpx2

        try:
            answer = self._client().get(f"{self.url}/{name}", headers=self._headers())
        except httpx2.HTTPError as error:
            self._leave(error)
            return b""
        if answer.status_code not in (200, *_MISSING):
            _silent[self.url] = f"it answers with status {answer.status_code}"
        return answer.content if answer.status_code == 200 else b""

    def _put(self, key: str, name: str, content: Any) -> None:
        import httpx2

        try:
            where = f"{self.url}/{folder(key)}/{name}"
            answer = self._client().put(where, content=content, headers=self._headers())
        except httpx2.HTTPError as error:
            self._leave(error)
            raise OSError(f"{self.url}: {self.fault}") from None
        if answer.status_code >= 300:
            _silent[self.url] = f"it answers with status {answer.status_code} to what is written"
            raise OSError(f"{self.url}: {self.fault}")

    def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _leave(self, error: Exception) -> None:
        _silent[self.url] = str(error) or type(error).__name__

    def _client(self) -> httpx2.Client:
        """One for each server, which keeps its connections."""
        import httpx2

        if self.url not in _clients:
            _clients[self.url] = httpx2.Client(timeout=WAIT, follow_redirects=True)
        return _clients[self.url]


def _plain(name: str) -> bool:
    """Whether a name of a directory's file leads to no other place."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts
