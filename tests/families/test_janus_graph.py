"""The nets of Janus in both layouts, as graphs, against transformers' own class in float32: no compiler, no chip."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import janus_checkpoints
import numpy as np
import pytest
from checkpoints import headers, once
from janus_checkpoints import CONFIGS, DEEPSEEK, JANUS
from test_families_graph import EXACT, far, launches, planned, run

from llmconv.blocks.vision.square import padded
from llmconv.blocks.vision.square.tower import Squares, random
from llmconv.checkpoint import recipe
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.families import multi_modality
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.top.interpret import interpret
from llmconv.verify import answers
from llmconv.verify.answers import EXPECTED
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

ODD = {  # fields of vision_config: other sizes of heads, patches, images and projectors
    "janus": (
        {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 3, "mlp_ratio": 1.5, "patch_size": 8},
        {"depth": 1, "image_size": 48, "attention_bias": False, "layer_norm_eps": 0.01},
        {"depth": 3, "hidden_act": "gelu_pytorch_tanh", "image_size": 70, "num_hidden_layers": 1},
    ),
    "multi_modality": ({"image_size": 40, "select_layer": 1}, {"image_size": 96, "select_layer": -23}),
}


@pytest.fixture(scope="module")
def janus_checkpoint(tmp_path_factory):
    """janus_checkpoint("janus", vision={...}) -> its directory; the same call gives the same directory."""
    return once(janus_checkpoints.make, tmp_path_factory)


class Both:
    """The vit net in our interpreter, and the class."""

    def __init__(self, made):
        self.made, self.reference = made, Reference(made, Precision())
        self.net = next(net for net in made.nets if net.name == "vit")
        self.weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in self.net.graph.weights.values()}

    def see(self, items) -> float:
        launch = nets.tower(self.net, items)
        found = dict(zip((io.name for io in self.net.outputs), interpret(self.net.graph, launch.inputs, self.weights)))
        (mine,), (right,) = (
            each.values() for each in (nets.results(launch, found), answers.expected(self.reference, launch))
        )
        assert mine.shape == right.shape == (1, self.made.towers[0].spec.tokens, 256)
        return far(mine, right)


@pytest.mark.parametrize(
    "name, vision", [(name, vision) for name in CONFIGS for vision in ({}, *ODD[name])], ids=lambda v: str(v)[:40]
)
def test_towers_equal_the_class(name, vision, janus_checkpoint):
    if vision.get("select_layer") == -23:  # two of 24 blocks, counted from the end
        config = DEEPSEEK["vision_config"]["params"] | vision
        assert multi_modality.read(_config(DEEPSEEK, config), ()).depth == 2
        vision = vision | {"select_layer": 2}
    both = Both(planned(janus_checkpoint(name, vision=vision)))
    tower, spec = both.made.towers[0]
    (pixels,) = both.net.inputs
    assert (pixels.name, pixels.shape, pixels.dtype) == ("pixel_values", (1, 3, spec.side, spec.side), "f32")
    for items in tower.trials(spec, False, np.random.default_rng(0)):
        assert both.see(items) < EXACT


def _config(config: dict, params: dict) -> Config:
    return Config(config | {"vision_config": {"params": params}}, Path("config.json"))


def test_both_layouts_are_one_model(janus_checkpoint):
    """DeepSeek's names and the class's hold the same values: the same nets' outputs, to the bit."""
    deep = planned(janus_checkpoint("multi_modality"))
    config = janus_checkpoints.twin(DEEPSEEK)
    other = planned(janus_checkpoint("janus", **{k: v for k, v in config.items() if k != "model_type"}))
    ours, theirs = Both(deep), Both(other)
    pixels = {"pixel_values": random(deep.towers[0].spec, 1, np.random.default_rng(1)).pixels}
    np.testing.assert_array_equal(*(interpret(both.net.graph, pixels, both.weights)[0] for both in (ours, theirs)))
    for net, twin in zip(deep.nets, other.nets):
        if net.layer is not None:
            launch, same = next(launches(deep, net)), next(launches(other, twin))
            found, right = run(deep, net, launch.inputs), run(other, twin, same.inputs)
            for output in right:
                np.testing.assert_array_equal(found[output], right[output])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", [{}, {"use_history_kv": 1}, {"dynamic": 1}], ids=str)
