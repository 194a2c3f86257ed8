"""InternVL's towers and blocks, as graphs, against transformers' own class and the published formulas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import internvl_checkpoints as checkpoints
import numpy as np
import pytest
from internvl_checkpoints import TOKEN
from internvl_graphs import CHAT, NATIVE, class_tokens, seen, tiles
from test_families_graph import EXACT, far, launches, planned, run

from llmconv.blocks.vision.square.tower import Squares, random
from llmconv.checkpoint import recipe
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.top.interpret import interpret
from llmconv.verify.adapters import Adapter
from llmconv.verify.answers import EXPECTED
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

TOWERS = {
    "chat": (CHAT, {}),
    "chat 6b": (CHAT, {"form": "6b", "text": "qwen3"}),
    "chat, columns first": (CHAT, {"ps_version": "v1"}),
    "chat, last but one": (CHAT, {"select_layer": -2}),
    "chat 6b, first": (CHAT, {"form": "6b", "select_layer": 1}),
    "chat, four by four": (CHAT, {"downsample_ratio": 0.25, "ps_version": "v1"}),
    "chat, one by one": (CHAT, {"downsample_ratio": 1.0}),
    "chat, other sizes": (
        CHAT,
        {
            "force_image_size": 48,
            "vision": {"image_size": 48, "patch_size": 8, "num_attention_heads": 4, "hidden_act": "gelu_pytorch_tanh"},
        },
    ),
    "chat, large eps": (CHAT, {"vision": {"layer_norm_eps": 1e-2}}),
    "native": (NATIVE, {}),
    "native 6b": (NATIVE, {"form": "6b", "text": "qwen3"}),
    "native, last norm": (NATIVE, {"vision": {"use_mean_pooling": False}}),
    "native, no last norm for the last but one": (
        NATIVE,
        {"vision": {"use_mean_pooling": False}, "vision_feature_layer": -2},
    ),
    "native, by number": (NATIVE, {"form": "6b", "vision_feature_layer": 2, "projector_hidden_act": "silu"}),
    "native, with the token of pretraining": (NATIVE, {"vision": {"use_mask_token": True}, "downsample_ratio": 0.25}),
}


@pytest.mark.parametrize("case", TOWERS)
def test_towers_equal_the_class(case, internvl_checkpoint):
    name, fields = TOWERS[case]
    made = planned(internvl_checkpoint(name, **fields))
    pixels = tiles(made)
    found, right = seen(made, pixels), class_tokens(made, pixels)
    spec = made.towers[0].spec
    assert found.shape == right.shape == (2, spec.tokens, 128) and far(found, right) < EXACT
    net = made.nets[0]
    assert [(io.name, io.shape, io.dtype) for io in net.inputs] == [
        ("pixel_value", (1, 3, spec.side, spec.side), "f32")
    ]
    assert [(io.shape, io.dtype) for io in net.outputs] == [((spec.tokens, 128), "bf16")]


@pytest.mark.parametrize("case", [case for case in TOWERS if case.startswith("chat")])
def test_towers_equal_the_published_formulas(case, internvl_checkpoint):
    """Neither our names for OpenGVLab's fields and tensors are used, nor transformers' class."""
    import torch
    from safetensors.torch import load_file

    name, fields = TOWERS[case]
    if fields.get("vision", {}).get("hidden_act"):
        fields = fields | {"vision": fields["vision"] | {"hidden_act": "gelu"}}
    model = internvl_checkpoint(name, **fields)
    made = planned(model)
    pixels = tiles(made)
    weights = {tensor: value.float() for tensor, value in load_file(model / "model.safetensors").items()}
    config = json.loads((model / "config.json").read_text())
    right = checkpoints.published_tower(config, weights, torch.from_numpy(pixels)).numpy()
    assert far(seen(made, pixels), right) < EXACT


def test_faults_of_the_tower_are_seen(internvl_checkpoint):
    made = planned(internvl_checkpoint(CHAT, form="6b", text="qwen3"))
    (kind, spec), pixels = made.towers[0], tiles(made)
    right, net = class_tokens(made, pixels), made.nets[0]
    sound = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in net.graph.weights.values()}

    def distance(weights: Mapping[str, np.ndarray] = sound, shown: np.ndarray = pixels, **wrong: Any) -> float:
        """Of a net with other sizes, weights or tiles from the class."""
        graph = kind.graph(replace(spec, **wrong), False)
        given = (nets.tower(net, Squares(np.ascontiguousarray(one[None]))).inputs for one in shown)
        return far(np.stack([interpret(graph, inputs, weights)[0] for inputs in given]), right)

    def swapped(*paths: str) -> dict[str, np.ndarray]:
        """Weights of which two are each other's."""
        return {**sound, paths[0]: sound[paths[1]], paths[1]: sound[paths[0]]}

    position, first = spec.names["position"], sound["mlp1.1.weight"].reshape(2, 2, spec.width, -1)
    layer = "vision_model.encoder.layers.1."
    assert distance() < EXACT
    faults = {
        "patches column by column": distance(shown=pixels.transpose(0, 1, 3, 2)),
        "positions one place on": distance({**sound, position: np.roll(sound[position], 1, -2)}),
        "no class token": distance({**sound, spec.names["class"]: 0 * sound[spec.names["class"]]}),
        "no layer scale": distance({**sound, f"{layer}ls1": 1 + 0 * sound[f"{layer}ls1"]}),
        "layer scales swapped": distance(swapped(f"{layer}ls1", f"{layer}ls2")),
        "queries for keys": distance(swapped(f"{layer}attn.qkv.q.weight", f"{layer}attn.qkv.k.weight")),
        "no norms of queries and keys": distance(qk_eps=None),
        "a block less": distance(depth=spec.depth - 1),
        "patches of a token column by column": distance(
            {**sound, "mlp1.1.weight": first.swapaxes(0, 1).reshape(4 * spec.width, -1)}
        ),
        "tokens column by column": distance(by_column=True),
    }
    assert all(value > 0.01 for value in faults.values()), faults
    # the effect of an epsilon is as small as it is itself beside the variance
    assert distance(merge_eps=1e-3) > 20 * EXACT


