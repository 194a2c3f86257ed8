"""Trim the cache: what was not used for long, and what belongs to other versions of the compiler."""

from __future__ import annotations

from pathlib import Path

from llmconv.engine import files, gc, outputs
from llmconv.toolchain.leftovers import leftovers
from llmconv.words import size


def trim(cache: Path, limit: int, dry: bool) -> str:
    """Keep the results of tasks that were used last, up to `limit` bytes, and nothing of other compilers. dry: remove
    nothing. Returns what was done, in a line for each kind."""
    verb = "would free" if dry else "freed"
    freed, kept = gc(cache / "actions", limit, dry)
    lines = [f"{verb} {size(freed)}, {'would keep' if dry else 'kept'} {size(kept)} in {cache / 'actions'}"]
    for path in leftovers(cache):
        lines.append(f"{verb} {size(files.size(str(path)))}: {path}")
        if not dry:
            outputs.discard(str(path))
    return "\n".join(lines)
