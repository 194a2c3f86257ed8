"""Download the compiler's wheel with pip, as a file, by pip's own configuration (index, proxy, certificates,
find-links).
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from llmconv.errors import ToolError
from llmconv.toolchain.pinned import VERSION, WHEEL_BYTES
from llmconv.words import size, transfer

BETWEEN = 0.5  # seconds between two words on a download

# The wheel is for Python 3.10 alone; its native half serves any Python, so pip is told that it is fetching for another
# one.
_FOR = (
    "--no-deps",
    "--only-binary=:all:",
    "--python-version",
    "3.10",
    "--implementation",
    "cp",
    "--abi",
    "cp310",
    "--abi",
    "none",
    "--platform",
    "manylinux2014_x86_64",
    "--platform",
    "linux_x86_64",
    "--platform",
    "any",
)
_NETWORK = re.compile(
    r"NewConnectionError|Retrying \(|Temporary failure in name resolution|ReadTimeout|ConnectionError|ProxyError|SSLError|IncompleteRead"
)


def download(folder: Path, python: str | Path, progress: Callable[[str], None]) -> Path:
    """Download the wheel into `folder` and return its path. ToolError in one sentence when pip fails."""
    version = _pip_version(python)
    progress(f"fetching the compiler, tpu_mlir {VERSION} ({size(WHEEL_BYTES)}), with pip")
    tells = version >= (24, 1)
    argv = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "download",
        "--progress-bar",
        "raw" if tells else "off",
        *_FOR,
        f"tpu_mlir=={VERSION}",
        "-d",
        str(folder),
    ]
    meter = _Meter(progress)
    if tells:
        output = _run(argv, meter)
    else:  # such a pip says nothing into a pipe: what lies in its folder for unfinished files is counted
        unfinished = folder / "unfinished"
        unfinished.mkdir()
        with _watched(unfinished, meter):
            output = _run(argv, meter, {"TMPDIR": str(unfinished)})
    wheels = sorted(folder.glob("*.whl"))
    if output is None and len(wheels) == 1:
        return wheels[0]
    raise _failed(output or [])


class _Meter:
    """Passes on how far the download is, now and then."""

    def __init__(self, progress: Callable[[str], None]):
        self._progress = progress
        self._begin = self._told = time.monotonic()

    def at(self, done: int, total: int) -> None:
        """Bytes that have arrived, of all."""
        now = time.monotonic()
        if now - self._told >= BETWEEN or done >= total:
            self._told = now
            self._progress(f"fetching the compiler: {transfer(done, total, now - self._begin)}")


@contextmanager
def _watched(folder: Path, meter: _Meter) -> Iterator[None]:
    """Tells the meter how many bytes lie in a folder, until the end."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(BETWEEN):
            with suppress(OSError):  # a file that is gone meanwhile
                there = sum(file.stat().st_size for file in folder.rglob("*.whl"))
                meter.at(min(there, WHEEL_BYTES - 1), WHEEL_BYTES)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _run(argv: list[str], meter: _Meter, env: Mapping[str, str] | None = None) -> list[str] | None:
    """Run pip, passing on its progress; None when it ended well, else the lines that it printed."""
    lines: list[str] = []
    child = subprocess.Popen(
        argv,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        for line in child.stdout or ():
            done = re.match(r"Progress (\d+) of (\d+)", line)
            if done:
                meter.at(int(done.group(1)), int(done.group(2)))
            else:
                lines.append(line.strip())
        return None if child.wait() == 0 else lines
    except BaseException:
        child.kill()
        child.wait()
        raise


def _pip_version(python: str | Path) -> tuple[int, ...]:
    """pip's version; ToolError when this Python has none."""
    try:
        done = subprocess.run(
            [str(python), "-m", "pip", "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{python} -m pip does not run", str(error)) from None
    found = re.match(r"pip (\d+)\.(\d+)", done.stdout)
    if done.returncode or not found:
        raise ToolError(
            "cannot fetch the compiler",
            f"{python} has no pip",
            f"Run {python} -m ensurepip, or set TPUC_ROOT to an unpacked tpu_mlir {VERSION}",
        )
    return int(found.group(1)), int(found.group(2))


def _failed(lines: list[str]) -> ToolError:
    """pip's failure in one sentence."""
    text = "\n".join(lines)
    elsewhere = f"Check the network, proxy and index of pip, or set TPUC_ROOT to an unpacked tpu_mlir {VERSION}"
    if "No space left on device" in text:
        return ToolError(
            "cannot fetch the compiler",
            "the disk is full",
            "Make room, or name a cache on another disk with LLMCONV_CACHE",
        )
    if _NETWORK.search(text):
        return ToolError("cannot fetch the compiler", "pip reached no package index", elsewhere)
    if "No matching distribution found" in text:
        return ToolError("cannot fetch the compiler", f"pip's index has no tpu_mlir {VERSION}", elsewhere)
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return ToolError(
        "cannot fetch the compiler",
        (errors[-1].removeprefix("ERROR:").strip() if errors else "pip gave no wheel")[:300],
        elsewhere,
    )
