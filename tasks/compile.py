"""compile:NET: each net through the compiler, from its MLIR and its own tensors."""

from __future__ import annotations

from collections.abc import Iterator

from llmconv.engine import Need, task
from llmconv.estimate import compile_memory, compile_seconds, scratch_bytes
from llmconv.layout import Layout
from llmconv.plan import Plan

from .shapes import head


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield head("compile", "compile every net")
    for net in plan.nets:
        picks = [
            (layout.digests(shard.name), [n for n in net.tensors if plan.checkpoint.tensors[n].file == shard])
            for shard in plan.checkpoint.shards
        ]
        picks = [(path, names) for path, names in picks if names]
        flags = net.flags.to_dict()
        addresses = layout.addresses(net.stage_of) if net.stage_of else None
        saved = [layout.addresses(net.name)] if net.flags.address_assign and not net.stage_of else []
        yield task(
            net.name,
            "llmconv.actions:compile_net",
            {
                "net": net.name,
                "model": str(plan.job.model_path),
                "mlir": str(layout.mlir(net.name)),
                "weights": str(layout.weights(net.name)),
                "flags": flags,
                "addresses": str(addresses or ""),
                "scratch": str(layout.scratch(net.name)),
                "log": str(layout.log(net.name)),
                "keep": plan.job.debug,
            },
            basename="compile",
            targets=[layout.net(net.name), layout.facts(net.name), *saved],
            file_dep=[layout.mlir(net.name), layout.weights(net.name), layout.toolchain, *([addresses] if addresses else [])],
            picks=picks,
            reads=sorted({plan.checkpoint.tensors[n].file for n in net.tensors}),
            key={"flags": flags},
            need=Need(memory=compile_memory(net), disk=scratch_bytes(net), seconds=compile_seconds(net)),
            doc=f"compile {net.name}",
        )
