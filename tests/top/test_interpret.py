"""Our graphs in NumPy against the family's own torch model: the maths is right before a compiler has seen it."""

from __future__ import annotations

import numpy as np
import pytest
from verify_helpers import plan_of, relative

from llmconv.checkpoint import recipe
from llmconv.numeric import from_bf16
from llmconv.runtime import launches, state
from llmconv.top.interpret import interpret
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 32,
    "long_factor": [1.0 + 0.1 * i for i in range(32)],
    "original_max_position_embeddings": 16,
}
CASES = {
    "qwen2": ("qwen2", {}),
    "qwen2_tied": ("qwen2_tied", {}),
    "qwen3": ("qwen3", {}),
    "llama": ("llama", {}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "one kv head": (
        "qwen2",
        {"hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3},
    ),
    "no groups": ("llama", {"num_key_value_heads": 4}),
    "head_dim": ("qwen3", {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32}),
    "yarn": ("qwen2", {"rope_scaling": YARN}),
    "longrope": ("llama", {"rope_scaling": LONG, "max_position_embeddings": 64}),
    "linear": (
        "qwen2",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}, "rope_theta": None},
    ),
    "gelu": ("llama", {"hidden_act": "gelu"}),
    "gelu tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "f32 checkpoint": ("qwen3", {"dtype": "float32"}),
}


def weights_of(net, checkpoint) -> dict[str, np.ndarray]:
    return {w.name: recipe.evaluate(w.recipe, checkpoint) for w in net.graph.weights.values()}


def exact(launch: launches.Launch) -> dict[str, np.ndarray]:
    """The launch's inputs for f32 maths: the runtimes' mask value would leave a trace of the hidden tokens."""
    return {k: np.where(v < -9000, -1e9, v) if k == "attention_mask" else v for k, v in launch.inputs.items()}


@pytest.mark.parametrize("case", CASES)
def test_blocks(case, checkpoint):
    name, changes = CASES[case]
    made = plan_of(checkpoint(name, **changes), seq=32, max_input_length=16)
    reference, rng = Reference(made, Precision()), np.random.default_rng(3)
    checked = 0
    for net in made.nets:
        if net.kind not in ("block", "block_cache"):
            continue
        shapes = {io.name: io.shape for io in net.inputs}
        history = state.random(net, rng)
        count, past = (1, 19) if history else (11, 0)
        launch = launches.step(net, rng.standard_normal(shapes["input_states"]), count, past, history)
        found = interpret(net.graph, exact(launch), weights_of(net, made.checkpoint))
        for io, values in zip(net.outputs, found, strict=True):
            assert values.shape == io.shape
            assert relative(values[:, :count], EXPECTED[net.kind](reference, launch)[io.name]) < 5e-6, (
                f"{net.name}: {io.name}"
            )
        checked += 1
    assert checked == 2 * made.spec.layers


@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied", "llama"])
def test_embedding_and_head(name, checkpoint):
    made = plan_of(checkpoint(name), seq=32)
    reference, rng = Reference(made, Precision()), np.random.default_rng(4)
    by_name = {net.name: net for net in made.nets}
    for net in (by_name["embedding"], by_name["embedding_cache"]):
        launch = launches.tokens(net, rng.integers(0, made.spec.vocab, launches.length(net)))
        (found,) = interpret(net.graph, launch.inputs, weights_of(net, made.checkpoint))
        np.testing.assert_array_equal(found, reference.embed(launch.inputs["input_ids"]))
    net = by_name["lm_head"]
    hidden = from_bf16(rng.integers(0x3F00, 0x4000, (1, made.spec.hidden)).astype(np.uint16)) * rng.choice(
        [-1, 1], (1, made.spec.hidden)
    )
    (found,) = interpret(net.graph, launches.head(net, hidden).inputs, weights_of(net, made.checkpoint))
    assert found.shape == (1, 1) and int(found[0, 0]) == int(reference.logits(hidden)[0].argmax())
