"""compile:NET: each net through the compiler, from its MLIR and its own tensors."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from llmconv.engine import Need, task
from llmconv.layout import Layout
from llmconv.plan import Net, Plan

from .shapes import head

MB = 1 << 20


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield head("compile", "compile every net")
    for net in plan.nets:
        picks = [
            (layout.digests(shard.name), [n for n in net.tensors if plan.checkpoint.tensors[n].file == shard])
            for shard in plan.checkpoint.shards
        ]
        picks = [(path, names) for path, names in picks if names]
        flags = net.flags.to_dict()
        yield task(
            net.name,
            "llmconv.actions:compile_net",
            {
                "net": net.name,
                "model": str(plan.job.model_path),
                "mlir": str(layout.mlir(net.name)),
                "weights": str(layout.weights(net.name)),
                "flags": flags,
                "scratch": str(layout.scratch(net.name)),
                "log": str(layout.log(net.name)),
                "keep": plan.job.debug,
            },
            basename="compile",
            targets=[layout.net(net.name), layout.facts(net.name)],
            file_dep=[layout.mlir(net.name), layout.weights(net.name), layout.toolchain],
            picks=picks,
            reads=sorted({plan.checkpoint.tensors[n].file for n in net.tensors}),
            key={"flags": flags},
            need=Need(memory=estimate(net)),
            doc=f"compile {net.name}",
        )


def estimate(net: Net) -> int:
    """Bytes of memory that compiling a net takes: measured at 2.6 times its float32 weights (7B block, bf16), 3 times
    its bf16 tables, on top of a fixed part."""
    tables = sum(2 * prod(w.shape) for w in net.graph.weights.values() if w.dtype == "bf16")
    floats = sum(4 * prod(w.shape) for w in net.graph.weights.values() if w.dtype == "f32")
    return 150 * MB + int(2.6 * floats) + 3 * tables
