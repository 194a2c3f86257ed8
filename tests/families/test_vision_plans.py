"""Plans of models that see: published forms, sizes of images, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from test_families_graph import EXACT, far, planned
from vision_checkpoints import CONFIGS, published, whole
from vision_graphs import PIXELS, Both, hold_blocks

from llmconv.blocks.vision import grid
from llmconv.errors import InputError


@pytest.mark.parametrize("name", CONFIGS)
def test_every_published_form_gives_the_same_nets(name, vision_checkpoint):
    """Tensors under transformers' own names, and a config.json as it writes one: the same nets."""
    model = vision_checkpoint(name)
    made = planned(model, max_pixels=PIXELS[name])
    new = shutil.copytree(vision_checkpoint(name, internal=True), model.parent / "internal", dirs_exist_ok=True)
    whole(json.loads((model / "config.json").read_text())).config.save_pretrained(new)
    other = planned(new, max_pixels=PIXELS[name])
    assert [n.name for n in other.nets] == [n.name for n in made.nets]
    for ours, theirs in zip(made.nets, other.nets):
        assert [
            (published(io.name, name).removeprefix("model."), io.shape, io.dtype) for io in ours.inputs + ours.outputs
        ] == [
            (published(io.name, name).removeprefix("model."), io.shape, io.dtype)
            for io in theirs.inputs + theirs.outputs
        ]
    assert "rope_scaling" not in json.loads((new / "config.json").read_text())
    found, right = Both(other).see([(1, 4, 6)])
    assert all(far(found[o], right[o]) < EXACT for o in right)
    hold_blocks(other)


def test_other_forms_of_paddleocr_vl(vision_checkpoint, tmp_path):
    """A base model that was saved alone, and a head that the checkpoint leaves out, whatever config.json says of it;
    tables that older classes kept, and the pooling head of the tower, are not needed."""
    import torch
    from safetensors.torch import load_file, save_file

    model = vision_checkpoint("paddleocr_vl", internal=True)
    tensors = load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    headless = {name: values for name, values in tensors.items() if name != "lm_head.weight"}
    bare = {name.removeprefix("model."): values for name, values in headless.items()}
    old = {published(name, "paddleocr_vl"): values for name, values in tensors.items()}
    old |= {
        f"visual.vision_model.{name}": torch.zeros(1)
        for name in ("embeddings.packing_position_embedding.weight", "head.probe", "head.mlp.fc1.weight")
    }
    for number, (held, tie, tied) in enumerate(
        [(headless, {}, True), (headless, {"tie_word_embeddings": True}, True), (bare, {}, True), (old, {}, False)]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config | tie))
        save_file(held, place / "model.safetensors", metadata={"format": "pt"})
        made = planned(place, max_pixels="112,112")
        assert made.spec.tied is tied
        found, right = Both(made).see([(1, 4, 6)])
        assert all(far(found[o], right[o]) < EXACT for o in right)
        hold_blocks(made)


def test_biases_of_paddleocr_vl(vision_checkpoint):
    hold_blocks(planned(vision_checkpoint("paddleocr_vl", text={"use_bias": True}), max_pixels="112,112"))


@pytest.mark.parametrize("field", ["rope_is_neox_style", "use_3d_rope"])
def test_another_rope_of_paddleocr_vl_is_refused(field, vision_checkpoint):
    """The class has maths for one value of these fields, and does not look at them."""
    with pytest.raises(InputError, match=f"{field} in .*llmconv knows true alone here"):
        planned(vision_checkpoint("paddleocr_vl", **{field: False}), max_pixels="112,112")


