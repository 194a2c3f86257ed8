"""graph: other graphs than the vendor's, with the same inputs, outputs and values, from the rule to the chip."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plans import planned
from test_stamping import content
from verify_helpers import relative, verified

from llmconv.blocks.drawing import GATE_UP, KV, LEFT, QKV, RIGHT, TABLE, VENDOR, Drawing
from llmconv.chips import CHIPS
from llmconv.numeric import from_bf16
from llmconv.plan import drawing
from llmconv.plan.drawing import Cut, First, Join
from llmconv.plan.estimate import coefficient_bytes
from llmconv.report.summary import coefficient_bytes as coefficients_of
from llmconv.runtime import launches
from llmconv.top.interpret import interpret
from llmconv.verify.generate import Runtime
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

SEQ, TOKENS = 64, 8
HEADER = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
LARGE = HEADER | {"intermediate_size": 18944}
SMALL = HEADER | {"hidden_size": 896, "intermediate_size": 4864}


def every_key() -> list[tuple[str, int]]:
    return [(chip, bits) for chip in CHIPS for bits in (4, 8, 16)]


@pytest.fixture
def cut(monkeypatch):
    """cut(n, *groups): every MLP in n pieces, its up projection first, the groups of linears joined, and the table of a
    tied head on the right, whatever their sizes."""

    def every(count: int, *groups: tuple[str, ...]) -> None:
        joins = {key: tuple(Join(roles, (1, 1 << 20), (0, 0), 4096) for roles in groups) for key in every_key()}
        monkeypatch.setattr(drawing, "JOINS", joins)
        cuts = {key: (Cut(1, count, (0, 0)),) for key in every_key()}
        monkeypatch.setattr(drawing, "CUTS", cuts)
        monkeypatch.setattr(drawing, "FIRSTS", {chip: (First(1),) for chip in CHIPS})
        monkeypatch.setattr(drawing, "TRANSPOSED", {"bm1684x": {256: 0.9}})

    return every


@pytest.mark.parametrize(
    "name, sizes, options, right",
    [
        ("qwen2", HEADER, {}, Drawing(False, 1, RIGHT)),
        ("qwen2_tied", HEADER | {"hidden_size": 896}, {}, Drawing(False, 1, TABLE)),
        ("qwen2_tied", HEADER | {"hidden_size": 1536}, {}, Drawing(False, 1, LEFT)),
        ("qwen2_tied", HEADER | {"hidden_size": 128}, {}, Drawing(False, 1, LEFT)),
        ("qwen2_tied", HEADER, {"embedding_disk": 1}, Drawing(False, 1, RIGHT)),
        ("qwen2", HEADER, {"chip": "bm1688"}, Drawing(False, 1, LEFT)),
        ("qwen2", LARGE, {"quantize": "w4bf16"}, Drawing(True, 2, RIGHT)),
        ("qwen2", LARGE, {"quantize": "w8f16"}, Drawing(True, 2, RIGHT)),
        ("qwen2", LARGE, {"quantize": "w4bf16", "chip": "bm1688"}, Drawing(True, 4, LEFT)),
        ("qwen2", LARGE | {"intermediate_size": 12288}, {"quantize": "w4bf16", "chip": "bm1688"}, Drawing(True, 2, LEFT)),
        ("qwen2", LARGE | {"intermediate_size": 8192}, {"quantize": "w4bf16", "chip": "bm1688"}, Drawing(True, 1, LEFT)),
        ("qwen2", LARGE, {"quantize": "bf16"}, Drawing(True, 2, RIGHT)),
        # nothing makes up for what pieces cost a token
        ("qwen2", LARGE, {"quantize": "bf16", "quantize_head": "w4"}, Drawing(True, 1, LEFT)),
        ("qwen2", LARGE, {"quantize": "w8bf16", "chip": "bm1688"}, Drawing(True, 4, LEFT)),
        ("qwen2_tied", LARGE, {"quantize": "bf16"}, Drawing(True, 1, LEFT)),
        ("qwen2", LARGE, {"quantize": "w4bf16", "keep_half": "0"}, Drawing(True, 1, RIGHT)),
        # halves are no whole groups of 128
        ("qwen2", LARGE | {"intermediate_size": 19072}, {"quantize": "w4bf16", "q_group_size": 128}, Drawing(True, 1, RIGHT)),
        ("llama", LARGE | {"mlp_bias": True}, {"quantize": "w4bf16"}, Drawing(True, 1, RIGHT)),
        ("qwen2", LARGE, {"quantize": "w4bf16", "graph": "vendor"}, VENDOR),
        ("qwen2", LARGE, {"quantize": "w4bf16", "dynamic": 1}, Drawing(True, 1, RIGHT)),
        ("qwen2", LARGE, {"quantize": "w4bf16", "lora_max_rank": 4}, VENDOR),
        ("qwen2_tied", SMALL, {"graph": "fastest"}, Drawing(True, 1, RIGHT)),
        ("qwen2_tied", SMALL, {"graph": "fastest", "chip": "bm1688"}, Drawing(True, 1, LEFT)),
        ("qwen2_tied", SMALL, {"quantize": "w4bf16"}, Drawing(True, 1, TABLE, (QKV, GATE_UP))),
        ("qwen2_tied", SMALL, {"quantize": "w4bf16", "seq": 4096}, Drawing(True, 1, TABLE, (QKV,))),
        ("qwen2_tied", SMALL, {"quantize": "w4bf16", "seq": 4096, "max_input_length": 512}, Drawing(True, 1, TABLE, (QKV, GATE_UP))),
        ("qwen2_tied", SMALL, {"quantize": "w4bf16", "chip": "bm1688"}, Drawing(True, 1, LEFT)),
        ("qwen2_tied", SMALL, {"quantize": "w4bf16", "keep_half": "0"}, Drawing(True, 1, TABLE)),
        ("qwen2_tied", SMALL, {"quantize": "w4bf16", "dynamic": 1}, Drawing(True, 1, TABLE)),
        ("qwen2", SMALL | {"hidden_size": 640}, {"quantize": "w4bf16"}, Drawing(True, 1, RIGHT)),
        # a weight whose columns do not fill all lanes
        ("qwen2_tied", SMALL | {"num_attention_heads": 4, "head_dim": 16}, {"quantize": "w4bf16"}, Drawing(True, 1, TABLE, (GATE_UP,))),
        ("qwen2", LARGE | {"hidden_size": 3584}, {"quantize": "w8bf16"}, Drawing(True, 2, RIGHT, (KV, GATE_UP))),
        ("qwen2", LARGE | {"hidden_size": 3584}, {"quantize": "w4bf16", "chip": "bm1688"}, Drawing(True, 4, LEFT, (GATE_UP,))),
        # side by side gate and up lose on this chip where the MLP is whole
        ("qwen2", SMALL | {"hidden_size": 3584}, {"quantize": "w4bf16", "chip": "bm1688"}, Drawing(True, 1, LEFT)),
        ("qwen2", LARGE | {"intermediate_size": 13824}, {"quantize": "w8bf16", "chip": "cv186x"}, Drawing(True, 4, LEFT)),
        ("qwen2", LARGE | {"intermediate_size": 13696}, {"quantize": "w8bf16", "chip": "cv186x"}, Drawing(True, 1, LEFT)),
        # with quantised weights the up projection is first at any size
        ("qwen2", HEADER, {"quantize": "w8bf16", "chip": "cv186x", "seq": 4096}, Drawing(True, 1, LEFT)),
    ],
)  # fmt: skip
def test_rule(name, sizes, options, right, tmp_path):
    from checkpoints import headers, published

    config, tensors = published(name, **sizes)
    made = planned(headers(tmp_path / name, config, tensors), **options)
    assert made.spec.drawing == right
    assert bool(made.graphs) and made.graphs[0].startswith("the vendor's") == (right == VENDOR)
    assert any("pieces" in told for told in made.graphs) == (right.pieces > 1)


@pytest.mark.parametrize(
    "chip, intermediate, length, right",
    [
        ("bm1684x", 3840, 64, False), ("bm1684x", 4096, 512, True), ("bm1684x", 5376, 640, False),
        ("bm1684x", 5632, 4096, True), ("bm1688", 1920, 64, False), ("bm1688", 2048, 4096, True),
        ("cv186x", 1920, 64, False), ("cv186x", 2048, 512, True), ("cv186x", 4608, 640, False),
        ("cv186x", 4864, 4096, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["max_input_length", "history"])
def test_up_projection_first_in_half_precision(chip, intermediate, length, right, where, tmp_path):
    """The longest prefill tells, be it the prompt's or the history's."""
    from checkpoints import headers, published

    config, tensors = published("qwen2", **HEADER | {"intermediate_size": intermediate})
    model = headers(tmp_path / "model", config, tensors)
    history = {"use_block_with_kv": 1, "max_prefill_kv_length": length, "max_input_length": 64}
    options = history if where == "history" else {"max_input_length": length}
    made = planned(model, chip=chip, seq=8192, **options)
    assert made.spec.drawing.up_first is right
    assert any("up projection" in told for told in made.graphs) is right


@pytest.mark.parametrize("change", [{"qk_norm": "all"}, {"bias": frozenset("q")}, {"bias": frozenset("qk")}])
def test_linears_that_differ_stay_apart(change, tmp_path):
    from checkpoints import headers, published

    config, tensors = published("qwen2_tied", **SMALL)
    made = planned(headers(tmp_path / "model", config, tensors), quantize="w4bf16")
    assert made.spec.drawing.joined == (QKV, GATE_UP)
    assert drawing.drawn(replace(made.spec, **change), made.job).joined == (GATE_UP,)


def test_packed_checkpoints_have_the_vendors(checkpoint, tmp_path):
    import quantised_checkpoints
    from quantised_checkpoints import How

    model, _ = quantised_checkpoints.convert(checkpoint("llama"), tmp_path / "model", "gptq", How(4, 64))
    made = planned(model, quantize="auto")
    assert made.spec.drawing == VENDOR and "quantised" in made.graphs[0]
    assert "quantised" not in planned(model, quantize="bf16").graphs[0]


@pytest.mark.parametrize(
    "name, count, groups",
    [
        ("qwen2", 1, ()),
        ("qwen2_tied", 1, (QKV,)),  # with biases
        ("qwen2", 4, (KV, GATE_UP)),
        ("qwen3", 1, (QKV, GATE_UP)),  # with norms of heads
        ("llama", 2, (KV,)),
    ],
)
def test_values_are_the_models(name, count, groups, checkpoint, cut):
    """In float32 the MLP in pieces, linears side by side and the heads give what transformers' class gives."""
    cut(count, *groups)
    made = planned(checkpoint(name), seq=32, max_input_length=16)
    assert made.spec.drawing == Drawing(True, count, TABLE if name == "qwen2_tied" else RIGHT, groups)
    reference, rng = Reference(made, Precision()), np.random.default_rng(3)
    by_name = {net.name: net for net in made.nets}
    block, head = by_name["block_0"], by_name["lm_head"]
    hidden = rng.standard_normal((1, 16, made.spec.hidden)).astype(np.float32)
    launch = launches.step(block, hidden, 11, 0, {})
    given = {k: np.where(v < -9000, -1e9, v) if k == "attention_mask" else v for k, v in launch.inputs.items()}
    out = interpret(block.graph, given, _weights(block, made))[0]
    right, _ = reference.block(0, launch.inputs["input_states"][:, :11], np.arange(11)[None])
    assert relative(out[:, :11], right) < 5e-6
    state = from_bf16(rng.integers(0x3F00, 0x4000, (1, made.spec.hidden)).astype(np.uint16))
    (token,) = interpret(head.graph, launches.head(head, state).inputs, _weights(head, made))
    assert int(token[0, 0]) == int(reference.logits(state)[0].argmax())


