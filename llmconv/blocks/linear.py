"""Linear layers and norms of a decoder block."""

from __future__ import annotations

from dataclasses import dataclass

from llmconv.blocks.packed import floats, matmul, ordered_by, packed
from llmconv.blocks.spec import ACTIVATIONS, Spec
from llmconv.top.graph import Graph, Value


@dataclass(frozen=True)
class Piece:
    """The number-th of `count` equal pieces of an MLP: of gate and up its outputs, of down its inputs."""

    number: int
    count: int

    @property
    def suffix(self) -> str:
        """What the names of its weights and operations end with."""
        return f"_{self.number}" if self.count > 1 else ""

    def of(self, role: str, size: tuple[int, int], source: tuple) -> tuple[tuple[int, int], tuple]:
        """(K, N) and the recipe [N, K] of the piece, from those of the whole linear."""
        if self.count == 1:
            return size, source
        k, n = size
        kind, total = ("columns", k) if role == "down" else ("rows", n)
        step = total // self.count
        part = (kind, source, self.number * step, (self.number + 1) * step, total)
        return (step, n) if role == "down" else (k, step), part


WHOLE = Piece(0, 1)


def linear(g: Graph, spec: Spec, role: str, layer: int, x: Value, adapted: bool = True, piece: Piece = WHOLE) -> Value:
    """x [B, L, K] times the role's weight, stored [N, K] by HuggingFace and [K, N] in the net, plus its bias, plus LoRA
    (where adapters are made for the role). piece: of a linear of an MLP without biases and adapters.
    """
    path = spec.path(role, layer) + piece.suffix
    (k, n), source = piece.of(role, spec.linear(role), spec.source(role, layer))
    bias = (
        g.weight(f"{path}.bias", (1,) * (len(x.shape) - 1) + (n,), spec.source(role, layer, "bias"))
        if role in spec.bias
        else g.none
    )
    if weight := packed(spec, source, n):
        out = matmul(g, path, weight, (k, n), x, bias, ordered_by(spec, role, layer, weight))
    else:
        source = floats(spec, source)
        source = source[1] if source[0] == "transpose" else ("transpose", source)
        dtype = spec.kept.get((layer, role), "f32")  # the compiler leaves alone what is in half precision already
        out = g.MatMul(x, g.weight(f"{path}.weight", (k, n), source, dtype), bias, name=path)
    return lora(g, path, path, x, out, (k, n)) if g.lora_rank and adapted else out


def lora(g: Graph, path: str, name: str, x: Value, base: Value, shape: tuple[int, int], first: float = 0.0) -> Value:
    """base + x A^T B, beside a linear of `shape` (K, N): room for an adapter of rank r.

    A [r, K] is filled with `first`, B [r, N] with zeros. The runtime finds them by their path attribute,
    lora.<rank>.<axis of the rank>.<weight>. B is PEFT's transposed; scaling by alpha / r is the runtime's part.
    """
    (k, n), r = shape, g.lora_rank
    a, b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
    down = g.weight(a, (r, k), ("fill", (r, k), first), path=f"lora.{r}.0.{a}")
    y = g.MatMul(x, down, g.none, right_transpose=True, is_lora=True, name=f"{name}.lora_A")
    up = g.weight(b, (r, n), ("fill", (r, n), 0.0), path=f"lora.{r}.0.{b}")
    y = g.MatMul(y, up, g.none, is_lora=True, name=f"{name}.lora_B")
    return g.Add(base, y, name=f"{name}.lora_add")


def rms_norm(g: Graph, spec: Spec, role: str, layer: int | None, x: Value, name: str | None = None) -> Value:
    """RMSNorm over the last axis by the role's weight; x itself where the family has no such norm.

    The operation is named after its weight unless `name` says otherwise. Weights with an offset (1 + w) stay float32 in
    the net, because bf16 would lose the low bits of w. Dynamic nets cannot read float32 ones (Spec.float_norms).
    """
    if role not in spec.names:
        return x
    path = spec.path(role, layer)
    recipe: tuple = ("tensor", f"{path}.weight")
    if spec.norm_offset:
        recipe = ("add", recipe, spec.norm_offset)
    weight = g.weight(f"{path}.weight", (1,) * (len(x.shape) - 1) + (x.shape[-1],), recipe)
    return g.RMSNorm(
        x, weight, eps=spec.eps, weight_keep_f32=bool(spec.norm_offset) and spec.float_norms, name=name or path
    )


def activated(g: Graph, spec: Spec, path: str, x: Value) -> Value:
    """act(x) by config.json; x: the output of the linear `path`."""
    kind, attrs = ACTIVATIONS[spec.activation]
    return g.op(kind, x, **attrs, name=f"{path}.{kind.lower()}")


def scale(g: Graph, x: Value, factor: float, name: str) -> Value:
    """x * factor; x itself where the factor is 1."""
    return x if factor == 1 else g.MulConst(x, const_val=factor, name=name)
