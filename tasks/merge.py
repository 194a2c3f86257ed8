"""merge: combine the nets to one .bmodel. config: copy what a runtime reads beside it. convert: the whole.

A pipeline of devices also gets a file for each: merge:dev0, merge:dev1 and so on. They come before the whole, which may
use up the coefficients of the nets (--slim).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmconv.bmodel.step import step
from llmconv.engine import Need, task
from llmconv.plan.devices import configuration, groups
from llmconv.plan.estimate import KERNEL, coefficient_bytes
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import head, reading, single

MB = 1 << 20
MERGED = 200e6  # bytes per second that are written and digested, about


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    several = groups(plan)
    if several:
        yield head("merge", f"combine the nets to one .bmodel, and to one for each of {len(several)} devices")
        yield {**_whole(plan, layout, "all"), "task_dep": [f"merge:{group.name}" for group in several]}
        for group in several:
            nets = [net for net in plan.nets if net.name in group.nets]
            yield _merge(
                plan,
                layout,
                {"basename": "merge", "name": group.name},
                layout.out / group.file,
                f"merged_{group.name}",
                nets,
            )
        yield _combination(plan, layout)
    else:
        yield _whole(plan, layout, None)
    yield _config(plan, layout)
    yield single(
        "convert",
        None,
        task_dep=["export"] if plan.job.only_mlir else ["merge", "config", "manifest", "sums"],
        entry=True,
        doc="convert the checkpoint to a .bmodel (say model=DIR seq=512)",
    )


def _whole(plan: Plan, layout: Layout, name: str | None) -> dict:
    """Combine all nets. Their coefficients are in the result then, and need not lie beside it."""
    spends = [layout.net(net.name)[1] for net in plan.nets if plan.origins[net.name].owner is None]
    called = {"basename": "merge", "name": name}
    return _merge(plan, layout, called, layout.bmodel(plan.folder), "merged", plan.nets, spends)


def _merge(
    plan: Plan,
    layout: Layout,
    called: dict,
    target: Path,
    facts: str,
    nets: Sequence[Net],
    spends: Sequence[Path] = (),
) -> dict:
    """Combine some of the plan's nets to `target`. Any net may have its coefficients in another's file. spends: those
    that may be moved."""
    epoch, files = timestamp(plan), {net.name: layout.net(net.name) for net in plan.nets}
    size = coefficient_bytes(nets)
    moved = _moved(size) if spends else 0
    return task(
        called["name"],
        "llmconv.tasks.actions:merge",
        {
            "nets": [{"bare": str(files[net.name][0]), "facts": str(files[net.name][2])} for net in nets],
            "epoch": epoch,
            "spends": [str(path) for path in spends],
        },
        basename=called["basename"],
        targets=[target, layout.facts(facts)],
        # the kernel module is the compiler's
        file_dep=[layout.toolchain, *(path for paths in files.values() for path in paths[:3])],
        key={"epoch": epoch, "nets": [n.name for n in nets]},
        need=Need(memory=200 * MB, disk=size + KERNEL, seconds=0.1 + size / MERGED, spent=moved),
        cacheable=False,
        spends=spends,
        unfinished=layout.unfinished if spends else "",
        doc=f"combine {len(nets)} nets to {target.name}",
    )


def _moved(size: int) -> int:
    """Bytes of a result that need no room beside its parts."""
    return max(0, size - 2 * step(size))


def _combination(plan: Plan, layout: Layout) -> dict:
    target, text = layout.combination(plan.folder), configuration(plan)
    return task(
        "config",
        "llmconv.tasks.actions:write_text",
        {"files": {str(target): text}},
        basename="merge",
        targets=[target],
        key={"text": text},
        need=Need(memory=0, seconds=0.01),
        cacheable=False,
        local=True,
        doc="which nets are on which device",
    )


def _config(plan: Plan, layout: Layout) -> dict:
    embedding = plan.disk_tensors[0] if plan.disk_tensors else ""
    arrays = {one.name: one.recipe for one in plan.beside}
    return single(
        "config",
        "llmconv.tasks.actions:copy_config",
        {
            "model": str(plan.checkpoint.path),
            "files": list(plan.copied),
            "embedding": embedding,
            "half": plan.job.half,
            "arrays": arrays,
        },
        targets=[layout.config],
        file_dep=sorted(plan.checkpoint.path / name for name in plan.copied),
        **reading(plan, layout, [*plan.disk_tensors, *plan.beside_tensors]),
        key={"files": list(plan.copied), "embedding": [embedding, plan.job.half if embedding else ""]}
        | ({"arrays": arrays} if arrays else {}),
        need=Need(memory=150 * MB, seconds=0.2),
        cacheable=False,
        doc="copy configuration and tokenizer",
    )


def timestamp(plan: Plan) -> int:
    """Seconds since 1970 for the file's time field: SOURCE_DATE_EPOCH, else a fixed value derived from what is
    built.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdigit():
        return int(given)
    return 1_577_836_800 + int(hashlib.sha256(plan.folder.encode()).hexdigest()[:6], 16)