def _weights(net, made) -> dict[str, np.ndarray]:
    from llmconv.checkpoint import recipe

    return {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in net.graph.weights.values()}


@pytest.mark.parametrize("bits, group", [(4, 64), (8, 0)])
def test_codes_of_linears_side_by_side_are_those_of_each(bits, group, checkpoint, cut):
    from llmconv.checkpoint import recipe
    from llmconv.coefficients.quantize import Scheme, quantize

    cut(1, QKV, GATE_UP)
    made = planned(checkpoint("qwen2"))
    scheme = Scheme(bits, group, False, "bf16")
    whole = {w.name: w for net in made.nets if net.name == "block_0" for w in net.weights}
    for first, roles in (("self_attn.q_proj_k_v", QKV), ("mlp.up_proj_gate", ("up", "gate"))):
        joined = recipe.evaluate(whole[f"model.layers.0.{first}.weight"].recipe, made.checkpoint).T
        each = [made.checkpoint.float32(f"{made.spec.path(role, 0)}.weight") for role in roles]
        parts = zip(*(quantize(one, scheme) for one in each))
        for found, right in zip(quantize(joined, scheme), parts):
            assert np.array_equal(found, np.concatenate(right))


def test_public_tensors_and_order_are_the_vendors(checkpoint, cut):
    cut(2, KV, GATE_UP)
    made, vendors = (planned(checkpoint("qwen2"), graph=graph) for graph in ("fast", "vendor"))
    assert [(n.name, n.inputs, n.outputs, n.flags) for n in made.nets] == [
        (n.name, n.inputs, n.outputs, n.flags) for n in vendors.nets
    ]
    assert made.origins["block_0"].owner == "block_cache_0", "prefill and decode share their coefficients"
    assert Runtime.of(made)


