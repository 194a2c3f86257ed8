"""Towers of models that see, as graphs, beside transformers' own class."""

from __future__ import annotations

import numpy as np
from test_families_graph import EXACT, far, run

from llmconv.blocks.vision.images import random
from llmconv.checkpoint import recipe
from llmconv.runtime import launches as nets
from llmconv.runtime import state
from llmconv.top.interpret import interpret
from llmconv.verify import answers
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

PIXELS = {
    "qwen2_vl": "112,112",
    "qwen2_5_vl": "112,224",
    "qwen3_vl": "128,128",
    "glm4v": "112,112",
    "paddleocr_vl": "112,112",
}
# (name, fields of vision_config, max_pixels): other head sizes, depths, merges, patches, channels and windows than the
# published ones
ODD = (
    (
        "qwen2_vl",
        {"embed_dim": 192, "num_heads": 3, "depth": 1, "spatial_merge_size": 1, "patch_size": 7, "mlp_ratio": 2},
        "49,56",
    ),
    (
        "qwen2_vl",
        {
            "embed_dim": 144,
            "num_heads": 4,
            "depth": 3,
            "spatial_merge_size": 3,
            "temporal_patch_size": 1,
            "hidden_act": "gelu",
        },
        "84,168",
    ),
    (
        "qwen2_5_vl",
        {
            "hidden_size": 128,
            "num_heads": 2,
            "intermediate_size": 100,
            "window_size": 64,
            "fullatt_block_indexes": [0, 2],
        },
        "140,112",
    ),
    (
        "qwen2_5_vl",
        {"hidden_size": 96, "num_heads": 8, "depth": 2, "spatial_merge_size": 1, "fullatt_block_indexes": []},
        "112,140",
    ),
    (
        "qwen3_vl",
        {
            "hidden_size": 144,
            "num_heads": 2,
            "depth": 3,
            "num_position_embeddings": 49,
            "deepstack_visual_indexes": [2, 0],
        },
        "96,160",
    ),
    (
        "qwen3_vl",
        {"hidden_size": 64, "num_heads": 1, "spatial_merge_size": 4, "patch_size": 8, "deepstack_visual_indexes": []},
        "64,96",
    ),
    (
        "glm4v",
        {"hidden_size": 144, "num_heads": 2, "depth": 3, "intermediate_size": 200, "attention_bias": True},
        "140,84",
    ),
    (
        "glm4v",
        {"hidden_size": 64, "num_heads": 1, "spatial_merge_size": 3, "patch_size": 7, "image_size": 40},
        "84,63",
    ),
    (
        "glm4v",
        {
            "depth": 1,
            "spatial_merge_size": 1,
            "temporal_patch_size": 1,
            "image_size": 14,
            "hidden_act": "gelu",
            "rms_norm_eps": 0.01,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 500.0},
        },
        "112,98",
    ),
    (
        "paddleocr_vl",
        {"hidden_size": 144, "num_attention_heads": 2, "num_hidden_layers": 3, "image_size": 384},
        "140,84",
    ),
    (
        "paddleocr_vl",
        {
            "hidden_size": 64,
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "intermediate_size": 100,
            "image_size": 40,
            "patch_size": 7,
            "spatial_merge_size": 3,
            "hidden_act": "gelu",
            "layer_norm_eps": 0.01,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 500.0},
        },
        "84,63",
    ),
    (
        "paddleocr_vl",
        {"hidden_size": 96, "num_attention_heads": 8, "image_size": 14, "spatial_merge_size": 1, "num_channels": 1},
        "112,98",
    ),
)


class Both:
    """The vit net in our interpreter, and the class."""

    def __init__(self, made):
        self.made, self.reference = made, Reference(made, Precision())
        self.net = next(net for net in made.nets if net.name == "vit")
        self.beside = {one.name: recipe.evaluate(one.recipe, made.checkpoint) for one in made.beside}
        self.weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in self.net.graph.weights.values()}

    def see(self, grids):
        """(the net's outputs for random images of these grids, what the class gives for them)."""
        images = random(self.made.towers[0].spec, tuple(map(tuple, grids)), np.random.default_rng(0))
        launch = nets.tower(self.net, images, self.beside)
        return nets.results(launch, self.run(launch.inputs)), answers.expected(self.reference, launch)

    def run(self, inputs) -> dict[str, np.ndarray]:
        return dict(zip((io.name for io in self.net.outputs), interpret(self.net.graph, inputs, self.weights)))


def some(tower) -> list[list[tuple[int, int, int]]]:
    """Grids that fit the tower: all of it, a wide one, a high one, the smallest, several images and a video."""
    m, (width, height) = tower.merge, tower.pixels
    most, side = tower.tokens, min(tower.tokens - 4, 5)
    return [
        [(1, height // tower.patch, width // tower.patch)],
        [(1, m, most * 2 // 3 * m)],
        [(1, most // 2 * m, 2 * m)],
        [(1, m, m)],
        [(1, m, side * m), (2, 2 * m, m)],
    ]


def hold_blocks(made) -> None:
    """A prefill and a decode block with three different positions."""
    reference = Reference(made, Precision())
    for net in (n for n in made.nets if n.name in ("block_0", "block_cache_0")):
        rng = np.random.default_rng(2)
        shapes = {io.name: io.shape for io in net.inputs}
        history = state.random(net, rng)
        count = nets.length(net)
        hidden = rng.standard_normal(shapes["input_states"]).astype(np.float32)
        launch = nets.step(net, hidden, count, 9 if history else 0, history, places=rng.integers(0, 64, (3, count)))
        found = run(made, net, launch.inputs)
        for output, right in EXPECTED[net.kind](reference, launch).items():
            assert far(found[output], right) < EXACT, (net.name, output)
