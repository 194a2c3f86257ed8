"""The compiler's digest: one sha256 over the files that determine its results, remembered by stat.

Hashing takes a second or two; a build that has nothing to do must not pay for it. So the cache keeps, per root, the
digest and the stat identity of every file that went into it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from llmconv.toolchain import mend
from llmconv.toolchain.pinned import FOLDER, GLIBC

_MEMO = "toolchain-digests.json"

# Relative to the root. Only what has a part in the three chips' nets (cv186x uses bm1688's files), so that a whole
# install and a fetched, pruned one agree.
_PATTERNS = (
    "bin/tpuc-opt",
    "bin/model_tool",
    "lib/libbackend_bm1684x.so",
    "lib/libbackend_bm1688.so",
    "lib/libbm1684x_kernel_module.so",
    "lib/libbmtpulv60_kernel_module.so",
    "lib/libbm1684x_atomic_kernel.so",
    "lib/libppl_host.so",
    "lib/libppl_dyn_host_bm1684x.so",
    "lib/libppl_dyn_host_bm1688.so",
    "lib/libcpuop.so",
    "lib/libortools.so.9",
    "lib/third_party/libdnnl.so.3",
    "lib/third_party/libomp.so.5",
    "lib/third_party/libstdc++.so.6",
    "lib/third_party/libgcc_s.so.1",
    "lib/third_party/libz.so.1",
    "cross_toolchains/ppl_compile/bin/*",
    "cross_toolchains/ppl_compile/inc/*",
    "cross_toolchains/ppl_compile/deps/scripts/*",
    "cross_toolchains/ppl_compile/deps/common/**/*",
    "cross_toolchains/ppl_compile/deps/chip/*",
    "cross_toolchains/ppl_compile/deps/chip/tpu_6_0/**/*",
    "cross_toolchains/ppl_compile/deps/chip/tpul_6_0/**/*",
)


def files(root: Path) -> list[Path]:
    """The files that count, sorted by relative path. Missing ones are left out (an older or newer install may lack
    some).
    """
    found = {
        p
        for pattern in _PATTERNS
        for p in root.glob(pattern)
        if p.is_file() and p.name not in GLIBC and p.suffix != ".pyc"
    }
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def recall(root: Path, cache: Path) -> str:
    """The digest, when every file is as it was when it was hashed, else ""."""
    entry = _read(cache).get(str(root))
    if isinstance(entry, dict) and entry.get("stat") == _identity(root):
        return str(entry.get("digest"))
    return ""


def known(root: Path, cache: Path) -> bool:
    """Whether a digest is remembered, of this state of the files or of another."""
    return str(root) in _read(cache)


def remember(root: Path, cache: Path) -> str:
    """Hash the files of `root` and keep the result. A cache that cannot be written costs the next run the same
    hashing.
    """
    identity = _identity(root)
    digest = hashed(root)
    memo = {k: v for k, v in _read(cache).items() if os.path.isdir(k)}
    memo[str(root)] = {"stat": identity, "digest": digest}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = cache / f"{_MEMO}.{os.getpid()}.part"
        part.write_text(json.dumps(memo), encoding="utf-8")
        os.replace(part, cache / _MEMO)
    except OSError:
        pass
    return digest


def hashed(root: Path) -> str:
    """The digest, from reading every file that counts."""
    total = hashlib.sha256(mend.SCRIPT.encode())  # it also has a part in the results
    for path in files(root):
        total.update(f"{path.relative_to(root).as_posix()}\0{sha256(path)}\n".encode())
    return total.hexdigest()


def sha256(path: Path) -> str:
    """Hex sha256 of a file's content."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()


def of_tree(root: Path) -> str:
    """One sha256 over the names and contents of all files of a fetched compiler."""
    state = hashlib.sha256()
    for path in _all(root):
        state.update(f"{os.path.relpath(path, root)}\0{sha256(Path(path))}\n".encode())
    return state.hexdigest()


def _all(root: Path) -> list[str]:
    """Every file and link of a fetched compiler, sorted by relative path. No link is followed."""
    found = []
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]
        paths = [f"{folder}/{name}" for name in (*names, *links) if not name.endswith(".pyc")]
        found += [path for path in paths if os.path.islink(path) or os.path.isfile(path)]
    return sorted(found)


def _identity(root: Path) -> str:
    """One hash over (path, dev, ino, size, mtime, ctime) of every file that counts; of a fetched compiler all do."""
    state = hashlib.sha256(mend.SCRIPT.encode())
    start = len(f"{root}/")
    for path in _all(root) if root.name == FOLDER else map(str, files(root)):
        s = os.stat(path)
        told = f"{s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"
        state.update(f"{path[start:]} {told}\n".encode())
    return state.hexdigest()


def _read(cache: Path) -> dict:
    try:
        memo = json.loads((cache / _MEMO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}
