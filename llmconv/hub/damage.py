"""Digest weights in the cache and compare them with the hub's digests; a shard that differs is removed."""

from __future__ import annotations

import shlex
from pathlib import Path

from llmconv.checkpoint.digest import Damaged, checked_digests


def digests(shard: Path, sha256: str) -> dict[str, str]:
    """{tensor: digest} of a shard in the cache whose sha256 the hub announces. Damaged after its removal."""
    try:
        return checked_digests(shard, sha256)
    except Damaged as error:
        raise Damaged(error.what, error.why, _remove(shard)) from None


def _remove(shard: Path) -> str:
    """Takes a file out of the cache, from every revision that shares it; what the user has to do then."""
    from huggingface_hub import scan_cache_dir

    store = shard.parents[2]  # of the repository: its snapshots/COMMIT/SHARD is the file
    found = scan_cache_dir(store.parent)
    repo = next((repo for repo in found.repos if repo.repo_path.samefile(store)), None)
    entries = [file for revision in repo.revisions for file in revision.files] if repo else []
    same = [file for file in entries if file.blob_path.samefile(shard)]
    if not same:
        return f"Remove it with `rm {shlex.join({str(shard), str(shard.resolve())})}`, then run the same command again."
    found.delete_files(*same).execute()
    return "It is removed from the cache: run the same command again to download it anew."
