"""InternVL's tower as a graph, and checkpoints in other forms."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np

from llmconv.blocks.vision.square.tower import Squares, random
from llmconv.checkpoint import recipe
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.top.interpret import interpret
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

CHAT, NATIVE = "internvl_chat", "internvl"


def old(name: str) -> str:
    """A tensor of transformers' layout as its versions up to 4.56 called it."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    return name.replace("model.language_model.", "language_model.model.").removeprefix("model.")


def renamed(model, to):
    """The checkpoint under older names."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, to, dirs_exist_ok=True)
    tensors = {old(name): value for name, value in load_file(model / "model.safetensors").items()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def changed(model, to, **fields: Any):
    """The checkpoint with other fields in config.json; those of a part, by its name, are added to it."""
    shutil.copytree(model, to, dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    for name, value in fields.items():
        config[name] = config[name] | value if isinstance(value, dict) and name in config else value
    (to / "config.json").write_text(json.dumps(config))
    return to


def seen(made, pixels: np.ndarray) -> np.ndarray:
    """[k, N, H]: what the vit net makes of tiles."""
    net = next(net for net in made.nets if net.name == "vit")
    weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in net.graph.weights.values()}
    return np.stack([interpret(net.graph, nets.tower(net, Squares(one[None])).inputs, weights)[0] for one in pixels])


def tiles(made, count: int = 2) -> np.ndarray:
    return random(made.towers[0].spec, count, np.random.default_rng(0)).pixels


def class_tokens(made, pixels: np.ndarray) -> np.ndarray:
    found = Reference(made, Precision()).sight.features(Shown(made.towers[0], Squares(pixels)))
    assert len(found) == 1
    return found[0].reshape(len(pixels), -1, found[0].shape[-1])