def test_blocks_equal_the_class(name, options, janus_checkpoint):
    made = planned(janus_checkpoint(name), **options)
    reference = Reference(made, Precision())
    assert not next(net for net in made.nets if net.name == "vit").flags.dynamic
    for net in made.nets:
        if net.layer == 1:
            for launch in launches(made, net):
                if net.flags.dynamic and nets.length(net) != launch.inputs["input_states"].shape[1]:
                    continue  # the interpreter knows no other length than the net's
                found = run(made, net, launch.inputs)
                for output, right in EXPECTED[net.kind](reference, launch).items():
                    assert far(found[output][:, : launch.count], right) < EXACT, (net.name, output)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_is_the_class_in_one_piece(name, janus_checkpoint):
    """A prompt with an image through the whole model, as transformers runs it, and through ours, part by part."""
    import torch

    made = planned(janus_checkpoint(name))
    model = janus_checkpoints.whole(CONFIGS[name], janus_checkpoints.values(janus_checkpoints.twin(CONFIGS[name])))
    (fitted,) = made.towers
    picture = random(fitted.spec, 1, np.random.default_rng(2))
    ids = np.array([5, 6, *[1000] * fitted.spec.tokens, 7, 8, 9])
    with torch.inference_mode():
        right = model(torch.from_numpy(ids)[None], pixel_values=torch.from_numpy(picture.pixels)).logits[0].numpy()
    own = Own(Reference(made, Precision()))
    own.look(ids, [Shown(fitted, picture)])
    states = own.forward(ids)
    assert far(own.reference.logits(states[0]), right) < EXACT


