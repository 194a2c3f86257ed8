"""The reference taken apart gives what transformers gives in one piece, for every shape and form of config that we
promise."""

from __future__ import annotations

import numpy as np
import pytest
from verify_helpers import plan_of, relative, transformers_model

from llmconv.checkpoint import recipe, rope
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * i for i in range(32)],
    "long_factor": [1.0 + 0.3 * i for i in range(32)],
}
CASES = {
    "qwen2": ("qwen2", {}),
    "qwen2_tied": ("qwen2_tied", {}),
    "qwen3": ("qwen3", {}),
    "llama": ("llama", {}),
    "shards": ("qwen2", {"shards": 3, "seed": 5}),
    "odd heads": (
        "qwen2",
        {"hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3},
    ),
    "head_dim": ("qwen3", {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 32, "num_hidden_layers": 5}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "yarn": ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}}),
    "longrope": ("llama", {"rope_scaling": LONG | {"original_max_position_embeddings": 4096}}),
    "rope_parameters": (
        "qwen2",
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}},
    ),
    "f32 checkpoint": ("qwen2", {"dtype": "float32"}),
}


@pytest.mark.parametrize("case", CASES)
def test_reference_is_transformers(case, checkpoint):
    import torch

    name, changes = CASES[case]
    model = checkpoint(name, **changes)
    made = plan_of(model)
    own = Own(Reference(made, Precision()))
    ids = np.random.default_rng(1).integers(0, made.spec.vocab, 40)
    with torch.inference_mode():
        right = transformers_model(model)(torch.from_numpy(ids)[None], use_cache=True)
    first = own.reference.logits(own.forward(ids[:30])[0])
    second = own.reference.logits(own.forward(ids[30:])[0])  # behind a cache of 30
    assert relative(np.concatenate([first, second]), right.logits[0].numpy()) < 2e-6
    for layer, kept in enumerate(own.states):
        k, v = (kept.values[name] for name in ("k", "v"))
        there = right.past_key_values.layers[layer]
        assert relative(k, there.keys.transpose(1, 2).numpy()) < 2e-6
        assert relative(v, there.values.transpose(1, 2).numpy()) < 2e-6


def test_config_is_what_transformers_reads(checkpoint):
    from transformers import AutoConfig

    for name in ("qwen2", "qwen3", "llama"):
        model = checkpoint(name)
        ours, theirs = Reference(plan_of(model)).config.to_dict(), AutoConfig.from_pretrained(model).to_dict()
        for key in ("dtype", "_name_or_path", "architectures"):
            ours.pop(key, None), theirs.pop(key, None)
        assert ours == theirs


def test_only_what_is_asked_for_is_read(checkpoint, monkeypatch):
    """One layer of many, and only the rows of the tokens: memory does not grow with the depth or the vocabulary."""
    read = []
    evaluate = recipe.evaluate
    monkeypatch.setattr(recipe, "evaluate", lambda r, c: read.append(r) or evaluate(r, c))
    reference = Reference(plan_of(checkpoint("qwen3", num_hidden_layers=5)))
    assert not read
    hidden = reference.embed(np.array([[7, 1023, 7]]))
    assert [r[0] for r in read[:2]] == ["rows", "rows"] and read[2:] == [("tensor", "model.norm.weight")]
    reference.block(3, hidden, np.arange(3)[None])
    assert {n.split(".")[2] for r in read[3:] for n in recipe.names(r)} == {"3"}
    assert all(p.device.type == "meta" for p in reference.frame.parameters())


def test_layers_are_kept_up_to_a_limit(checkpoint, monkeypatch):
    from llmconv.verify import reference as module

    reference = Reference(plan_of(checkpoint("qwen3", num_hidden_layers=5)))
    one = sum(t.nbytes for t in reference._layer(0).values())
    monkeypatch.setattr(module, "KEEP_BYTES", 2 * one)
    for layer in range(5):
        reference._layer(layer)
    assert list(reference._kept) == [3, 4]


@pytest.mark.parametrize("quantize, bits, step", [("w4bf16", 4, 1 / 15), ("w8bf16", 8, 1 / 255), ("w4f16", 4, 1 / 15)])
def test_dequantised_weights(quantize, bits, step, checkpoint):
    """Linears of blocks lie on a grid of 2**bits values per group, next to the original; everything else is only
    rounded."""
    made = plan_of(checkpoint("qwen2"), quantize=quantize)
    chip, original = Reference(made)._layer(0), Reference(made, Precision())._layer(0)
    for name, weight in original.items():
        x, y = chip[name].numpy(), weight.numpy()
        if name.endswith("proj.weight"):
            groups = y.reshape(len(y), -1, 64)
            error = np.abs(x - y).reshape(groups.shape).max(-1)
            # half a step, and the scale's rounding
            assert (error <= (0.51 * step + 2.0**-8) * np.ptp(groups, -1)).all()
            assert max(len(np.unique(g)) for g in x.reshape(-1, 64)[:50]) <= 2**bits
            assert 0 < relative(x, y) < 0.2
        else:
            assert relative(x, y) < 1e-3  # f16 loses the smallest of bf16's values


