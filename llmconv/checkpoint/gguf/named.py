"""A tensor of GGUF files by HuggingFace's name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmconv.checkpoint.gguf.joined import Joined
from llmconv.checkpoint.gguf.values import KEPT, How, Values
from llmconv.checkpoint.tensor import TensorInfo

# names of the weights of linear layers, which may keep their integers
_LINEAR = re.compile(
    r"(?P<path>model\.(language_model\.)?layers\.\d+\.(self_attn|mlp|mlp\.experts\.\d+|mlp\.shared_expert)"
    r"\.[a-z_]+_proj|lm_head)\.weight"
)
# parts of a layer in compressed-tensors' form
PARTS: tuple[tuple[str, How], ...] = (("packed", "codes"), ("scale", "scales"))


@dataclass(frozen=True)
class Named:
    """One tensor as HuggingFace has it, before it is decided whether it keeps its integers."""

    name: str
    values: Values | Joined
    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """GGUF's type."""
        return self.values.kind

    @property
    def linear(self) -> bool:
        """Whether it is the weight of a linear layer that may keep its integers, if they are of such a type."""
        return _LINEAR.fullmatch(self.name) is not None

    @property
    def packable(self) -> str:
        """The path of the layer whose integers can stay, or ""."""
        return self.name.removesuffix(".weight") if self.linear and self.kind in KEPT else ""

    @property
    def nbytes(self) -> int:
        """In the file."""
        return sum(size for _, size in self.values.spans)

    @property
    def whole(self) -> TensorInfo:
        """With its values."""
        return self.values.info(self.name, self.shape)

    def packed(self) -> Iterator[TensorInfo]:
        """The integers and the scales."""
        if isinstance(self.values, Values):
            for part, how in PARTS:
                values = replace(self.values, how=how)
                yield values.info(f"{self.packable}.weight_{part}", (values.rows, values.width))