def test_a_head_of_its_own(janus_checkpoint, tmp_path):
    """The class takes head and token table for one unless config.json denies it; a head that is there is used."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(janus_checkpoint("janus"), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    for value in (True, None):
        config["tie_word_embeddings"] = value
        (model / "config.json").write_text(json.dumps(config))
        made = planned(model)
        assert not made.spec.tied and "lm_head.weight" in next(n for n in made.nets if n.name == "lm_head").tensors
    tensors = load_file(model / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    made = planned(model)
    assert made.spec.tied


def test_what_makes_images_is_left_out(janus_checkpoint):
    for name in CONFIGS:
        made = planned(janus_checkpoint(name))
        assert any("the language model and what it sees are converted: 160 tensors" in note for note in made.notes)
        assert made.family.equal_lengths and not any("demo" in note for note in made.notes)
    noted = planned(janus_checkpoint("janus"), max_input_length=32, do_sample=1, batch=2).notes
    for word in ("do_sample is on", "batch is 2", "max_input_length 32"):
        assert any(note.startswith(word) and "the public demo of janus" in note for note in noted)


@pytest.mark.parametrize(
    "name, change, word",
    [
        ("janus", {"vision_config": JANUS["vision_config"] | {"use_qk_norm": True}}, "use_qk_norm .*is True"),
        ("janus", {"vision_config": JANUS["vision_config"] | {"num_attention_heads": 5}}, "5 heads of vision_config"),
        ("janus", {"vision_config": JANUS["vision_config"] | {"image_size": 8}}, "image_size 8 of vision_config"),
        ("janus", {"vision_config": JANUS["vision_config"] | {"hidden_act": "mish"}}, "hidden_act 'mish'"),
        ("janus", {"vision_config": JANUS["vision_config"] | {"projection_dim": 128}}, "output size 128"),
        ("janus", {"vision_config": JANUS["vision_config"] | {"depth": 3}}, "aligner.hidden_layers.1"),
        ("janus", {"vision_config": JANUS["vision_config"] | {"image_size": 80}}, "position_embedding.* has shape"),
        ("janus", {"text_config": JANUS["text_config"] | {"model_type": "qwen2"}}, "model_type .*is 'qwen2'"),
        ("multi_modality", {"vision_config": {}}, "vision_config.params .*is missing"),
        ("multi_modality", {"vision_config": {"params": {"model_name": "sam_b"}}}, "model_name .*is 'sam_b'; llmconv knows"),
        ("multi_modality", {"vision_config": {"params": {"select_layer": 25}}}, "select_layer .*is 25; the tower has 24"),
        ("multi_modality", {"vision_config": {"params": {"pixel_mean": [0.5]}}}, "pixel_mean .*null alone"),
        ("multi_modality", {"aligner_config": {"params": {"projector_type": "linear", "n_embed": 256}}}, "projector_type"),
        ("multi_modality", {"aligner_config": {"params": {"depth": 2}}}, "n_embed .*is missing"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(name, change, word, janus_checkpoint, tmp_path):
    model = shutil.copytree(janus_checkpoint(name), tmp_path / "model")
    (model / "config.json").write_text(json.dumps(CONFIGS[name] | change))
    with pytest.raises(InputError, match=word):
        planned(model)


def test_max_pixels_is_refused(janus_checkpoint):
    with pytest.raises(InputError, match="max_pixels 384,384 with a janus model: its vision tower takes images of one"):
        planned(janus_checkpoint("janus"), max_pixels="384,384")


PUBLISHED = {  # DeepSeek's config.json leave out what LlamaConfig has as its default
    "1B": ({"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_hidden_layers": 24, "num_key_value_heads": 16}, 2048),
    "7B": ({"num_hidden_layers": 30}, 4096),
}  # fmt: skip


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size, tmp_path):
    language, hidden = PUBLISHED[size]
    language = language | {"max_position_embeddings": 16384, "model_type": "llama", "vocab_size": 102400}
    vision = {"image_size": 384, "model_name": "siglip_large_patch16_384", "select_feature": "same", "select_layer": -1}
    aligner = {"depth": 2, "input_dim": 1024, "n_embed": hidden, "projector_type": "mlp_gelu"}
    config = {k: v for k, v in DEEPSEEK.items() if k != "image_token_id"}
    config |= {"language_config": language, "vision_config": {"params": vision}, "aligner_config": {"params": aligner}}
    tensors = {
        "language_model.model.embed_tokens.weight": (102400, hidden),
        "language_model.lm_head.weight": (102400, hidden),
    }
    layers, wide = language["num_hidden_layers"], language.get("intermediate_size", 11008)
    tensors["language_model.model.norm.weight"] = (hidden,)
    for i in range(layers):
        begin = f"language_model.model.layers.{i}."
        tensors |= {f"{begin}{n}.weight": (hidden,) for n in ("input_layernorm", "post_attention_layernorm")}
        tensors |= {f"{begin}self_attn.{r}_proj.weight": (hidden, hidden) for r in "qkvo"}
        tensors |= {f"{begin}mlp.{n}_proj.weight": (wide, hidden) for n in ("gate", "up")}
        tensors[f"{begin}mlp.down_proj.weight"] = (hidden, wide)
    tower = "vision_model.vision_tower."
    tensors |= {f"{tower}pos_embed": (1, 576, 1024), f"{tower}patch_embed.proj.weight": (1024, 3, 16, 16)}
    tensors |= {f"{tower}{n}": (1024,) for n in ("patch_embed.proj.bias", "norm.weight", "norm.bias")}
    for i in range(24):
        begin = f"{tower}blocks.{i}."
        tensors |= {f"{begin}{n}.{p}": (1024,) for n in ("norm1", "norm2") for p in ("weight", "bias")}
        for n, out, into in (
            ("attn.qkv", 3072, 1024),
            ("attn.proj", 1024, 1024),
            ("mlp.fc1", 4096, 1024),
            ("mlp.fc2", 1024, 4096),
        ):
            tensors |= {f"{begin}{n}.weight": (out, into), f"{begin}{n}.bias": (out,)}
    for n, into in ((0, 1024), (2, hidden)):
        tensors |= {f"aligner.layers.{n}.weight": (hidden, into), f"aligner.layers.{n}.bias": (hidden,)}
    made = planned(headers(tmp_path / "model", config, tensors.items()), seq=1024, quantize="w4bf16")
    vit = next(net for net in made.nets if net.name == "vit")
    assert vit.inputs[0].shape == (1, 3, 384, 384) and vit.outputs[0].shape == (1, 576, hidden)
    assert made.spec.layers == layers and made.towers[0].spec.token == 100581
    assert made.spec.kinds[0].rope["rope_theta"] == 10000.0 and made.spec.eps == 1e-6


def test_pictures_equal_the_processors(janus_checkpoint):
    """Janus' own image processor, at its real size."""
    from PIL import Image
    from transformers import JanusImageProcessorPil

    spec = replace(planned(janus_checkpoint("janus")).towers[0].spec, side=384)
    processor, rng = JanusImageProcessorPil(), np.random.default_rng(5)
    sizes = [(384, 384), (1, 1), (3, 900), (500, 20), (383, 385), (1081, 1921), *rng.integers(5, 900, (12, 2)).tolist()]
    for height, width in sizes:
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        right = processor(picture, return_tensors="np")["pixel_values"]
        small = picture.resize(padded.resized(spec, height, width)[::-1], Image.Resampling.BICUBIC)
        found = padded.pixel_values(spec, np.asarray(small), processor.image_mean, processor.image_std)
        np.testing.assert_array_equal(found, right, err_msg=str((height, width)))
    for shape in ((384, 400, 3), (200, 383, 3), (384, 384, 4)):
        with pytest.raises(InputError, match="Resize it first"):
            padded.pixel_values(spec, np.zeros(shape, np.uint8), (0, 0, 0), (1, 1, 1))


def test_a_launch_takes_one_picture(janus_checkpoint):
    ((tower, spec),) = planned(janus_checkpoint("janus")).towers
    two = Squares(np.zeros((2, 3, 64, 64), np.float32))
    with pytest.raises(InputError, match="one image at a time"):
        tower.prepare(spec, two, False)
    assert [one.pixels.shape for one in tower.each(two)] == [(1, 3, 64, 64)] * 2 and tower.count(spec, two) == 32
