"""A net: what it is called, what goes in and out, how it is compiled, its graph, and what follows from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmconv.checkpoint import recipe
from llmconv.request.job import Job
from llmconv.toolchain import CompileFlags
from llmconv.top.graph import Graph
from llmconv.top.text import render

WEIGHT_FILE = "weights.npz"  # as the MLIR calls it


@dataclass(frozen=True)
class IO:
    """A tensor of a net's public contract with the runtimes: name, shape, dtype (bf16, f16, f32, i32)."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Net:
    """One net: what it is called, what goes in and out, how it is compiled, and its graph.

    stage_of: the net of the .bmodel that this one becomes a further stage of.
    window: tokens that a query may see, itself included; the runtime's attention_mask has to hide the older ones. None: all.
    """

    name: str
    kind: str
    layer: int | None
    flags: CompileFlags
    inputs: tuple[IO, ...]
    outputs: tuple[IO, ...]
    graph: Graph
    stage_of: str | None = None
    window: int | None = None

    @property
    def mlir(self) -> str:
        return render(self.graph, WEIGHT_FILE)

    @property
    def weights(self) -> list[dict[str, Any]]:
        """JSON form of the graph's weights: name, shape, dtype, recipe."""
        return [asdict(w) for w in self.graph.weights.values()]

    @property
    def tensors(self) -> list[str]:
        """Names of the checkpoint's tensors that this net is made of."""
        return sorted({n for w in self.graph.weights.values() for n in recipe.names(w.recipe)})

    @property
    def places(self) -> list[str]:
        """The paths of the weights that a runtime loads an adapter into."""
        return [op.attrs["path"] for op in self.graph.ops if op.kind == "Weight" and "path" in op.attrs]


def flags_for(job: Job, mode: str, **more: Any) -> CompileFlags:
    """Flags of a net that is compiled for all cores, with half-precision inputs and outputs unless `more` says otherwise."""
    return CompileFlags(**{"chip": job.chip, "mode": mode.upper(), "num_core": job.num_core, "quant_input": True, "quant_output": True} | more)


def ios(graph: Graph, float_type: str, outputs: Sequence[tuple[str, str]]) -> tuple[tuple[IO, ...], tuple[IO, ...]]:
    """The public tensors: float inputs are of `float_type`, ids i32; `outputs` gives (name, dtype) in order."""
    ins = tuple(IO(v.name, v.shape, "i32" if v.dtype == "si32" else float_type) for v in graph.inputs)
    return ins, tuple(IO(name, v.shape, dtype) for v, (name, dtype) in zip(graph.outputs, outputs, strict=True))
