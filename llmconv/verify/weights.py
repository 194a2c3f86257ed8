"""The checkpoint's weights as the chip has them: rounded to half precision, quantised linears dequantised again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llmconv.checkpoint import recipe
from llmconv.chips import CHIPS
from llmconv.plan.plan import Plan
from llmconv.runtime.half import half

if TYPE_CHECKING:
    import numpy as np

    from llmconv.checkpoint.files import Checkpoint
    from llmconv.checkpoint.tensor import TensorInfo

WIDTH = 64


@dataclass(frozen=True)
class Precision:
    """How weights are stored. dtype: bf16 or f16 (f32: as in the checkpoint). bits: 4 or 8 with `group` inputs per
    scale, else 16. scales: type of the scales of weights that the checkpoint has quantised (f32: as there). coded:
    layers of which a linear whose outputs are no multiple of WIDTH stays in half precision. kept: tensors of linears
    that do in any case. head: how the head is stored where llmconv quantises it, and head_rows: how many of its rows
    are; the others are in half precision.
    """

    dtype: str = "f32"
    bits: int = 16
    group: int = 0
    symmetric: bool = False
    scales: str = "f32"
    coded: frozenset[int | None] = frozenset()
    kept: frozenset[str] = frozenset()
    head: Precision | None = None
    head_rows: int = 0

    @classmethod
    def of(cls, plan: Plan) -> Precision:
        """The chip's precision. Weights that the checkpoint has quantised are dequantised and rounded."""
        job = plan.job
        head = cls._of_head(plan) if plan.spec.head_bits < 16 else {}
        return (
            cls(job.half, scales=job.half, **head)
            if plan.spec.packed
            else cls(
                job.half,
                job.weight_bits,
                job.q_group_size,
                job.symmetric,
                coded=frozenset(net.layer for net in plan.nets if net.flags.coded),
                kept=frozenset(_kept(plan)),
                **head,
            )
        )

    @classmethod
    def _of_head(cls, plan: Plan) -> dict[str, Any]:
        """The fields of a quantised head. The compiler quantises as many rows as fill all lanes of all cores; of a head
        with fewer rows than lanes all of them."""
        job, chip, vocab = plan.job, CHIPS[plan.job.chip], plan.spec.vocab
        step = chip.lanes * (job.num_core if chip.cores > 1 else 1)
        rows = vocab if vocab < chip.lanes else vocab - vocab % step if vocab % chip.lanes else vocab
        return {"head": cls(job.half, plan.spec.head_bits, job.head_group, job.symmetric), "head_rows": rows}

    def of_linear(self, weight: np.ndarray, layer: int | None = None) -> np.ndarray:
        """What the weight [N, K] of a linear of block `layer` becomes: where there are 4 or 8 bits,
        (code - zero point) * scale of each group.
        """
        if self.bits == 16 or (layer in self.coded and len(weight) % WIDTH):
            return half(weight, self.dtype)
        from llmconv.coefficients.quantize import Scheme, dequantize, quantize

        scheme = Scheme(self.bits, self.group, self.symmetric, self.dtype)
        return dequantize(*quantize(weight, scheme), scheme)

    def of_parameter(self, source: tuple, tensors: Checkpoint, layer: int | None = None) -> np.ndarray:
        """What a linear of block `layer` becomes, from the recipe of its weight; one of three axes holds those of all
        experts."""
        names = set(recipe.names(source))
        if names and names <= self.kept:
            return self.of_other(recipe.evaluate(source, tensors))
        if names & self.kept:  # several tensors side by side, whose rows are quantised each by itself
            return recipe.evaluate(source, cast("Checkpoint", _Rounded(self, tensors, layer)))
        return self.of_rows(recipe.evaluate(source, tensors), layer)

    def of_rows(self, values: np.ndarray, layer: int | None = None) -> np.ndarray:
        """As `of_linear`, for weights [N, K] or [experts, N, K]."""
        import numpy as np

        if values.ndim == 3:
            return np.stack([self.of_linear(one, layer) for one in values])
        return self.of_linear(values, layer)

    def of_head(self, rows: np.ndarray, first: int) -> np.ndarray:
        """The chip's values of rows of the head [N, K], which begin with row `first`."""
        if not self.head:
            return self.of_other(rows)
        import numpy as np

        count = min(max(0, self.head_rows - first), len(rows))
        return np.concatenate([self.head.of_linear(rows[:count]), self.of_other(rows[count:])])

    def of_other(self, values: np.ndarray) -> np.ndarray:
        """The chip's values of any other weight."""
        return half(values, self.dtype)


@dataclass(frozen=True)
class _Rounded:
    """Tensors of linears as the chip has them, for the recipe of a parameter that is made of kept ones and others."""

    precision: Precision
    tensors: Checkpoint
    layer: int | None

    def info(self, name: str) -> TensorInfo:
        return self.tensors.info(name)

    def float32(self, name: str, *part: Any) -> np.ndarray:
        """As Checkpoint.float32."""
        values, precision = self.tensors.float32(name, *part), self.precision
        return precision.of_other(values) if name in precision.kept else precision.of_rows(values, self.layer)


def _kept(plan: Plan) -> Iterator[str]:
    """The checkpoint's tensors that `keep_half` keeps."""
    for layer, role in plan.spec.kept:
        yield from recipe.names(plan.spec.source(role, layer))
