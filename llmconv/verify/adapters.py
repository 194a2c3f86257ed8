"""LoRA: an adapter of random numbers, loaded as a runtime loads one, and its terms in the model's linears."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.bmodel.read import BModel
from llmconv.errors import ToolError
from llmconv.plan.plan import Plan
from llmconv.runtime.half import half

if TYPE_CHECKING:
    import numpy as np

MLP = ("gate", "up", "down")
SHARED = ("shared_gate", "shared_up", "shared_down")  # of the expert beside routed ones


@dataclass(frozen=True)
class Adapter:
    """weights: A [r, K] and B [r, N] of every linear (the embedding's A is [V, r]), by their names in the nets.

    paths: the recipe of a linear's weight -> its path in the nets; embedding, head: their paths; dtype: bf16 or f16,
    the type of A and B in the file.
    """

    weights: Mapping[str, np.ndarray]
    paths: Mapping[tuple, str] = field(repr=False)
    embedding: str
    head: str
    dtype: str

    @classmethod
    def random(cls, plan: Plan, rng: np.random.Generator) -> Adapter:
        """An adapter that changes the output of every linear by about an eighth.

        That is far more than any tolerance, and too little to make the attention of random heads too sharp for half
        precision.
        """
        weights: dict[str, np.ndarray] = {}
        for net in plan.nets:
            for op in net.graph.ops:
                if op.kind == "Weight" and "path" in op.attrs and op.results[0].name not in weights:
                    name, shape = op.results[0].name, op.results[0].shape
                    inner = (
                        shape[1]
                        if ".lora_A." in name and "Gather" not in {o.kind for o in net.graph.ops}
                        else plan.job.lora_max_rank
                    )
                    strength = 1 / 8 if ".lora_A." in name else 1
                    weights[name] = half(strength * rng.standard_normal(shape) * inner**-0.5, plan.job.half)
        spec = plan.spec
        paths = {
            spec.source(role, layer): spec.path(role, layer)
            for layer in range(spec.layers)
            for role in (*spec.kinds[layer].mixer.linears(spec), *MLP, *(SHARED if spec.experts else ()))
        }
        return cls(weights, paths, spec.path("embedding"), spec.path("head"), plan.job.half)

    def parts(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """(A, B) of the linear `path`."""
        return self.weights[f"{path}.lora_A.weight"], self.weights[f"{path}.lora_B.weight"]

    def parts_of(self, source: tuple) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """The parts of the model's linear whose weight [N, K] has the recipe `source`: (first, last, A, B) each.

        B^T A is added to the rows first to last of the weight: to all of them, or to one role's in a fused tensor.
        """
        whole, start, end = _rows(source)
        for recipe, path in self.paths.items():
            tensor, first, last = _rows(recipe)
            if (
                tensor == whole
                and f"{path}.lora_A.weight" in self.weights
                and (end is None or (last is not None and start <= first and last <= end))
            ):
                a, b = self.parts(path)
                yield first - start, first - start + b.shape[1], a, b

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The adapter's term for the embedding's rows `ids` [n]: [n, H]."""
        a, b = self.parts(self.embedding)
        return a[ids] @ b

    def of_head(self, first: int, last: int) -> np.ndarray:
        """The adapter's term for rows first to last of the head's weight [V, H]."""
        a, b = self.parts(self.head)
        return b[:, first:last].T @ a


def load(adapter: Adapter, files: Sequence[Path], folder: Path) -> list[Path]:
    """Copy a plan's .bmodel files to `folder`, and write the adapter into the coefficients of the copies.

    A file's table of locations names the places: lora.<rank>.<axis of the rank>.<weight>. Returns the copies. Raises
    ToolError when a table names a weight that the adapter lacks, or when no table names one of the adapter's.
    """
    copies = [Path(shutil.copyfile(file, folder / file.name)) for file in files]
    found = {name for copy in copies for name in _write(adapter, copy)}
    if missing := set(adapter.weights) - found:
        raise ToolError(
            f"{files[0]} has no place for an adapter's {min(missing)}", "its table of coefficients does not name it"
        )
    return copies


def _write(adapter: Adapter, target: Path) -> set[str]:
    """Write the adapter into one file; returns the names that it has a place for."""
    from llmconv import numeric

    nets, found = BModel.read(target).nets, set()
    with target.open("r+b") as file:
        for stage in (stage for net in nets for stage in net.stages):
            for entry in stage.locations:
                if not entry.name.startswith("lora."):
                    continue
                name = entry.name.split(".", 3)[3]
                values = adapter.weights.get(name)
                if values is None or values.size * 2 > entry.size:
                    raise ToolError(
                        f"{target} has no room for an adapter's {name}", "its table of coefficients is not the plan's"
                    )
                file.seek(stage.coeff.offset + entry.offset)
                file.write((numeric.to_bf16 if adapter.dtype == "bf16" else numeric.to_f16)(values).tobytes())
                found.add(name)
    return found


def _rows(recipe: tuple) -> tuple[tuple, int, int | None]:
    """A recipe as rows first to last of another; last is None for all of them."""
    return (recipe[1], recipe[2], recipe[3]) if recipe[0] == "rows" else (recipe, 0, None)