@pytest.mark.parametrize(
    "name, default, bad, near",
    [
        ("qwen2_vl", "756,756", "768,768", "756,756"),
        ("qwen2_5_vl", "672,896", "100,224", "112,224"),
        ("qwen3_vl", "768,768", "10,128", "32,128"),
        ("glm4v", "756,756", "768,768", "756,756"),
        ("paddleocr_vl", "896,1120", "900,1120", "896,1120"),
    ],
)
def test_max_pixels(name, default, bad, near, vision_checkpoint):
    model = vision_checkpoint(name)
    made = planned(model, seq=1024)
    assert made.job.max_pixels == default and any(
        f"max_pixels is not set, {default} is used" in note for note in made.notes
    )
    vit = next(n for n in made.nets if n.name == "vit")
    width, height = map(int, default.split(","))
    assert vit.inputs[0].shape == (width * height // made.towers[0].spec.patch ** 2, made.towers[0].spec.row)
    with pytest.raises(
        InputError, match=f"max_pixels {bad}: both sides must be multiples of {made.towers[0].spec.unit}.* Use {near}"
    ):
        planned(model, max_pixels=bad)
    for text in ("672", "672,", "672x896", "1,2,3", "a,b", "-28,28"):
        with pytest.raises(InputError, match="two whole numbers"):
            planned(model, max_pixels=text)
    assert planned(model, max_pixels=" 448 , 672 ").job.max_pixels == "448,672"
    large = planned(model, max_pixels="768,768" if name == "qwen3_vl" else "672,672")
    assert any("576 tokens, more than the 64 of one prefill" in note for note in large.notes)


def test_models_that_do_not_see_take_no_pixels(checkpoint):
    with pytest.raises(InputError, match="max_pixels 112,112 with a qwen2 model"):
        planned(checkpoint("qwen2"), max_pixels="112,112")


@pytest.mark.parametrize(
    "name, vision, word",
    [
        ("qwen2_vl", {"num_heads": 3}, "3 heads of vision_config"),
        ("qwen2_vl", {"hidden_size": 128}, "output size 128"),
        ("qwen2_vl", {"hidden_act": "mish"}, "hidden_act 'mish' of vision_config"),
        ("qwen2_5_vl", {"window_size": 14}, "window_size 14"),
        ("qwen2_5_vl", {"fullatt_block_indexes": [3]}, r"fullatt_block_indexes \[3\]"),
        ("qwen2_5_vl", {"fullatt_block_indexes": "all"}, "a list of whole numbers is expected"),
        ("qwen3_vl", {"num_position_embeddings": 50}, "num_position_embeddings 50"),
        ("qwen3_vl", {"deepstack_visual_indexes": [0, 1, 2, 3]}, "language model's 4 layers"),
        ("qwen3_vl", {"deepstack_visual_indexes": [0]}, "deepstack_merger_list.1.linear_fc1.bias.* would not be used"),
        ("qwen3_vl", {"depth": 5}, "model.visual.blocks.4"),
        ("qwen2_vl", {"patch_size": 7}, "visual.patch_embed.proj.weight .*has shape"),
        ("glm4v", {"image_size": 10}, "image_size 10 of vision_config"),
        ("glm4v", {"image_size": 126}, "position_embedding.weight .*has shape .*pos_embed_weight.npy"),
        ("glm4v", {"attention_bias": True}, "model.visual.blocks.0.attn.qkv.bias"),
        ("glm4v", {"intermediate_size": 512}, "merger.(gate|up)_proj.weight .*has shape"),
        ("glm4v", {"out_hidden_size": 128}, "output size 128"),
        ("paddleocr_vl", {"num_attention_heads": 5}, "5 heads of vision_config"),
        ("paddleocr_vl", {"hidden_act": "mish"}, "hidden_act 'mish' of vision_config"),
        ("paddleocr_vl", {"image_size": 126}, "position_embedding.weight .*has shape"),
        ("paddleocr_vl", {"image_size": 10}, "image_size in .* is 10; a whole number of at least 14 is"),
        ("paddleocr_vl", {"num_hidden_layers": 3}, "visual.vision_model.encoder.layers.2"),
        ("paddleocr_vl", {"num_hidden_layers": 1}, "encoder.layers.1.* would not be used"),
        ("paddleocr_vl", {"patch_size": 7}, "patch_embedding.weight .*has shape"),
        ("paddleocr_vl", {"spatial_merge_size": 1}, "mlp_AR.linear_1.weight .*has shape"),
        ("paddleocr_vl", {"layer_norm_eps": -1.0}, "layer_norm_eps in .*a number from 0 to 0.1"),
    ],
)
def test_towers_that_do_not_fit_are_refused(name, vision, word, vision_checkpoint):
    model = vision_checkpoint(name)
    other = shutil.copytree(model, model.parent / "other", dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vision_config": config["vision_config"] | vision}))
    with pytest.raises(InputError, match=word):
        planned(other, max_pixels=PIXELS[name])


def test_sections_that_do_not_add_up_are_refused(vision_checkpoint):
    model = vision_checkpoint("qwen2_vl")
    other = shutil.copytree(model, model.parent / "sections", dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text()) | {
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 16]}
    }
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="does not add up to the 64 frequencies"):
        planned(other, max_pixels="112,112")


