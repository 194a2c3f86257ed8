"""Qwen3.5-MoE, as graphs, against transformers' own class in float32: delta-net layers and gated attention with routed
experts behind them, and every form in which a checkpoint holds those; no compiler, no chip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import family_checkpoints
import numpy as np
import pytest
from plans import planned
from test_families_graph import EXACT, far
from test_hybrid_graph import SEQ, STRETCHED, compared, random

from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.families import qwen2_moe
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

LAYERS = "model.language_model.layers."
TEXT = family_checkpoints.QWEN3_5_MOE_TEXT


def equal(made, count: int = 65) -> None:
    """Every kind of block is the class's layer; delta layers but for the stretched decays of a prompt."""
    reference, seen = Reference(made, Precision()), set()
    for net in (net for net in made.nets if net.layer in (0, made.spec.layers - 1)):
        launch = random(net, 1, 9) if net.kind == "block_cache" else random(net, count, 9 if net.history else 0)
        found = compared(made, reference, launch)
        delta = made.spec.kinds[net.layer].mixer.kind == "delta_net"
        assert max(found.values()) < (STRETCHED if delta and net.kind != "block_cache" else 2 * EXACT), (
            net.name,
            found,
        )
        seen.add((net.kind, delta))
    assert len(seen) >= 4


@pytest.mark.parametrize(
    "options",
    [{}, {"use_history_kv": 1, "chunk_length": 64}, {"share_prompt": 1, "chunk_length": 32}],
    ids=str,
)
def test_blocks_equal_the_class(options, family_checkpoint):
    equal(planned(family_checkpoint("qwen3_5_moe"), SEQ, **options), 20 if options else 65)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": 5, "num_experts_per_tok": 1, "moe_intermediate_size": 64},
        {"num_experts_per_tok": 8, "shared_expert_intermediate_size": 64},
        {"num_experts": 160, "num_experts_per_tok": 8, "moe_intermediate_size": 8},
    ],
    ids=str,
)
def test_sizes_of_experts(changes, family_checkpoint):
    """Few and many experts, one of them or all."""
    equal(planned(family_checkpoint("qwen3_5_moe", text_config=TEXT | changes), 32), 9)


def test_the_activation_of_qwen2_moe(family_checkpoint):
    made = planned(family_checkpoint("qwen2_moe", hidden_act="gelu"))
    reference, net = Reference(made, Precision()), next(net for net in made.nets if net.name == "block_0")
    assert max(compared(made, reference, random(net, 30)).values()) < EXACT


def saved(model: Path, to: Path) -> Path:
    """The checkpoint as transformers' class writes it again: experts as it found them."""
    from transformers import AutoModelForImageTextToText

    AutoModelForImageTextToText.from_pretrained(model, dtype="auto").save_pretrained(to)
    return to


def test_all_forms_of_the_experts_are_one_net(vision_checkpoint, tmp_path):
    """A tensor for all experts of a layer, as published in 16 bits; one for each, as in quantised checkpoints; and what
    transformers saves of both: the same nets with the same weights."""
    joined, apart = vision_checkpoint("qwen3_5_moe"), vision_checkpoint("qwen3_5_moe", apart=True)
    again = [saved(path, tmp_path / str(number)) for number, path in enumerate((joined, apart))]
    plans = [planned(path, max_pixels="64,96") for path in (joined, apart, *again)]
    held = [{name for name in made.checkpoint.tensors if f"{LAYERS}0.mlp.experts." in name} for made in plans]
    assert [len(names) for names in held] == [2, 24, 2, 24] and held[:2] == held[2:]
    for nets in zip(*(made.nets for made in plans), strict=True):
        assert len({net.mlir for net in nets}) == 1
        for weights in zip(*(net.weights for net in nets), strict=True):
            found = [recipe.evaluate(w.recipe, made.checkpoint) for w, made in zip(weights, plans, strict=True)]
            assert all(np.array_equal(found[0], other) for other in found[1:]), weights[0].name
    for made in plans[:2]:
        equal(made, 20)


def test_qwen2_moe_takes_joined_experts_too(family_checkpoint, tmp_path):
    """As transformers holds them; layer 1 has none."""
    import torch
    from safetensors.torch import load_file, save_file

    apart = family_checkpoint("qwen2_moe")
    tensors, joined = load_file(apart / "model.safetensors"), {}
    for part, roles in qwen2_moe.JOINED.items():
        names = [[f"model.layers.0.mlp.experts.{e}.{role[7:]}_proj.weight" for role in roles] for e in range(8)]
        joined[f"model.layers.0.{part}"] = torch.stack([torch.cat([tensors.pop(n) for n in each]) for each in names])
    save_file(tensors | joined, tmp_path / "model.safetensors")
    shutil.copy(apart / "config.json", tmp_path)
    first, second = planned(apart), planned(tmp_path)
    net, other = (next(net for net in made.nets if net.name == "block_0") for made in (first, second))
    assert net.mlir == other.mlir and len(other.tensors) < len(net.tensors)
    for mine, theirs in zip(net.weights, other.weights, strict=True):
        values = [recipe.evaluate(w.recipe, m.checkpoint) for w, m in ((mine, first), (theirs, second))]
        assert np.array_equal(*values), mine.name
    launch = random(other, 30)
    assert max(compared(second, Reference(second, Precision()), launch).values()) < EXACT


