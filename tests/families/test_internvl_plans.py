"""Plans of InternVL: older names, fields that are left out, sizes, what a device has to know, and what is refused."""

from __future__ import annotations

import internvl_checkpoints as checkpoints
import numpy as np
import pytest
from internvl_graphs import CHAT, NATIVE, changed, class_tokens, renamed, seen, tiles
from test_families_graph import EXACT, far, launches, planned, run

from llmconv.blocks.vision.square.tower import Squares
from llmconv.errors import InputError
from llmconv.plan.handover import Handover
from llmconv.verify import answers
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision


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
        found, right = run(other, net, launch.inputs), answers.expected(Reference(other, Precision()), launch)
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
