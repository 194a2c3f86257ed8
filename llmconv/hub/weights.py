"""Bring a model's weights into huggingface_hub's cache by that library's own download, and show the progress.

The library resumes a broken connection and keeps each file that has arrived whole. It begins a file anew that a process
had begun before it ended.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.errors import ConvertError
from llmconv.hub.errors import AGAIN, Stopped, explained, quiet
from llmconv.hub.name import Name
from llmconv.hub.repository import files, shards
from llmconv.words import size

if TYPE_CHECKING:
    from huggingface_hub.utils import tqdm

AT_ONCE = 2  # files: an interruption costs no more than these; hf_xet uses many connections for each
GRACE = 3.0  # seconds that a stopped download has for removing what it has begun


class Meter:
    """Bytes that have arrived, of `total`; `stopped` ends the download at its next piece. Threads may share it."""

    def __init__(self, total: int):
        self.total, self.stopped = total, False
        self._arrived: dict[str, int] = {}

    @property
    def done(self) -> int:
        return sum(list(self._arrived.values()))

    def reach(self, file: str, count: int) -> None:
        """`count` bytes of `file` are there. Raises Stopped."""
        if self.stopped:
            raise Stopped("the download was stopped", "", AGAIN)
        self._arrived[file] = count


def fetch(name: Name, watch: Callable[[Meter, Callable[[float], bool]], None], say: Callable[[str], None]) -> None:
    """See that all shards of `name` (a commit) are in the cache.

    watch(meter, ended) shows the download while it runs, in this thread: ended(seconds) waits that long and says
    whether it is over. It is not called when nothing is missing. say: takes a remark.
    Errors: ConvertError when the hub does not answer or the disk is full; Stopped after Ctrl-C.
    """
    missing = [file for file in shards(name) if not (name.folder / file).exists()]
    if not missing:
        return
    quiet()
    sizes = _sizes(name, missing)
    meter = Meter(sum(sizes.values()))
    _room(name.folder, name, meter.total)
    _tell_leftovers(name, say)
    errors: list[BaseException] = []
    over = _start(name, sizes, meter, errors)
    try:
        watch(meter, over.wait)
        over.wait()
    except KeyboardInterrupt:
        meter.stopped = True
        with suppress(KeyboardInterrupt):  # again: at once, then
            over.wait(GRACE)  # what has not ended then ends with the process
        raise Stopped("the download was stopped", "", AGAIN) from None
    if errors:
        raise errors[0]


def _start(name: Name, sizes: dict[str, int], meter: Meter, errors: list[BaseException]) -> threading.Event:
    """Downloads the files in threads, which append to `errors` what goes wrong, and then all end.

    Returns the event that they have ended.
    """
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for file in sizes:
        todo.put(file)

    def work() -> None:
        while not meter.stopped:
            try:
                file = todo.get_nowait()
            except queue.Empty:
                return
            try:
                _file(name, file, sizes[file], meter)
            except BaseException as error:  # told by the thread that waits
                errors.append(error)
                meter.stopped = True

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(sizes)))]
    over = threading.Event()  # Thread.join after a KeyboardInterrupt in it would say that the thread has ended

    def wait() -> None:
        for thread in threads:
            thread.join()
        over.set()

    for thread in (*threads, threading.Thread(target=wait, daemon=True)):
        thread.start()
    return over


def _sizes(name: Name, missing: list[str]) -> dict[str, int]:
    listed = files(name)
    for file in missing:
        if file not in listed:
            raise ConvertError(f"the model {name} has no file {file}", "its index names it", "Choose another revision.")
    return {file: listed[file].size for file in missing}


def _room(folder: Path, name: Name, need: int) -> None:
    """ConvertError when the missing files do not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ConvertError(
            f"the weights of {name} need {size(need)} more",
            f"{size(free)} are free in {name.store}",
            "Make room, or set HF_HOME to another place.",
        )


def _tell_leftovers(name: Name, say: Callable[[str], None]) -> None:
    """The library leaves the part of a file behind when its process is killed, and never takes it up again."""
    from huggingface_hub import scan_cache_dir

    store = name.store.resolve()
    parts = [part for part in scan_cache_dir(store.parent).incomplete_files if store in part.file_path.parents]
    if parts:
        total = sum(part.size_on_disk for part in parts)
        say(
            f"{size(total)} of unfinished downloads lie in the cache: "
            f"when no other program downloads {name.repo}, `rm {parts[0].file_path.parent}/*.incomplete` removes them"
        )


def _file(name: Name, file: str, size: int, meter: Meter) -> None:
    from huggingface_hub import hf_hub_download

    with explained(name, f"{file} of {name}"):
        hf_hub_download(name.repo, file, revision=name.revision, tqdm_class=bar(meter, file))
    meter.reach(file, size)  # nothing is told of a file that another process has brought meanwhile


def bar(meter: Meter, file: str) -> type[tqdm]:
    """A class of progress bars for huggingface_hub's download of `file`: they draw nothing and tell the meter.

    The library may make two for a file, of the bytes that have come over the network and of those that are written.
    """
    from huggingface_hub.utils import tqdm

    made: list[Bar] = []

    class Bar(tqdm):
        monitor_interval = 0  # tqdm starts no thread

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"disable": True})
            made.append(self)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            meter.reach(file, int(max(bar.n for bar in made)))

    return Bar
