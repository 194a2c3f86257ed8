"""checkpoint:SHARD: digests of the tensors of each shard, so that a net is rebuilt when its own tensors change.

A large shard has several runs: SHARD, SHARD.2 and so on.
"""

from __future__ import annotations

import os
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
    cores, runs = os.cpu_count() or 1, plan.checkpoint.runs
    at_once = max(1, cores // 2)
    threads = max(1, cores // min(at_once, len(runs)))
    # what takes longest is read first; the others wait for nets that can be stamped, which then find what they read in
    # memory: so a checkpoint that is larger than that is read from the disk once
    ordered = sorted(runs, key=lambda run: -run.largest)
    for number, run in enumerate(ordered):
        before = ordered[number - at_once].name if number >= at_once else ""
        sha256 = plan.checkpoint.sha256.get(run.shard.name, "")
        only = () if run.whole else run.tensors
        speed = DIGESTED * (1 if sha256 else threads)  # the sha256 of a whole file cannot be divided
        yield task(
            run.name,
            "llmconv.tasks.actions:digest_shard",
            {
                "model": str(plan.checkpoint.path),
                "shard": run.shard.name,
                "only": only,
                "threads": threads,
                "sha256": sha256,
            },
            basename="checkpoint",
            targets=[layout.digests(run.name)],
            watch=[run.shard],
            key={"tensors": only} if only else {},
            task_dep=[f"checkpoint:{before}"] if before else [],
            need=Need(memory=(30 + 10 * threads) * MB, seconds=0.1 + run.nbytes / speed, last=bool(before)),
            doc=f"digests of {f'{len(only)} of ' if only else ''}the tensors in {run.shard.name}",
        )
