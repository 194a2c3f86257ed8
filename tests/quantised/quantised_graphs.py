"""Nets of quantised checkpoints, as graphs, beside transformers' own class on the dequantised weights: no compiler, no
chip.

The class's weights come from llmconv.verify.dequantise, which shares nothing with the recipes;
test_quantised_formats.py holds both against the tools that write the formats."""

from __future__ import annotations

import numpy as np

from llmconv.checkpoint import recipe
from llmconv.plan.plan import Plan
from llmconv.runtime import launches, state
from llmconv.top.interpret import interpret
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

EXACT = 5e-6  # relative L2 of two float32 computations
SEQ = 64


def far(made: Plan, net) -> float:
    """Relative L2 distance of the net, run by our interpreter on its recipes, from the class."""
    reference = Reference(made, Precision())
    rng = np.random.default_rng(3)
    weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in net.graph.weights.values()}
    shapes = {io.name: io.shape for io in net.inputs}
    if net.kind == "lm_head":
        hidden = rng.standard_normal(shapes["hidden_states"]).astype(np.float32)
        (found,), right = interpret(net.graph, {"hidden_states": hidden}, weights), reference.logits(hidden)
    else:
        past = launches.capacity(net) // 2
        history = state.random(net, rng)
        launch = launches.step(
            net,
            rng.standard_normal(shapes["input_states"]).astype(np.float32),
            launches.length(net) if net.flags.dynamic else max(1, launches.length(net) * 3 // 4),
            past,
            history,
        )
        found = interpret(net.graph, launch.inputs, weights)[0][:, : launch.count]
        right = EXPECTED[net.kind](reference, launch)["output_states"]
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def exact(made: Plan, *kinds: str) -> None:
    checked = [net for net in made.nets if net.kind in (kinds or ("block", "block_cache"))]
    assert checked
    for net in checked:
        assert far(made, net) < EXACT, net.name


def packed_ops(net) -> dict[str, tuple[int, int]]:
    """Operation -> (bits, group) of every A16MatMul."""
    return {
        op.results[0].name: (op.attrs["weight_bits"], op.attrs["q_group_size"])
        for op in net.graph.ops
        if op.kind == "A16MatMul"
    }


LAYER = {"num_hidden_layers": 1}
