"""The nets at both ends of a decoder: token embedding, language-model head, sampling heads, and LoRA for them."""

from __future__ import annotations

from llmconv.blocks.drawing import RIGHT, TABLE
from llmconv.blocks.linear import lora, rms_norm, scale
from llmconv.blocks.packed import floats, matmul, packed
from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value

MAX_TOP_K = 50  # candidates that sample_head considers
MIN_KEPT = 5  # best candidates that top-p never drops


def embedding(name: str, spec: Spec, length: int, dtype: str) -> Graph:
    """input_ids [1, L] -> [1, L, H], rows of the token table [V, H], times the family's embedding scale.

    dtype: type of the table in the weight file. bf16 (its raw bits) spares the compiler a float32 copy of a large
    table.
    """
    g = Graph(name)
    ids = g.input("input_ids", (1, length), "si32")
    path = spec.path("embedding")
    table = g.weight(f"{path}.weight", (spec.rows, spec.hidden), ("tensor", f"{path}.weight"), dtype)
    return g.output(scale(g, g.Gather(table, ids, name=name), spec.embedding_scale, f"{name}.scale"))


def embedding_lora(name: str, spec: Spec, length: int, rank: int) -> Graph:
    """input_ids [1, L] and the embedding's input_states [1, L, H] -> input_states + scale * A[ids] B, with A [V, r] and
    B [r, H].
    """
    g = Graph(name)
    ids = g.input("input_ids", (1, length), "si32")
    states = g.input("input_states", (1, length, spec.hidden))
    path = spec.path("embedding")
    a, b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
    down = g.weight(a, (spec.rows, rank), ("fill", (spec.rows, rank), 0.0), path=f"lora.{rank}.1.{a}")
    y = g.Gather(down, ids, name=f"{name}.lora_A")
    up = g.weight(b, (rank, spec.hidden), ("fill", (rank, spec.hidden), 0.0), path=f"lora.{rank}.0.{b}")
    y = g.MatMul(y, up, g.none, is_lora=True, name=f"{name}.lora_B")
    y = scale(g, y, spec.embedding_scale, f"{name}.scale")
    return g.output(g.Add(states, y, name=f"{name}.lora_add"))


def lm_head(spec: Spec, dtype: str, greedy: bool = True, norm: bool = False) -> Graph:
    """hidden_states [1, H] -> if `greedy` token_id [1, 1], the index of the largest logit, else the logits [1, V].

    norm: begin with the final norm, which is in the last block otherwise. dtype: as in `embedding`. The table is the
    left operand, or the transposed right one, so that the compiler stores it as it stores the embedding's: tied models
    then share it. A head that the checkpoint holds quantised, or that llmconv quantises, is a linear layer like others.
    """
    quantised = spec.head_bits < 16
    g = Graph("lm_head", platform="LLM" if quantised else spec.platform)
    path = spec.path("head")
    x = g.input("hidden_states", (1, spec.hidden))
    x = scale(g, rms_norm(g, spec, "norm", None, x) if norm else x, spec.logit_scale, f"{path}.scale")
    source = ("tensor", f"{spec.path('embedding' if spec.tied else 'head')}.weight")
    if weight := packed(spec, source, spec.vocab):
        logits = matmul(g, path, weight, (spec.hidden, spec.vocab), x, g.none)
    elif quantised or spec.drawing.head == RIGHT:
        weight = g.weight(f"{path}.weight", (spec.hidden, spec.vocab), ("transpose", floats(spec, source)))
        logits = g.MatMul(x, weight, g.none, name=path)
    else:
        table = g.weight(f"{path}.weight", (spec.vocab, spec.hidden), floats(spec, source), dtype)
        operands = (x, table) if spec.drawing.head == TABLE else (table, x)
        logits = g.MatMul(*operands, g.none, right_transpose=True, name=path)
    logits = g.Reshape(logits, to=(1, spec.vocab), name=f"{path}.reshape")
    return g.output(best(g, logits) if greedy else logits)


def best(g: Graph, logits: Value) -> Value:
    """token_id [1, 1]: the index of the largest of logits [1, V]."""
    return g.TopK(logits, axis=1, K=1, name=("token_value", "token_id"))[1]


def lm_head_lora(spec: Spec, rank: int) -> Graph:
    """input_states [1, H] and input_logits [1, V] -> input_logits + input_states A^T B."""
    name = "lm_head_lora"
    g = Graph(name, lora_rank=rank)
    x = g.input("input_states", (1, spec.hidden))
    logits = g.input("input_logits", (1, spec.vocab))
    x = scale(g, x, spec.logit_scale, f"{spec.path('head')}.scale")
    # A is 1 on disk: zeros would be the embedding adapter's blob too, and loading one adapter would change the other
    g.output(lora(g, spec.path("head"), name, x, logits, (spec.hidden, spec.vocab), first=1.0))
    g.lora_rank = 0  # only block modules carry module.lora_rank
    return g


def greedy_head(spec: Spec) -> Graph:
    """m_logits [1, V] -> token_id [1, 1]."""
    g = Graph("greedy_head")
    return g.output(best(g, g.input("m_logits", (1, spec.vocab))))


def sample_head(spec: Spec, capacity: int) -> Graph:
    """Penalty, temperature, top-k and top-p: candidates and their probabilities.

    Inputs: m_logits [1, V], input_ids [1, S] (tokens so far), penalty, temperature, top_k, top_p [1]. Outputs: the
    probabilities and token_idx, [1, 50] each.

    Logits of input_ids are divided by the penalty (multiplied when negative). The top_k best are divided by the
    temperature. Of these, the 5 best are kept, and those whose cumulated probability stays below top_p. The rest get
    -1000 before the last softmax.
    """
    g = Graph("sample_head")
    logits = g.input("m_logits", (1, spec.vocab))
    ids = g.input("input_ids", (1, capacity), "si32")
    penalty, temperature = g.input("penalty", (1,)), g.input("temperature", (1,))
    top_k = g.input("top_k", (1,), "si32", shape_tensor=(MAX_TOP_K,))
    top_p = g.input("top_p", (1,))
    seen = g.GatherElements(logits, ids, axis=1, name="GatherElements")
    negative = g.CompareConst(seen, const_val=0.0, name="CompareConst")
    seen = g.Where(negative, g.Mul(seen, penalty, name="Mul"), g.Div(seen, penalty, name="Div0"), name="Where0")
    logits = g.ScatterElements(logits, ids, seen, axis=1, name="ScatterElements")
    values, index = g.TopK(logits, top_k, axis=1, K=MAX_TOP_K, name=("token_value", "token_idx"))
    scaled = g.Div(values, temperature, name="Div1")
    odds = g.Softmax(scaled, axis=1, name="Softmax0")
    one = g.weight("Constant0", (1,), ("values", (1.0,)))
    total = g.CumSum(odds, one, axis=1, name="CumSum")
    kept = g.Compare(total, top_p, name="Compare")
    places = tuple((0.0, float(i)) for i in range(MIN_KEPT))
    where = g.weight("Constant1", (1, MIN_KEPT, 2), ("values", (places,)))
    ones = g.weight("Constant2", (1, MIN_KEPT), ("values", ((1.0,) * MIN_KEPT,)))
    kept = g.ScatterND(kept, where, ones, name="ScatterND")
    scaled = g.Where(kept, scaled, g.none, y_is_const=True, y_const_val=-1000.0, name="Where1")
    return g.output(g.Softmax(scaled, axis=1, name="Softmax1"), index)