def test_routing_is_the_class_own(vision_checkpoint):
    """The router's logits of every layer, and hidden states behind a cache, from layers run one by one."""
    import torch
    import vision_checkpoints

    model = vision_checkpoint("qwen3_5_moe")
    made = planned(model, max_pixels="64,96")
    own, ids = Own(Reference(made, Precision())), np.random.default_rng(1).integers(0, 990, 30)
    with torch.inference_mode():
        whole = vision_checkpoints.whole(model).model.language_model
        right = whole(torch.from_numpy(ids)[None], output_router_logits=True)
    found = own.forward(ids[:20])
    routing = own.routing
    found = np.concatenate([found, own.forward(ids[20:])], 1)
    assert far(found, right.last_hidden_state.numpy()) < EXACT and len(routing) == len(right.router_logits) == 3
    for first, second, theirs in zip(routing, own.routing, right.router_logits, strict=True):
        assert far(np.concatenate([first, second]), theirs.numpy()) < EXACT


def rewritten(model: Path, to: Path, text: dict | None = None, change=lambda name, values: {name: values}) -> Path:
    """A copy of the checkpoint with other fields of text_config, and other tensors."""
    from safetensors.torch import load_file, save_file

    to.mkdir()
    config = json.loads((model / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | {"text_config": config["text_config"] | (text or {})}))
    tensors = load_file(model / "model.safetensors")
    made = {n: v.contiguous() for name, values in tensors.items() for n, v in change(name, values).items()}
    save_file(made, to / "model.safetensors")
    return to


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"norm_topk_prob": False}, "norm_topk_prob .* is False"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step .* is 2"),
        ({"mlp_only_layers": [1]}, r"mlp_only_layers .* is \[1\]"),
        ({"num_experts": 16}, r"experts.gate_up_proj .*has shape \[8, 256, 256\].* demand \[16, 256, 256\]"),
        # as many elements, in another order
        ({"num_experts": 16, "moe_intermediate_size": 64}, r"gate_up_proj .*demand \[16, 128, 256\]"),
        ({"num_experts": None}, "num_experts .* is missing"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok .* is 9, more than num_experts 8"),
        ({"hidden_act": "gelu"}, "hidden_act .* is 'gelu'"),
    ],
    ids=str,
)
def test_fields_that_do_not_fit(fields, word, vision_checkpoint, tmp_path):
    with pytest.raises(InputError, match=word):
        planned(rewritten(vision_checkpoint("qwen3_5_moe"), tmp_path / "wrong", fields), max_pixels="64,96")


@pytest.mark.parametrize(
    "apart, lost, word",
    [
        (False, "layers.1.mlp.experts.down_proj", "no tensor .*layers.1.mlp.experts.down_proj"),
        (True, "layers.1.mlp.experts.5.up_proj.weight", "no tensor .*layers.1.mlp.experts.5.up_proj.weight"),
        (True, "layers.0.mlp.experts.7.up_proj.weight", "no expert 7 in layer 0"),
        (False, "layers.2.mlp.shared_expert_gate.weight", "no tensor .*shared_expert_gate"),
        (False, "layers.2.mlp.gate.weight", "no tensor .*mlp.gate.weight"),
    ],
)
def test_tensors_that_are_missing(apart, lost, word, vision_checkpoint, tmp_path):
    model = vision_checkpoint("qwen3_5_moe", **({"apart": True} if apart else {}))
    other = rewritten(model, tmp_path / "lost", change=lambda name, v: {} if name.endswith(lost) else {name: v})
    with pytest.raises(InputError, match=word):
        planned(other, max_pixels="64,96")


def test_defaults_are_the_class_own(vision_checkpoint):
    """Of fields that config.json leaves out."""
    from transformers import Qwen3_5MoeTextConfig

    from llmconv.checkpoint.config import Config
    from llmconv.families import family_of

    given = {"model_type": "qwen3_5_moe_text", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 4}
    spec = family_of("qwen3_5_moe").spec(Config({"vocab_size": 1024, **given}, Path("config.json")))
    right = Qwen3_5MoeTextConfig(vocab_size=1024, **{k: v for k, v in given.items() if k != "model_type"})
    experts = spec.routed
    assert (experts.count, experts.chosen) == (right.num_experts, right.num_experts_per_tok)
    assert (experts.width, experts.shared) == (right.moe_intermediate_size, right.shared_expert_intermediate_size)
    assert experts.normalised and all(kind.sparse for kind in spec.kinds)
    assert (spec.kv_heads, spec.head_dim, spec.tied) == (right.num_key_value_heads, right.head_dim, False)
    assert [kind.mixer.kind == "attention" for kind in spec.kinds] == [
        kind == "full_attention" for kind in right.layer_types
    ]


def test_layers_of_a_kind_are_one_net(family_checkpoint):
    made = planned(family_checkpoint("qwen3_5_moe"), SEQ)
    by_name = {net.name: net for net in made.nets}
    assert by_name["block_1"].pattern == by_name["block_0"] and not by_name["block_2"].pattern