def test_images_that_do_not_fit_are_refused(vision_checkpoint):
    made = planned(vision_checkpoint("qwen3_vl"), max_pixels="128,128")
    (kind, tower), *_ = made.towers
    prepare = kind.preprocess

    def rows(count: int) -> np.ndarray:
        return np.zeros((count, tower.row), np.float32)

    for patches, grids, dynamic, word in (
        (rows(80), [(1, 8, 10)], False, "80 patches: the net takes 64"),
        (rows(16), [(1, 4, 6)], False, "patches of shape"),
        (rows(15), [(1, 3, 5)], False, "multiples of 2"),
        (rows(32), [(2, 4, 4)], True, "one frame at a time"),
    ):
        with pytest.raises(InputError, match=word):
            prepare(tower, patches, grids, dynamic)
    for ids, grids, word in (
        ([5, 1000, 1000, 6], [(1, 4, 4)], "takes 4 image tokens"),
        ([1000], [], "0 grids are given"),
    ):
        with pytest.raises(InputError, match=word):
            grid.token_positions(tower, np.array(ids), grids)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_of_the_tower_stay_in_half_precision(name, vision_checkpoint):
    made = planned(vision_checkpoint(name), max_pixels=PIXELS[name], quantize="w4bf16", dynamic=1)
    flags = {net.name: net.flags for net in made.nets}
    assert flags["block_0"].mode == flags["block_cache_0"].mode == "W4BF16" and flags["block_0"].q_group_size == 64
    assert (flags["vit"].mode, flags["vit"].q_group_size, flags["vit"].dynamic) == ("BF16", 0, True)
    assert "attention_mask" not in [io.name for net in made.nets if net.name == "vit" for io in net.inputs]


def test_layers_with_three_positions_are_not_split(vision_checkpoint):
    with pytest.raises(InputError, match="tp: the compiler splits Llama's form .* by one position for every token"):
        planned(vision_checkpoint("qwen2_vl", text={"num_key_value_heads": 2}), max_pixels="112,112", num_device=2)


@pytest.mark.parametrize("name", [*CONFIGS, "lfm2_vl"])
def test_a_tower_is_drawn_for_fewer_cycles(name, vision_checkpoint):
    """Inputs, outputs, flags and tensors are those of the vendor's graph, which gives the class's values too. A
    dynamic tower, of which the compiler estimates no cycles, is the vendor's."""
    options = {"max_pixels": PIXELS[name]} if name in PIXELS else {}
    model = vision_checkpoint(name)
    ours, theirs = (planned(model, graph=graph, **options) for graph in ("fast", "vendor"))
    net, other = (next(net for net in made.nets if net.name == "vit") for made in (ours, theirs))
    assert net.mlir != other.mlir
    for part in ("inputs", "outputs", "flags", "tensors"):
        assert getattr(net, part) == getattr(other, part)
    assert (ours.redrawn, theirs.redrawn) == (("vit",), ())
    assert "vit: " in ours.graphs[-1] and theirs.graphs == ("the vendor's",)
    dynamic = [planned(model, graph=graph, dynamic=1, **options) for graph in ("fast", "vendor")]
    assert [net.mlir for net in dynamic[0].nets if net.tower] == [net.mlir for net in dynamic[1].nets if net.tower]
    assert not dynamic[0].redrawn
    if name in PIXELS:
        found, right = Both(theirs).see([(1, 4, 6)])
        assert all(far(found[output], right[output]) < EXACT for output in right)