def test_longrope_takes_the_factors_of_the_whole_capacity(checkpoint):
    """A table has one answer: beyond the original length every position has the long factors, in the reference too."""
    scaling = LONG | {"original_max_position_embeddings": 48}
    model = checkpoint("llama", rope_scaling=scaling, max_position_embeddings=4096)
    short, long = (Reference(plan_of(model, seq=seq)) for seq in (48, 64))
    hidden, positions = short.embed(np.arange(20)[None]), np.arange(20)[None]
    k_short, k_long = (r.block(0, hidden, positions)[1]["k"] for r in (short, long))
    assert relative(k_long, k_short) > 0.05
    assert (short.longrope, long.longrope) == ("short", "long")
    # twice the factors of one table alone: only who uses that table is moved
    scaling |= {"long_factor": [2 * factor for factor in LONG["long_factor"]]}
    changed = checkpoint("llama", rope_scaling=scaling, max_position_embeddings=4096)
    short, long = (Reference(plan_of(changed, seq=seq)).block(0, hidden, positions)[1]["k"] for seq in (48, 64))
    assert relative(short, k_short) == 0 and relative(long, k_long) > 0.05
    assert Reference(plan_of(checkpoint("llama"))).longrope is None


@pytest.mark.parametrize("seq, table", [(48, "short"), (49, "long")])
def test_longrope_is_turned_as_in_a_sequence_that_fills_the_nets(seq, table, checkpoint):
    """The reference's keys are those that transformers has of the first tokens of a sequence of seq_length; the table
    of the nets has the same choice, the other one is far away, and plan says which was taken."""
    import torch

    model = checkpoint(
        "llama", rope_scaling=LONG | {"original_max_position_embeddings": 48}, max_position_embeddings=4096
    )
    made = plan_of(model, seq=seq)
    assert [
        note.startswith(f"longrope: the nets' table has the {table} factors")
        for note in made.notes
        if "longrope" in note
    ] == [True]
    ids = np.random.default_rng(2).integers(0, made.spec.vocab, seq)
    reference = Reference(made, Precision())
    found = reference.block(0, reference.embed(ids[None, :20]), np.arange(20)[None])[1]["k"]
    with torch.inference_mode():
        whole = transformers_model(model)(torch.from_numpy(ids)[None], use_cache=True).past_key_values.layers[0].keys
    assert relative(found, whole[:, :, :20].transpose(1, 2).numpy()) < 2e-6
    given = made.spec.kinds[0].rope
    with torch.inference_mode():
        cos, sin = transformers_model(model).model.rotary_emb(torch.zeros(1), torch.arange(seq)[None])
    for part, right in (("cos", cos), ("sin", sin)):
        assert np.abs(rope.table(given, seq, part)[:, 0] - right[0].numpy()).max() < 1e-5
        other = rope.table(given, 97 - seq, part)[:48, 0]  # of 49 tokens for 48, and the other way round
        assert np.abs(other - right[0, :48].numpy()).max() > 0.1


@pytest.mark.parametrize(
    "window", [{}, {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 0}], ids=["full", "window"]
)
def test_half_precision_has_an_error_of_its_own(window, checkpoint):
    made = plan_of(checkpoint("qwen2", **window))
    ids = np.arange(20)[None]
    exact, bf16, f16 = (Reference(made, dtype=d) for d in ("f32", "bf16", "f16"))
    right, *errors = (r.block(0, exact.embed(ids), np.arange(20)[None])[0] for r in (exact, bf16, f16))
    assert 0.003 < relative(errors[0], right) < 0.02
    assert 0.0003 < relative(errors[1], right) < 0.003


def test_a_family_that_transformers_lacks(checkpoint):
    """An Oracle gives the class's config and its parameters' recipes; here Granite computes a Llama under other
    names."""
    from dataclasses import replace

    from llmconv.families.oracle import Oracle

    made = plan_of(checkpoint("llama"))
    settings = {
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.125,
        "residual_multiplier": 1.0,
        "logits_scaling": 4.0,
    }
    oracle = Oracle(config=lambda c: dict(c.data) | {"model_type": "granite"} | settings)
    made = replace(made, family=replace(made.family, reference=oracle))
    granite, llama = Reference(made), Reference(replace(made, family=replace(made.family, reference=None)))
    assert type(granite.frame).__name__ == "GraniteForCausalLM"
    ids = np.arange(10)[None]
    assert relative(granite.embed(ids), 2 * llama.embed(ids)) < 1e-6
    hidden = llama.embed(ids)[0]
    assert relative(granite.logits(hidden), llama.logits(hidden) / 4) < 1e-6
    positions = np.arange(10)[None]
    assert relative(granite.block(1, hidden[None], positions)[0], llama.block(1, hidden[None], positions)[0]) < 1e-6


def test_nothing_of_transformers_own_is_said(checkpoint, capfd):
    """Its warnings and log lines are about its future, not about the model; what the process had set up stays."""
    import warnings

    from transformers import logging

    before = logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # a key that no rope has: transformers would warn of it
        rope = LONG | {"original_max_position_embeddings": 48, "surplus": 1}
        reference = Reference(plan_of(checkpoint("llama", rope_scaling=rope, max_position_embeddings=4096)))
        hidden = reference.embed(np.arange(5)[None])
        hidden, past = reference.block(0, hidden, np.arange(5)[None])
        reference.block(0, hidden[:, :1], np.array([[5]]), past)
        reference.logits(hidden[0])
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == before
