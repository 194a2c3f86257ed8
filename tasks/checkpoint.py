"""checkpoint:SHARD: digests of the tensors of each shard, so that a net is rebuilt when its own tensors change."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from llmconv.engine import Need, task
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import head

MB = 1 << 20
DIGESTED = 500e6  # bytes per second that a thread reads and digests, about


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield head("checkpoint", "digests of the checkpoint's tensors")
    # no net has a key before its shard is read, so a single shard gets all threads
    threads = max(1, (os.cpu_count() or 1) // len(plan.checkpoint.shards))
    sizes = Counter()
    for info in plan.checkpoint.tensors.values():
        sizes[info.file] += info.nbytes
    for shard in plan.checkpoint.shards:
        sha256 = plan.checkpoint.sha256.get(shard.name, "")
        speed = DIGESTED * (1 if sha256 else threads)  # the sha256 of a whole file cannot be divided
        yield task(
            shard.name,
            "llmconv.tasks.actions:digest_shard",
            {"model": str(plan.checkpoint.path), "shard": shard.name, "threads": threads, "sha256": sha256},
            basename="checkpoint",
            targets=[layout.digests(shard.name)],
            watch=[shard],
            need=Need(memory=(30 + 10 * threads) * MB, seconds=0.1 + sizes[shard] / speed),
            doc=f"digests of the tensors in {shard.name}",
        )
