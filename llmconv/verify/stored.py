"""The tensors of a plan for the model's own maths, read apart from what the conversion reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llmconv.checkpoint.gguf.file import is_gguf
from llmconv.plan.plan import Plan
from llmconv.verify.dequantise import Dequantised

if TYPE_CHECKING:
    from llmconv.checkpoint.files import Checkpoint


def stored(plan: Plan, scales: str) -> Checkpoint:
    """Float tensors, those of quantised layers with scales rounded to `scales`. What is returned answers what recipes
    ask of a checkpoint."""
    if is_gguf(plan.checkpoint.shards[0]):
        from llmconv.verify.gguf_file import GgufFile

        return cast("Checkpoint", GgufFile.of(plan, scales))
    return cast("Checkpoint", Dequantised.of(plan, scales)) if plan.spec.stored else plan.checkpoint
