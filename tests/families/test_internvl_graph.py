"""InternVL's nets as graphs, in both layouts, against transformers' class and OpenGVLab's formulas in float32: no
compiler, no chip."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import internvl_checkpoints as checkpoints
import numpy as np
import pytest
from internvl_checkpoints import TOKEN
from test_families_graph import EXACT, far, launches, planned, run

from llmconv.blocks.vision.square import graph
from llmconv.blocks.vision.square.tower import Squares, random
from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.plan.handover import Handover
from llmconv.top.interpret import interpret
from llmconv.verify import launches as nets
from llmconv.verify.adapters import Adapter
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.vision import Shown
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


def test_faults_of_the_tower_are_seen(internvl_checkpoint, monkeypatch):
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
    monkeypatch.setattr(graph, "PROJECTOR_EPS", 1e-3)
    # the effect of an epsilon is as small as it is itself beside the variance
    assert distance() > 20 * EXACT


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
            for output, right in nets.EXPECTED[net.kind](reference, launch).items():
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


@pytest.mark.parametrize("fields", [{}, {"form": "6b", "text": "qwen3"}], ids=str)
def test_older_names_give_the_same_nets(fields, internvl_checkpoint, tmp_path):
    model = internvl_checkpoint(NATIVE, **fields)
    made, other = planned(model), planned(renamed(model, tmp_path / "old"))
    pixels = tiles(made)
    np.testing.assert_array_equal(seen(made, pixels), seen(other, pixels))
    assert far(seen(other, pixels), class_tokens(other, pixels)) < EXACT
    for net in (net for net in other.nets if net.name in ("block_1", "block_cache_0", "lm_head")):
        if net.name == "lm_head":
            assert net.graph.weights["language_model.lm_head.weight"]
            continue
        launch = next(launches(other, net))
        found, right = run(other, net, launch.inputs), nets.expected(Reference(other, Precision()), launch)
        assert far(found["output_states"][:, : launch.count], right["output_states"]) < EXACT


def test_heads_that_are_tied(internvl_checkpoint):
    """By llm_config alone in OpenGVLab's layout; in the other one by default, and never when the checkpoint has one."""
    for name, fields, tied in (
        (CHAT, {"llm": {"tie_word_embeddings": True}}, True),
        (CHAT, {}, False),
        (CHAT, {"tie_word_embeddings": True}, False),
        (NATIVE, {"tie_word_embeddings": True}, True),
        (NATIVE, {"llm": {"tie_word_embeddings": True}}, True),
        (NATIVE, {}, False),
    ):
        made = planned(internvl_checkpoint(name, **fields), do_sample=1)
        assert made.spec.tied == tied, (name, fields)
        net = next(net for net in made.nets if net.name == "lm_head")
        hidden = np.random.default_rng(0).standard_normal((1, 128)).astype(np.float32)
        (found,) = run(made, net, {"hidden_states": hidden}).values()
        assert far(found, Reference(made, Precision()).logits(hidden)) < EXACT


def test_fields_that_are_left_out(internvl_checkpoint, tmp_path):
    """Defaults are those of the classes."""
    from transformers import InternVLVisionConfig

    from llmconv.checkpoint.config import Config
    from llmconv.families import family_of, internvl

    for kind, given in internvl.DEFAULTS.items():
        settings = checkpoints._class(kind).config_class()
        assert {name: getattr(settings, name) for name in given} == dict(given)
        data = {"model_type": NATIVE, "text_config": {"model_type": kind}, "vision_config": {"image_size": 448}}
        config = Config(data, tmp_path / "config.json")
        spec = family_of(NATIVE).spec(config)
        assert (spec.layers, spec.heads, spec.head_dim, spec.eps, spec.tied) == (32, 32, 128, 1e-6, True)
        assert (spec.kv_heads, spec.max_position) == (32, settings.max_position_embeddings)
        tower, right = internvl.sizes(config, ()), InternVLVisionConfig()
        assert (tower.depth, tower.width, tower.heads) == (24, right.hidden_size, right.num_attention_heads)
        assert (tower.intermediate, tower.side, tower.patch) == (right.intermediate_size, *right.image_size[:1], 14)
        assert (tower.norm, tower.eps, tower.qk_eps, tower.bias) == ("layer", right.layer_norm_eps, None, False)
        assert (tower.token, tower.out, tower.tokens, tower.patches) == (151667, 4096, 256, 1024)


def test_a_large_tower_by_its_sizes(tmp_path):
    """InternVL3-78B's: 5.5 billion parameters, of which nothing is read."""
    import checkpoints as files

    config = checkpoints.chat("qwen2", "6b") | {"force_image_size": 448}
    config["vision_config"] = config["vision_config"] | {
        "hidden_size": 3200,
        "intermediate_size": 12800,
        "num_attention_heads": 25,
        "num_hidden_layers": 45,
        "image_size": 448,
    }
    model = files.headers(tmp_path / "model", config, checkpoints.tensors(config))
    made = planned(model, 512)
    spec, net = made.towers[0].spec, made.nets[0]
    assert (spec.head_dim, spec.patches, spec.tokens) == (128, 1024, 256)
    assert net.inputs[0].shape == (1, 3, 448, 448) and net.outputs[0].shape == (256, 128)
    count = sum(int(np.prod(weight.shape)) for weight in net.weights)
    assert 5.4e9 < count < 5.7e9


