"""Brings the weights of a model into huggingface_hub's cache: resumed where an earlier attempt ended, checked as they arrive."""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path

from llmconv.errors import ConvertError
from llmconv.hub.errors import AGAIN, Stopped, explained, quiet
from llmconv.hub.name import Name
from llmconv.hub.repository import AT_ONCE, shards

SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = ".llmconv.incomplete"
_CHUNK = 8 << 20


class Meter:
    """Bytes that have arrived, of `total`; `stopped` ends the download at its next piece. Threads may share it."""

    def __init__(self, total: int):
        self.total, self.done, self.stopped = total, 0, False
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        if self.stopped:
            raise Stopped("the download was stopped", "", AGAIN)
        with self._lock:
            self.done += count


def fetch(name: Name, watch: Callable[[Meter, Callable[[float], bool]], None]) -> None:
    """See that all shards of `name` (a commit) are in the cache.

    watch(meter, ended) shows the download while it runs, in this thread: ended(seconds) waits that long and says whether it is over.
    It is not called when nothing is missing. ConvertError when the hub does not answer, or when what arrives is not what was announced.
    """
    missing = [file for file in shards(name) if not (name.folder / file).exists()]
    if not missing:
        return
    quiet()
    files = {file: _announced(name, file) for file in missing}
    meter = Meter(sum(size for _, _, size in files.values()))
    _room(name, files)
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for file in missing:
        todo.put(file)
    errors: list[BaseException] = []

    def work() -> None:
        while not meter.stopped:
            try:
                file = todo.get_nowait()
            except queue.Empty:
                return
            try:
                _file(name, file, *files[file], meter)
            except BaseException as error:  # told by the thread that waits
                errors.append(error)
                meter.stopped = True

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(missing)))]
    for thread in threads:
        thread.start()

    def ended(seconds: float) -> bool:
        alive = next((thread for thread in threads if thread.is_alive()), None)
        if alive is not None:
            alive.join(seconds)
        return not any(thread.is_alive() for thread in threads)

    try:
        watch(meter, ended)
        while not ended(1.0):
            pass
    except KeyboardInterrupt:
        meter.stopped = True  # the threads end with their next piece, or with the process
        raise Stopped("the download was stopped", "", AGAIN) from None
    if errors:
        raise errors[0]


def _announced(name: Name, file: str) -> tuple[str, str, int]:
    """(address, blob hash, bytes) of a file as the hub announces it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(name.repo, file, revision=name.revision)
    with explained(name, f"{file} of {name}"):
        meta = get_hf_file_metadata(url)
    if not meta.etag or meta.size is None:
        raise ConvertError(f"the hub announces neither hash nor size of {file} of {name}", "a proxy may have removed them", "Try another HF_ENDPOINT.")
    return url, meta.etag, meta.size


def _room(name: Name, files: dict[str, tuple[str, str, int]]) -> None:
    """ConvertError when the missing files do not fit on the disk."""
    blobs = name.store / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    need = sum(size - _size(blobs / (etag + _PART)) for _, etag, size in files.values())
    free = os.statvfs(blobs).f_bavail * os.statvfs(blobs).f_frsize
    if need > free:
        raise ConvertError(f"the weights of {name} need {need / 1e9:.1f} GB more", f"{free / 1e9:.1f} GB are free in {blobs}", "Make room, or set HF_HOME to another place.")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _file(name: Name, file: str, url: str, etag: str, size: int, meter: Meter) -> None:
    """One file to the cache. Its blob arrives beside its place under a name of ours; the library links it into the snapshot."""
    from huggingface_hub import constants, hf_hub_download

    blob = name.store / "blobs" / etag
    if not blob.exists() and size <= constants.MAX_HTTP_DOWNLOAD_SIZE:  # larger ones come by the library's own way alone
        with open(f"{blob}{_PART}", "a+b", buffering=0) as part:
            _lock(part, meter)
            if not blob.exists():  # another process may have brought it meanwhile
                arriving = _Arriving(part, meter)
                _stream(name, file, url, size, arriving)
                _publish(name, file, arriving, blob)
            elif not os.fstat(part.fileno()).st_size:
                Path(part.name).unlink(missing_ok=True)
    with explained(name, f"{file} of {name}"):
        hf_hub_download(name.repo, file, revision=name.revision)


def _lock(part, meter: Meter) -> None:
    """One process at a time writes a part."""
    while True:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            threading.Event().wait(0.5)
            meter.add(0)


def _stream(name: Name, file: str, url: str, size: int, arriving: _Arriving) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    try:
        with explained(name, f"{file} of {name}"):
            http_get(url, arriving, resume_size=arriving.resume(size), headers=build_hf_headers(), expected_size=size)
    except ConvertError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise ConvertError(f"the download of {file} of {name} broke off", str(error).splitlines()[0], AGAIN) from None


def _publish(name: Name, file: str, arriving: _Arriving, blob: Path) -> None:
    """A whole part becomes the blob, if it is what the hub announced: large files are named by their sha256."""
    if SHA256.fullmatch(blob.name) and arriving.digest.hexdigest() != blob.name:
        arriving.clear()
        raise ConvertError(f"{file} of {name} arrived damaged", "its sha256 is not the one that the hub announced", "Run the same command again to download it anew.")
    os.fsync(arriving.part.fileno())
    os.replace(arriving.part.name, blob)


class _Arriving:
    """The file that a download is written to, at its end, and the digest of what is in it."""

    def __init__(self, part, meter: Meter):
        self.part, self._meter = part, meter
        self._count, self.digest = 0, hashlib.sha256()

    def resume(self, size: int) -> int:
        """Bytes that are there from an earlier attempt; they are read once, for the digest. size: of the whole file."""
        if os.fstat(self.part.fileno()).st_size > size:
            self.clear()
        self.part.seek(0)
        while piece := self.part.read(_CHUNK):
            self._note(piece)
        return self._count

    def _note(self, data: bytes) -> None:
        self._meter.add(len(data))
        self._count += len(data)
        self.digest.update(data)

    def write(self, data: bytes) -> int:
        self._note(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self.part.write(rest) :]
        return len(data)

    def seek(self, place: int, whence: int = 0) -> int:
        return self.part.seek(place, whence)

    def tell(self) -> int:
        return self.part.tell()

    def truncate(self) -> int:
        """The server does not go on where it was asked to: it begins anew, and so do we."""
        self.clear()
        return 0

    def clear(self) -> None:
        self.part.truncate(0)
        self.part.seek(0)
        self._meter.add(-self._count)
        self._count, self.digest = 0, hashlib.sha256()
