"""The nets at both ends of a decoder: token embedding and language-model head."""

from __future__ import annotations

from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph


def embedding(name: str, spec: Spec, length: int, dtype: str) -> Graph:
    """input_ids [1, L] -> [1, L, H], rows of the token table [V, H].

    dtype: type of the table in the weight file. bf16 (its raw bits) spares the compiler a float32 copy of a large table.
    """
    g = Graph(name)
    ids = g.input("input_ids", (1, length), "si32")
    path = spec.path("embedding")
    table = g.weight(f"{path}.weight", (spec.vocab, spec.hidden), ("tensor", f"{path}.weight"), dtype)
    return g.output(g.Gather(table, ids, name=name))


def lm_head(spec: Spec, dtype: str) -> Graph:
    """hidden_states [1, H] -> token_id [1, 1], the index of the largest logit.

    The table is the left operand so that the compiler stores it as it stores the embedding's: tied models then share it.
    """
    g = Graph("lm_head")
    x = g.input("hidden_states", (1, spec.hidden))
    path = spec.path("head")
    source = spec.path("embedding" if spec.tied else "head")
    table = g.weight(f"{path}.weight", (spec.vocab, spec.hidden), ("tensor", f"{source}.weight"), dtype)
    logits = g.MatMul(table, x, g.none, right_transpose=True, name=path)
    logits = g.Reshape(logits, to=(1, spec.vocab), name=f"{path}.reshape")
    _, index = g.TopK(logits, axis=1, K=1, name=("token_value", "token_id"))
    return g.output(index)
