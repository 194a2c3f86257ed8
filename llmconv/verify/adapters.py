"""LoRA: an adapter of random numbers, loaded as a runtime loads one, and what it adds to the model's own weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.bmodel.read import BModel
from llmconv.errors import ToolError
from llmconv.nets import Net
from llmconv.plan import Plan
from llmconv.verify.weights import half

if TYPE_CHECKING:
    import numpy as np

ROLES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class Adapter:
    """weights: A [r, K] and B [r, N] of every linear (the embedding's A is [V, r]), by the names that they have in the nets;
    paths: a linear's recipe for its weight -> its path in the nets; embedding, head: their paths."""

    weights: Mapping[str, np.ndarray]
    paths: Mapping[tuple, str] = field(repr=False)
    embedding: str
    head: str

    @classmethod
    def random(cls, plan: Plan, rng: np.random.Generator) -> Adapter:
        """One that changes every linear of the plan's nets about as much as the linear itself gives."""
        weights: dict[str, np.ndarray] = {}
        for net in plan.nets:
            for op in net.graph.ops:
                if op.kind == "Weight" and "path" in op.attrs and op.results[0].name not in weights:
                    name, shape = op.results[0].name, op.results[0].shape
                    inner = shape[1] if ".lora_A." in name and "Gather" not in {o.kind for o in net.graph.ops} else plan.job.lora_max_rank
                    weights[name] = half(rng.standard_normal(shape) * inner**-0.5, plan.job.half)
        spec = plan.spec
        paths = {spec.source(role, layer): spec.path(role, layer) for layer in range(spec.layers) for role in ROLES}
        return cls(weights, paths, spec.path("embedding"), spec.path("head"))

    def parts(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """(A, B) of the linear `path`."""
        return self.weights[f"{path}.lora_A.weight"], self.weights[f"{path}.lora_B.weight"]

    def added(self, source: tuple, weight: np.ndarray) -> np.ndarray:
        """The weight [N, K] that the model has from recipe `source`, with what the adapter adds to it: all of it, or some rows."""
        made = weight.copy()
        for recipe, path in self.paths.items():
            if recipe == source:
                first, last = 0, len(made)
            elif recipe[0] == "rows" and recipe[1] == source:
                first, last = recipe[2:4]
            else:
                continue
            if f"{path}.lora_A.weight" not in self.weights:  # a layer of another kind, which has no such linear
                continue
            a, b = self.parts(path)
            made[first:last] += b.T @ a
        return made

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """What is added to the embedding's rows `ids` [n]: [n, H]."""
        a, b = self.parts(self.embedding)
        return a[ids] @ b

    def of_head(self, first: int, last: int) -> np.ndarray:
        """What is added to rows first to last of the head's weight [V, H]."""
        a, b = self.parts(self.head)
        return b[:, first:last].T @ a


def adapted(net: Net) -> bool:
    """Whether the net has room for an adapter."""
    return bool(net.places)


def load(adapter: Adapter, bmodel: Path, target: Path) -> None:
    """Copy a .bmodel and write the adapter into its coefficients, where its table of locations names them
    (lora.<rank>.<axis of the rank>.<weight>). ToolError when it names one that the adapter lacks, or not all of the adapter's."""
    import numpy as np

    from llmconv import numeric

    shutil.copyfile(bmodel, target)
    nets, found = BModel.read(bmodel).nets, set()
    with target.open("r+b") as file:
        for stage in (stage for net in nets for stage in net.stages):
            for entry in stage.locations:
                if not entry.name.startswith("lora."):
                    continue
                name = entry.name.split(".", 3)[3]
                values = adapter.weights.get(name)
                if values is None or values.size * 2 > entry.size:
                    raise ToolError(f"{bmodel} has no room for an adapter's {name}", "its table of coefficients is not the plan's")
                convert = numeric.to_bf16 if numeric.from_bf16(numeric.to_bf16(values)).tobytes() == values.astype(np.float32).tobytes() else numeric.to_f16
                file.seek(stage.coeff.offset + entry.offset)
                file.write(convert(values).tobytes())
                found.add(name)
    if missing := set(adapter.weights) - found:
        raise ToolError(f"{bmodel} has no place for an adapter's {min(missing)}", "its table of coefficients does not name it")