def test_the_token_of_images(internvl_checkpoint, tmp_path):
    """From whatever file names it; the public demo's own where none does."""
    text = "<IMG_CONTEXT>"
    files = {
        "added_tokens.json": {text: 151671},
        "tokenizer_config.json": {"added_tokens_decoder": {"151671": {"content": text}, "5": {"content": "a"}}},
        "tokenizer.json": {"added_tokens": [{"id": 3, "content": "b"}, {"id": 151671, "content": text}]},
    }
    for file, content in files.items():
        made = planned(internvl_checkpoint(CHAT, tokenizer={file: content}))
        assert made.towers[0].spec.token == 151671 == Handover.of(made).tokens.seen["image_token_id"]
        assert any("looks for id 151667 (MEDIA_TOKEN_ID" in note and "151671" in note for note in made.notes)
    made = planned(internvl_checkpoint(CHAT, tokenizer={"tokenizer.json": {"added_tokens": []}}))
    assert made.towers[0].spec.token == 151667 and not any("MEDIA_TOKEN_ID" in note for note in made.notes)
    assert planned(internvl_checkpoint(NATIVE, image_token_id=77)).towers[0].spec.token == 77
    with pytest.raises(InputError, match="added_tokens.json is no JSON object"):
        planned(internvl_checkpoint(CHAT, tokenizer={"added_tokens.json": []}))


def test_what_a_device_has_to_know(internvl_checkpoint):
    made = planned(internvl_checkpoint(CHAT), 64)
    device = Handover.of(made).to_dict()
    assert device["image"] == {"width": 56, "height": 56, "patches": 16, "tokens": 4}
    assert device["tokens"]["eos"] == (2,) and device["tokens"]["bos"] == 1
    assert [mask["input"] for mask in device["masks"]] == ["attention_mask"]
    (note,) = (note for note in made.notes if "tiles" in note)
    assert "up to 13 tiles of 56 x 56 pixels, 16 patches and 4 tokens each (<IMG_CONTEXT>, id 500)" in note
    assert note.endswith("a prefill of 64 tokens has room for 16")


@pytest.mark.parametrize("name", [CHAT, NATIVE])
def test_weights_of_the_tower_stay_in_half_precision(name, internvl_checkpoint):
    made = planned(internvl_checkpoint(name), quantize="w4bf16", dynamic=1)
    flags = {net.name: net.flags for net in made.nets}
    assert flags["block_0"].mode == "W4BF16" and flags["block_0"].dynamic
    assert (flags["vit"].mode, flags["vit"].q_group_size, flags["vit"].dynamic) == ("BF16", 0, False)


REFUSED = [
    (CHAT, {"llm_config": {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"]}}, "is internlm2"),
    (CHAT, {"llm_config": {"model_type": None, "architectures": ["InternLM3ForCausalLM"]}}, "is InternLM3ForCausalLM"),
    (NATIVE, {"text_config": {"model_type": "qwen3_moe"}}, "text_config.model_type in .* is qwen3_moe"),
    (CHAT, {"llm_config": None}, "text_config in .* is missing"),
    (CHAT, {"vision_config": None}, "vision_config in .* is missing"),
    (NATIVE, {"vision_config": None}, "vision_config in .* is missing"),
    (CHAT, {"force_image_size": 112}, "force_image_size 112 .* positions for vision_config.image_size 56"),
    (CHAT, {"downsample_ratio": 0.3}, "downsample_ratio in .* is 0.3; 1, 0.5, 0.25"),
    (NATIVE, {"downsample_ratio": 2}, "downsample_ratio in .* is 2.0"),
    (CHAT, {"select_layer": -4}, "select_layer in .* is -4; a block from 1 to 2, or from -2 to -1"),
    (NATIVE, {"vision_feature_layer": [-1, -2]}, r"vision_feature_layer in .* is \[-1, -2\]"),
    (NATIVE, {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy in .* is 'full'"),
    (NATIVE, {"vision_config": {"image_size": [56, 28]}}, "image_size in .* squares"),
    (NATIVE, {"vision_config": {"use_absolute_position_embeddings": False}}, "use_absolute_position_embeddings"),
    (CHAT, {"vision_config": {"norm_type": "batch_norm"}}, "norm_type 'batch'"),
    (CHAT, {"vision_config": {"hidden_act": "mish"}}, "hidden_act 'mish'"),
    (CHAT, {"vision_config": {"num_attention_heads": 3}}, "3 heads of vision_config"),
    (CHAT, {"vision_config": {"patch_size": 8}}, "image_size 56 of vision_config .* 2 x 2 patches of 8"),
    (CHAT, {"vision_config": {"qk_normalization": True}}, "q_norm"),
    (CHAT, {"vision_config": {"qkv_bias": False}}, r"qkv.bias .* would not be used"),
    (CHAT, {"vision_config": {"num_hidden_layers": 1}}, r"encoder.layers.1.* would not be used"),
    (
        CHAT,
        {"vision_config": {"qk_normalization": True, "layer_norm_eps": 1e-5}},
        "layer_norm_eps in .* is 1e-05; 1e-06 is expected",
    ),
]


@pytest.mark.parametrize("name, fields, word", REFUSED, ids=lambda v: str(v)[:60])
def test_what_does_not_fit_is_refused(name, fields, word, internvl_checkpoint, tmp_path):
    with pytest.raises(InputError, match=word):
        planned(changed(internvl_checkpoint(name), tmp_path / "other", **fields))


def test_options_and_tiles_that_do_not_fit_are_refused(internvl_checkpoint):
    model = internvl_checkpoint(CHAT)
    with pytest.raises(
        InputError, match="max_pixels 448,448 with a internvl_chat model: its vision tower takes images of one"
    ):
        planned(model, max_pixels="448,448")
    kind, spec = planned(model).towers[0]
    for shape in ((2, 3, 56, 56), (1, 3, 56, 28), (3, 56, 56)):
        with pytest.raises(InputError, match="a launch takes one tile"):
            kind.prepare(spec, Squares(np.zeros(shape, np.float32)), False)
