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
    # the disk is what they wait for: half of the cores read shards, and programs are compiled on the others meanwhile
    cores = os.cpu_count() or 1
    at_once = max(1, cores // 2)
    threads = max(1, cores // min(at_once, len(plan.checkpoint.shards)))
    sizes = Counter()
    for info in plan.checkpoint.tensors.values():
        sizes[info.file] += info.nbytes
    for number, shard in enumerate(plan.checkpoint.shards):
        before = plan.checkpoint.shards[number - at_once].name if number >= at_once else ""
        sha256 = plan.checkpoint.sha256.get(shard.name, "")
        speed = DIGESTED * (1 if sha256 else threads)  # the sha256 of a whole file cannot be divided
        yield task(
            shard.name,
            "llmconv.tasks.actions:digest_shard",
            {"model": str(plan.checkpoint.path), "shard": shard.name, "threads": threads, "sha256": sha256},
            basename="checkpoint",
            targets=[layout.digests(shard.name)],
            watch=[shard],
            task_dep=[f"checkpoint:{before}"] if before else [],
            need=Need(memory=(30 + 10 * threads) * MB, seconds=0.1 + sizes[shard] / speed),
            doc=f"digests of the tensors in {shard.name}",
        )
