"""What the cache holds of compilers that this version of llmconv no longer uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmconv.toolchain import digests, jit
from llmconv.toolchain.pinned import FOLDER, VERSION


def leftovers(cache: Path) -> Iterator[Path]:
    """Folders and files of `cache` that nothing of this version needs: fetched compilers of other versions, and the
    kernels that such compilers made. Views of installs that carry their own glibc are made again when they are needed.
    """
    for path in sorted(cache.glob("tpu_mlir-*")):
        if path.name not in (FOLDER, f"{FOLDER}.lock") and not path.name.startswith(f"{FOLDER}.part."):
            yield path
    digest = digests.recall(cache / FOLDER, cache)
    used = jit.kernels(cache, VERSION, digest) if digest else None
    yield from (path for path in sorted((cache / "kernels").glob("*")) if used and path != used)
    yield from sorted((cache / "shadow").glob("*"))