def test_the_fastest_have_a_tied_table_twice(checkpoint):
    """Once for the embedding, once for the head; with the embedding on disk, and untied, nothing is there twice."""
    model = checkpoint("qwen2_tied")
    made, fast, disk = (planned(model, **more) for more in ({"graph": "fastest"}, {}, {"embedding_disk": 1}))
    assert coefficient_bytes(made.nets) - coefficient_bytes(fast.nets) == 2 * made.spec.vocab * made.spec.hidden
    assert [net.name for net in made.nets] == [net.name for net in fast.nets]
    assert [any("beside the token table" in told for told in one.graphs) for one in (made, fast, disk)] == [1, 0, 0]
    untied = [planned(checkpoint("qwen2"), graph=graph) for graph in ("fastest", "fast")]
    assert coefficient_bytes(untied[0].nets) == coefficient_bytes(untied[1].nets)


@pytest.mark.compiler
@pytest.mark.simulator
def test_the_fastest_on_the_chip(checkpoint, convert):
    """The file holds the table in both layouts, and the head gives the model's token."""
    model = checkpoint("qwen2_tied")
    both = [convert(model, seq=SEQ, quantize="bf16", graph=graph) for graph in ("fastest", "fast")]
    held = [coefficients_of(json.loads((out / "manifest.json").read_text())) for out in both]
    spec = planned(model).spec
    assert held[0] - held[1] == 2 * spec.vocab * spec.hidden
    ok, found, printed = verified(both[0], nets=("lm_head", "embedding_cache"))
    assert ok and len(found["nets"]) == 2, printed


