"""merge: the nets become one .bmodel; config: what a runtime reads beside it; convert: the whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from llmconv.actions import NOT_CONFIG
from llmconv.engine import Need
from llmconv.estimate import KERNEL, coefficient_bytes
from llmconv.layout import Layout
from llmconv.plan import Plan

from .shapes import single

MB = 1 << 20


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    nets = [layout.net(net.name) for net in plan.nets]
    parts = [{"bare": str(bare), "facts": str(facts)} for bare, _, facts, _ in nets]
    epoch = timestamp(plan)
    yield single(
        "merge",
        "llmconv.actions:merge",
        {"nets": parts, "epoch": epoch},
        targets=[layout.bmodel(plan.folder), layout.facts("merged")],
        file_dep=[path for files in nets for path in files[:3]],
        key={"epoch": epoch, "nets": [n.name for n in plan.nets]},
        need=Need(memory=200 * MB, disk=coefficient_bytes(plan) + KERNEL),
        cacheable=False,
        doc=f"combine {len(nets)} nets to {plan.folder}.bmodel",
    )
    yield _config(plan, layout)
    yield single(
        "convert",
        None,
        task_dep=["export"] if plan.job.only_mlir else ["merge", "config", "manifest"],
        entry=True,
        doc="convert the checkpoint to a .bmodel (say model=DIR seq=512)",
    )


def _config(plan: Plan, layout: Layout) -> dict:
    embedding = plan.disk_tensors[0] if plan.disk_tensors else ""
    shards = [plan.checkpoint.tensors[n].file for n in plan.disk_tensors]
    return single(
        "config",
        "llmconv.actions:copy_config",
        {"model": str(plan.job.model_path), "embedding": embedding, "half": plan.job.half},
        targets=[layout.config],
        file_dep=sorted(p for p in plan.job.model_path.rglob("*") if p.is_file() and not _left_out(plan, p)),
        picks=[(layout.digests(shard.name), plan.disk_tensors) for shard in shards],
        reads=shards,
        key={"ignored": list(NOT_CONFIG), "embedding": [embedding, plan.job.half if embedding else ""]},
        need=Need(memory=150 * MB),
        cacheable=False,
        doc="copy configuration and tokenizer",
    )


def _left_out(plan: Plan, path) -> bool:
    from fnmatch import fnmatch

    return any(fnmatch(part, pattern) for part in path.relative_to(plan.job.model_path).parts for pattern in NOT_CONFIG)


def timestamp(plan: Plan) -> int:
    """Seconds since 1970 for the file's time field: SOURCE_DATE_EPOCH, else a fixed value derived from what is built."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdigit():
        return int(given)
    return 1_577_836_800 + int(hashlib.sha256(plan.folder.encode()).hexdigest()[:6], 16)
