"""Quantised checkpoints of models that see: the language model's integers stay, and the tower is that of the float
model."""

from __future__ import annotations

import numpy as np
import pytest
import slice_checkpoints
from plans import planned
from quantised_checkpoints import How
from quantised_graphs import EXACT, exact, packed_ops

from llmconv.blocks.vision.images import Images
from llmconv.checkpoint import recipe
from llmconv.runtime import launches
from llmconv.top.interpret import interpret
from llmconv.verify import answers
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

AUTO_ROUND = {"packing_format": "auto_round:auto_gptq", "block_name_to_quantize": "model.language_model.layers"}
TOWERS = [  # as the published ones say that their tower is not quantised
    ("awq", How(4, 128), {"modules_to_not_convert": ["visual"]}),
    ("gptq", How(4, 128, True), {}),
    ("gptq", How(8, 64), {}),
    ("auto-round", How(4, 128, True), AUTO_ROUND),
    ("compressed", How(4, 32, True), {"ignore": ["re:.*visual.*", "lm_head"]}),
]


PROJECTED = [
    ("awq", How(4, 128), {"modules_to_not_convert": ["visual", "mlp_AR"]}),
    ("compressed", How(4, 32, True), {"ignore": ["re:.*visual.*", "re:mlp_AR.*", "lm_head"]}),
]


@pytest.mark.parametrize(
    "name, method, how, section", [("glm4v", *one) for one in TOWERS] + [("paddleocr_vl", *one) for one in PROJECTED]
)
def test_a_tower_beside_quantised_layers(name, method, how, section, quantised):
    """Gate and up lie in one tensor, and the tower stays as it is; and a projector that stands beside it."""

    def pick(path: str) -> How | None:
        return None if any(part in path for part in ("lm_head", "visual", "mlp_AR")) else how

    made = planned(quantised(method, how, name, pick, **section), quantize="auto", max_pixels="112,112")
    assert made.job.quantize == f"w{how.bits}bf16"
    exact(made)
    assert len(packed_ops(made.nets[-1])) == 7 and not packed_ops(made.nets[0])


@pytest.mark.parametrize("dtype, told", [("float16", True), ("bfloat16", False)])
def test_auto_takes_what_the_demo_knows(dtype, told, quantised):
    """Published AWQ checkpoints say float16, and the demo of GLM-4V has masks in bf16."""

    def pick(path: str) -> How | None:
        return None if "lm_head" in path or "visual" in path else How(4, 128)

    options = {"torch_dtype": dtype}
    model = quantised("awq", How(4, 128), "glm4v", pick, options, modules_to_not_convert=["visual"])
    made = planned(model, quantize="auto", max_pixels="112,112")
    assert made.job.quantize == "w4bf16"
    assert any("the rest becomes bf16: the public demo needs it" in note for note in made.notes) is told
    assert not any("can drive nets with bf16" in note for note in made.notes)


SLICED = {  # as published, the tower and the resampler are not quantised, whether config.json says so or not
    "awq": (How(4, 128), {"modules_to_not_convert": ["vpm", "resampler"]}),
    "gptq": (How(4, 64, True), {}),
    "auto-round": (How(4, 128, True), {"block_name_to_quantize": "llm.model.layers"}),
    "compressed": (How(4, 64, False), {"ignore": ["re:.*vpm.*", "re:.*resampler.*", "llm.lm_head"]}),
}


@pytest.mark.parametrize("name", slice_checkpoints.CONFIGS)
@pytest.mark.parametrize("method", SLICED)
def test_models_that_see_slice_by_slice(method, name, quantised):
    """The language model's integers stay, behind names that begin with llm; the tower is that of the float model."""
    how, more = SLICED[method]
    model = quantised(method, how, name, lambda path: how if path.startswith("llm.model.layers") else None, **more)
    made = planned(model, max_pixels="112,112")
    exact(made)
    by_name = {net.name: net for net in made.nets}
    assert made.job.quantize == "w4bf16" and len(packed_ops(by_name["block_1"])) == 7
    tower = by_name["vit"]
    assert not packed_ops(tower) and (tower.flags.mode, tower.graph.platform) == ("BF16", "LLM")
    grids = ((1, 8, 5),)
    images = Images(slice_checkpoints.noise(588, grids), grids)
    launch = launches.tower(tower, images)
    weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in tower.graph.weights.values()}
    (right,) = answers.expected(Reference(made, Precision()), launch).values()
    found = interpret(tower.graph, launch.inputs, weights)[0]
    assert np.linalg.norm(found - right[0]) < EXACT * np.linalg.norm(right)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_float16_checkpoint_that_the_demo_cannot_take(method, quantised):
    """The public demo writes bf16 masks alone: auto takes bf16 for the rest, and -q says otherwise."""
    model = quantised(
        method,
        How(4, 128),
        "minicpmv_4",
        lambda path: How(4, 128) if path.startswith("llm.model.layers") else None,
        {"torch_dtype": "float16"},
    )
    made = planned(model, max_pixels="112,112")
    assert made.job.quantize == "w4bf16" and any("the public demo needs it" in note for note in made.notes)
    other = planned(model, max_pixels="112,112", quantize="w4f16")
    assert other.job.half == "f16" and any("half is f16: the public demo" in note for note in other.notes)