CHIP: dict[str, tuple[str, int, tuple[tuple[str, ...], ...], dict[str, Any]]] = {
    "bm1684x": ("qwen2_tied", 2, (QKV, GATE_UP), {"quantize": "w4bf16"}),
    "bm1688": ("qwen2", 4, (KV, GATE_UP), {"quantize": "w8bf16"}),
    "cv186x": ("qwen3", 2, (KV, GATE_UP), {"quantize": "w4f16"}),
}


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("chip", CHIP)
def test_on_the_chip(chip, checkpoint, convert, cut):
    name, count, groups, options = CHIP[chip]
    cut(count, *groups)
    out = convert(checkpoint(name), seq=SEQ, chip=chip, **options)
    ok, found, printed = verified(out, tokens=TOKENS)
    assert ok, printed
    told = json.loads((out / "manifest.json").read_text())["graphs"]
    assert any(f"{count} pieces" in one for one in told)
    assert sum("side by side" in one for one in told) == len(groups)
    assert all(net["ok"] for net in found["nets"]) and len(found["generation"]["tokens"]) == TOKENS


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIP)
def test_errors_and_tokens_beside_the_vendors(chip, checkpoint, convert, cut):
    """The same tokens, and no error that is a tenth larger."""
    name, count, groups, options = CHIP[chip]
    cut(count, *groups)
    both = [
        verified(convert(checkpoint(name), seq=SEQ, chip=chip, graph=graph, **options), tokens=TOKENS)[1]
        for graph in ("fast", "vendor")
    ]
    ours, theirs = ([token["token"] for token in one["generation"]["tokens"]] for one in both)
    assert ours == theirs
    worst = [max(net["relative_l2"] or 0 for net in one["nets"] if net["name"].startswith("block")) for one in both]
    assert worst[0] <= 1.1 * worst[1]


STAMPED: dict[str, tuple[str, tuple[tuple[str, ...], ...], dict[str, Any]]] = {
    "table, stand-ins": ("qwen2_tied", (QKV, GATE_UP), {"quantize": "w4bf16", "vocab_size": 8320}),
    "right head, without values": ("qwen2", (), {"quantize": "bf16"}),
    "two cores": ("qwen2", (GATE_UP,), {"quantize": "w8bf16", "chip": "bm1688"}),
}


@pytest.mark.compiler
@pytest.mark.parametrize("case", STAMPED)
def test_stamped_nets_equal_those_that_are_compiled_as_they_are(case, checkpoint, convert, cut, monkeypatch):
    name, groups, options = STAMPED[case]
    cut(2, *groups)
    options = dict(options)
    sizes = {"vocab_size": options.pop("vocab_size")} if "vocab_size" in options else {}
    model = checkpoint(name, num_hidden_layers=3, **sizes)
    compiled = convert(model, seq=64, no_stamp=1, **options)
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    stamped = convert(model, seq=64, no_cache=1, **options)
    assert content(stamped) == content(compiled)
    made = {net["name"]: net for net in json.loads((stamped / "manifest.json").read_text())["nets"]}
    assert made["block_1"]["how"] == "stamped" and made["block_0"]["form"] in ("packed", "hollow")
    if "head" in case:
        assert made["lm_head"]["form"] == "hollow"
    if "table" in case:
        assert made["lm_head"]["form"] == "apart"