LANGUAGES = [(name, text) for name in (CHAT, NATIVE) for text in checkpoints.TEXTS]
OPTIONS = [
    (CHAT, "qwen2", {}),
    (CHAT, "llama", {"share_prompt": 1, "chunk_length": 16}),
    (NATIVE, "qwen3", {"use_block_with_kv": 1, "lora_max_rank": 4}),
]


@pytest.mark.parametrize("name, text, options", OPTIONS, ids=str)
def test_blocks_equal_the_class(name, text, options, internvl_checkpoint):
    made = planned(internvl_checkpoint(name, text=text), **options)
    adapter = Adapter.random(made, np.random.default_rng(0)) if made.job.lora_max_rank else None
    reference = Reference(made, Precision(), adapter=adapter)
    for net in (net for net in made.nets if net.layer is not None):
        assert net.inputs[1].shape[0] == 1, "a token has one position"
        for launch in launches(made, net):
            found = nets.results(launch, run(made, net, launch.inputs, adapter))
            for output, right in EXPECTED[net.kind](reference, launch).items():
                assert far(found[output][:, : right.shape[1]], right) < EXACT, (net.name, output, launch.label)


@pytest.mark.parametrize("name, text", LANGUAGES)
def test_blocks_are_those_of_the_language_models_own_family(name, text, internvl_checkpoint, tmp_path):
    """The same nets as of a checkpoint of the language model alone."""
    from safetensors.torch import load_file, save_file

    model = internvl_checkpoint(name, text=text)
    config = checkpoints.TEXTS[text]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {
        tensor.replace("model.language_model.", "model.").removeprefix("language_model."): value
        for tensor, value in load_file(model / "model.safetensors").items()
        if "language_model" in tensor or "lm_head" in tensor
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours, theirs = planned(model, do_sample=1), planned(tmp_path, do_sample=1)
    assert [net.name for net in ours.nets] == ["vit", *(net.name for net in theirs.nets)]
    assert len(ours.spec.names) == len(theirs.spec.names)
    assert replace(ours.spec, names=theirs.spec.names, naming=theirs.spec.naming) == theirs.spec
    for net, other in zip(ours.nets[1:], theirs.nets):
        assert [(io.shape, io.dtype) for io in net.inputs] == [(io.shape, io.dtype) for io in other.inputs]


@pytest.mark.parametrize(
    "name, fields",
    [
        (CHAT, {"text": "qwen2"}),
        (CHAT, {"text": "llama", "form": "6b", "ps_version": "v1"}),
        (NATIVE, {"text": "qwen3"}),
        (NATIVE, {"text": "qwen2", "tie_word_embeddings": True}),
    ],
    ids=str,
)
def test_a_prompt_with_tiles_is_the_class_in_one_piece(name, fields, internvl_checkpoint):
    """Three tiles in two images of a prompt, and text behind a cache. OpenGVLab's layout is put into the class tensor
    by tensor, by our names, which the published formulas hold above."""
    import torch
    import transformers

    made = planned(internvl_checkpoint(name, **fields), 64)
    reference = Reference(made, Precision())
    images = random(made.towers[0].spec, 3, np.random.default_rng(2))
    four = [TOKEN] * 4
    ids = np.array([3, 4, *four, *four, 5, 6, *four, 7, 8, 9])
    own = Own(reference)
    own.look(ids[:-2], [Shown(made.towers[0], images)])
    found = np.concatenate([own.forward(ids[:-2]), own.forward(ids[-2:])], 1)
    settings = transformers.CONFIG_MAPPING["internvl"].from_dict(reference.oracle.config(made.config))
    settings.tie_word_embeddings = made.spec.tied
    model = transformers.AutoModelForImageTextToText.from_config(settings, attn_implementation="eager").eval().float()
    values = {
        tensor: torch.from_numpy(np.ascontiguousarray(recipe.evaluate(reference.source(tensor), made.checkpoint)))
        for tensor in model.state_dict()
        if not (made.spec.tied and tensor == "lm_head.weight")
    }
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    if fields.get("ps_version") == "v1":
        # the class knows the newer order alone: tiles that are turned over, in and out
        side = int(made.towers[0].spec.tokens ** 0.5)
        order = np.arange(made.towers[0].spec.tokens).reshape(side, side).T.ravel()
        sound = model.model.get_image_features

        def turned(*args: Any, **kwargs: Any) -> Any:
            out = sound(*args, **kwargs)
            out.pooler_output = out.pooler_output[:, order]
            return out

        model.model.get_image_features = turned
    with torch.inference_mode():
        right = model(torch.from_numpy(ids)[None], pixel_values=torch.from_numpy(images.pixels)).logits[0].numpy()
    assert far(reference.logits(found[0]), right) < EXACT
