"""LFM2-VL's tower as a graph, against transformers' own class in float32, and what a runtime does with a picture,
against transformers' own processor: no compiler, no chip."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from checkpoints import once
from test_families_graph import EXACT, far, planned, run
from vision_checkpoints import NAFLEX, make, whole

from llmconv.blocks.vision.images import Images, random
from llmconv.blocks.vision.naflex import host
from llmconv.blocks.vision.naflex.spec import Rules
from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.plan.net import IO
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.top.interpret import interpret
from llmconv.verify import answers
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

PIXELS = "128,160"  # 80 patches; the learned positions are of 4 x 4


@pytest.fixture(scope="module")
def naflex(tmp_path_factory):
    """naflex(vision={...}) -> the directory of a checkpoint; the same call gives the same directory."""
    made = once(make, tmp_path_factory)
    return lambda **changes: made("lfm2_vl", **changes)


def seen(made, reference, items, change=lambda weights, inputs: None) -> float:
    """How far the vit net in our interpreter is from the class."""
    net = next(net for net in made.nets if net.tower)
    launch = nets.tower(net, items)
    weights = {w.name: np.array(recipe.evaluate(w.recipe, made.checkpoint)) for w in net.graph.weights.values()}
    inputs = {name: values.copy() for name, values in launch.inputs.items()}
    change(weights, inputs)
    found = dict(zip((io.name for io in net.outputs), interpret(net.graph, inputs, weights)))
    (mine,), (right,) = (each.values() for each in (nets.results(launch, found), answers.expected(reference, launch)))
    return far(mine, right)


@pytest.mark.parametrize(
    "changes, dynamic",
    [
        ({}, 0),
        ({}, 1),
        ({"projector_use_layernorm": True, "projector_bias": False, "internal": True}, 0),
        ({"vision": {"hidden_size": 144, "num_attention_heads": 2, "num_patches": 256, "num_hidden_layers": 1}}, 1),
        ({"downsample_factor": 1, "vision": {"patch_size": 8, "layer_norm_eps": 0.01, "hidden_act": "gelu"}}, 0),
    ],
    ids=str,
)
def test_the_tower_equals_the_class(changes, dynamic, naflex):
    """Images with sides shorter and longer than the square of learned positions, one patch high too."""
    made = planned(naflex(**changes), max_pixels=PIXELS, dynamic=dynamic)
    reference, ((tower, spec),) = Reference(made, Precision()), made.towers
    shapes = list(tower.trials(spec, bool(dynamic), np.random.default_rng(0)))
    assert {min(sides[1:]) for one in shapes for sides in one.grids} >= {spec.merge}
    for items in shapes:
        assert seen(made, reference, items) < EXACT, items.grids


def test_wrong_maths_is_seen(naflex):
    """Positions that are not stretched, patches in another order, the patches of a token exchanged, padding that is
    seen: each is far from the class."""
    made = planned(naflex(), max_pixels=PIXELS)
    reference, spec, rng = Reference(made, Precision()), made.towers[0].spec, np.random.default_rng(3)

    def far_with(change, grid=(1, 6, 8)):
        return seen(made, reference, random(spec, (grid,), rng), change)

    def fixed(_, inputs):
        """Every patch has the position of its row and column in the square."""
        order = host._order(spec, 6, 8)
        shares = np.zeros((48, 16), np.float32)
        shares[np.arange(48), (order // 8 % 4) * 4 + order % 8 % 4] = 1
        inputs["pos_weight"][:48] = shares

    def column_first(weights, _):
        name = next(n for n in weights if n.endswith("linear_1.weight"))
        weights[name] = (
            weights[name].reshape(2, 2, -1, weights[name].shape[1]).swapaxes(0, 1).reshape(weights[name].shape)
        )

    def raster(_, inputs):
        back = np.argsort(host._order(spec, 6, 8))
        for name in ("input_states", "pos_weight"):
            inputs[name][:48] = inputs[name][:48][back]

    assert far_with(lambda *_: None) < EXACT
    assert far_with(fixed) > 1e-2
    assert far_with(column_first) > 1e-2
    assert far_with(raster) > 1e-2
    assert far_with(lambda _, inputs: inputs["attention_mask"].fill(0)) > 1e-2


def test_the_nets_tensors(naflex):
    made = planned(naflex(), max_pixels=PIXELS)
    net, *others = made.nets
    assert net.name == "vit" and not any(other.tower for other in others)
    assert net.inputs == (
        IO("input_states", (80, 768), "f32"),
        IO("pos_weight", (80, 16), "f32"),
        IO("attention_mask", (1, 1, 80, 80), "f32"),
    )
    assert [io.shape for io in net.outputs] == [(20, 256)] and not net.flags.dynamic
    moving = planned(naflex(), max_pixels=PIXELS, dynamic=1).nets[0]
    assert [io.name for io in moving.inputs] == ["input_states", "pos_weight"] and moving.flags.dynamic
    plain = planned(naflex(), quantize="w4bf16").nets[0]
    assert plain.inputs[0].shape == (1024, 768) and plain.flags.mode == "BF16"


def test_the_reference_is_the_class_in_one_piece(naflex):
    """A prompt with two tiles and a thumbnail through the whole model, as transformers runs it, and through ours."""
    import torch

    made = planned(naflex(), max_pixels=PIXELS)
    (fitted,) = made.towers
    images = fitted.tower.sample(fitted.spec, 60, np.random.default_rng(2))
    assert images and len(images.grids) == 3
    count = fitted.tower.count(fitted.spec, images)
    ids = np.array([5, 6, *[1000] * count, 7, 8, 9])
    values = torch.zeros(3, 80, 768)
    mask = torch.zeros(3, 80, dtype=torch.long)
    for number, one in enumerate(images.each()):
        values[number, : len(one.patches)], mask[number, : len(one.patches)] = torch.from_numpy(one.patches), 1
    sides = torch.tensor([sides[1:] for sides in images.grids])
    with torch.inference_mode():
        model = whole(made.checkpoint.path)
        given = {"pixel_values": values, "spatial_shapes": sides, "pixel_attention_mask": mask}
        right = model(torch.from_numpy(ids)[None], **given).logits[0].numpy()
    own = Own(Reference(made, Precision()))
    own.look(ids, [Shown(fitted, images)])
    assert far(own.reference.logits(own.forward(ids)[0]), right) < EXACT


@pytest.mark.parametrize("layout", ["published", "internal", "without model."])
def test_layouts_of_the_tensors_names(layout, naflex, tmp_path):
    """As published, as transformers 5 saves them, and as it saves the model without its head."""
    from safetensors.torch import load_file, save_file

    model = naflex(internal=layout == "internal")
    if layout == "without model.":
        shutil.copy(model / "config.json", tmp_path)
        tensors = load_file(model / "model.safetensors")
        named = {name.removeprefix("model.").replace("vision_model.", ""): t for name, t in tensors.items()}
        save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
        model = tmp_path
    made = planned(model, max_pixels="64,64")
    items = random(made.towers[0].spec, ((1, 4, 4),), np.random.default_rng(1))
    reference = Reference(made, Precision())
    assert seen(made, reference, items) < EXACT
    net = next(net for net in made.nets if net.name == "block_cache_2")
    hidden = np.random.default_rng(1).standard_normal((1, 1, 256)).astype(np.float32)
    launch = nets.step(net, hidden, 1)
    assert (
        far(run(made, net, launch.inputs)["output_states"], answers.expected(reference, launch)["output_states"])
        < EXACT
    )


def _with(model, place, **fields):
    shutil.copytree(model, place, dirs_exist_ok=True)
    (place / "config.json").write_text(json.dumps(NAFLEX["lfm2_vl"] | fields))
    return place


VISION = NAFLEX["lfm2_vl"]["vision_config"]


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"vision_config": None}, "vision_config .*is missing"),
        ({"vision_config": VISION | {"num_patches": 15}}, "num_patches .*is 15; the learned positions"),
        ({"vision_config": VISION | {"num_attention_heads": 5}}, "5 heads of vision_config"),
        ({"vision_config": VISION | {"hidden_act": "mish"}}, "hidden_act 'mish'"),
        ({"projector_hidden_act": "mish"}, "projector_hidden_act 'mish'"),
        ({"projector_use_layernorm": True}, "multi_modal_projector.layer_norm"),
        ({"projector_hidden_size": 256}, r"linear_1\.\w+ .*has shape"),
        ({"vision_feature_layer": -2}, "vision_feature_layer .*is -2"),
        ({"tile_size": 500}, "tile_size 500"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, text, naflex, tmp_path):
    with pytest.raises(InputError, match=text):
        planned(_with(naflex(), tmp_path, **wrong))


def test_a_norm_that_the_config_denies(naflex, tmp_path):
    """Some files hold one and say that there is none: the class leaves it out, and so do the nets."""
    model = shutil.copytree(naflex(projector_use_layernorm=True), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"projector_use_layernorm": False}))
    made = planned(model, max_pixels="64,64")
    assert any("multi_modal_projector.layer_norm is in the checkpoint" in note for note in made.notes)
    items = random(made.towers[0].spec, ((1, 4, 4),), np.random.default_rng(1))
    assert seen(made, Reference(made, Precision()), items) < EXACT


def test_pixels_and_notes(naflex, tmp_path):
    with pytest.raises(InputError, match="max_pixels 100,128.*multiples of 32.*Use 96,128"):
        planned(naflex(), max_pixels="100,128")
    made = planned(naflex(), seq=2048)
    assert any(note == "max_pixels is not set, 512,512 is used" for note in made.notes)
    assert any("up to 10 tiles of 512 x 512 pixels and a thumbnail: 2816 tokens" in note for note in made.notes)
    assert any("2816 tokens is more than the 2048 of one prefill" in note for note in made.notes)
    assert any("may have 1024 patches, and vit takes 80" in note for note in planned(naflex(), max_pixels=PIXELS).notes)
    small = {"do_image_splitting": False, "max_image_tokens": 64, "min_image_tokens": 16}
    made = planned(_with(naflex(), tmp_path, **small), seq=256, max_pixels="256,256")
    assert "an image is 16 to 64 tokens" in made.notes and not any("patches" in note for note in made.notes)
    for note in ("1024 patches", "256 tokens"):
        assert note.split()[1] in made.towers[0].tower.largest(made.towers[0].spec)


def test_a_launch_takes_one_image(naflex):
    ((tower, spec),) = planned(naflex(), max_pixels=PIXELS).towers
    patches = np.zeros((8, 768), np.float32)
    for grids, text in (
        (((1, 2, 2), (1, 2, 2)), "one image or tile"),
        (((1, 2, 2),), r"shape \[8, 768\].*\[4, 768\]"),
        (((1, 1, 8),), "multiples of 2"),
    ):
        with pytest.raises(InputError, match=text):
            tower.prepare(spec, Images(patches, grids), False)
    with pytest.raises(InputError, match="84 patches.*takes 80"):
        tower.prepare(spec, Images(np.zeros((84, 768), np.float32), ((1, 2, 42),)), False)


# ----------------------------------------------------------------------------------------------- the processor's part


def _pillow(picture, width, height):
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def processors():
    """transformers' image processor of LFM2-VL and its text processor, whose only need of torchvision is to resize and
    to shift colours: Pillow resizes here, on both sides."""
    import torch

    functional = ModuleType("functional")
    stubs = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")}
    stubs["torchvision.transforms.v2"].functional = functional  # type: ignore[attr-defined]
    stubs["torchvision.transforms.v2.functional"] = functional
    here = "transformers.models.lfm2_vl"
    importlib.import_module("transformers.image_processing_backends")  # it asks whether torchvision is there, by itself
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stubs.items():
            patch.setitem(sys.modules, name, module)
        images = importlib.import_module(f"{here}.image_processing_lfm2_vl")
        texts = importlib.import_module(f"{here}.processing_lfm2_vl")

        def resize(_, image, size, **__):
            whole = [_pillow(one.permute(1, 2, 0).numpy(), size.width, size.height) for one in image]
            return torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2)

        def normalize(_, image, mean, std, **__):
            return (image - torch.as_tensor(mean).view(-1, 1, 1)) / torch.as_tensor(std).view(-1, 1, 1)

        patch.setattr(images.TorchvisionBackend, "resize", resize)
        patch.setattr(images.TorchvisionBackend, "normalize", normalize)
        yield images.Lfm2VlImageProcessor, texts.Lfm2VlProcessor
    sys.modules.pop(f"{here}.image_processing_lfm2_vl", None)


FIELDS = (
    "do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "downsample_factor",
    "do_image_splitting", "min_tiles", "max_tiles", "use_thumbnail", "min_image_tokens", "max_image_tokens",
    "encoder_patch_size", "tile_size", "max_pixels_tolerance", "do_pad",
)  # fmt: skip
SIZES = [(512, 512), (1, 1), (40, 900), (1000, 30), (723, 725), (725, 723), (1024, 1024), (1080, 1920), (1280, 1024)]
SIZES += [(31, 2000), (3000, 700), (255, 257), (640, 481), (512, 1025)]
OTHERS = {
    "no thumbnail": Rules(thumbnail=False),
    "not cut": Rules(split=False),
    "small tiles": Rules(tile=256, tiles=(2, 4), least=16, most=64, tolerance=1.0),
}


def _theirs(processors, rules: Rules, picture):
    """pixel_values [k, most, row], spatial_shapes [k, 2] and the text of the placeholders, by transformers."""
    import torch

    images, texts = processors
    processor = object.__new__(images)
    given = {
        "do_image_splitting": rules.split,
        "min_tiles": rules.tiles[0],
        "max_tiles": rules.tiles[1],
        "use_thumbnail": rules.thumbnail,
        "min_image_tokens": rules.least,
        "max_image_tokens": rules.most,
        "tile_size": rules.tile,
        "max_pixels_tolerance": rules.tolerance,
    }
    given = {name: getattr(images, name) for name in FIELDS} | given
    given |= {name: tuple(given[name]) for name in ("image_mean", "image_std")}
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    more = {"return_row_col_info": True, "return_tensors": None, "disable_grouping": None}
    found = processor._preprocess([tensor], **given, **more)
    speaking = object.__new__(texts)
    for name, value in (
        ("image_token", "<image>"),
        ("image_start_token", "<|image_start|>"),
        ("image_end_token", "<|image_end|>"),
        ("image_thumbnail_token", "<|img_thumbnail|>"),
        ("image_processor", SimpleNamespace(**given)),
    ):
        setattr(speaking, name, value)
    given |= {"use_image_special_tokens": True}
    return found, speaking.replace_image_token(found, 0, **given)


def _compare(processors, spec, picture):
    found, how = host.launches(spec, picture, _pillow)
    right, text = _theirs(processors, spec.rules, picture)
    assert (how.columns, how.rows) == (right["image_cols"][0], right["image_rows"][0])
    assert host.placeholders(spec, how) == text
    assert len(found) == len(right["pixel_values"])
    rows = 0
    for made, values, seen_, sides in zip(
        found, right["pixel_values"], right["pixel_attention_mask"], right["spatial_shapes"]
    ):
        count = int(seen_.sum())
        order = host._order(spec, *map(int, sides))
        assert count == len(order) <= spec.wanted
        np.testing.assert_array_equal(made["input_states"][:count], values.numpy()[:count][order])
        assert not made["input_states"][count:].any()
        rows += count // spec.merge**2
    assert text.count("<image>") == rows


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_equals_the_processors(size, processors, naflex):
    """Tiles, thumbnail, patches, token counts and the text of the placeholders."""
    ((_, spec),) = planned(naflex()).towers
    _compare(processors, spec, np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))


@pytest.mark.parametrize("rules", OTHERS)
def test_other_rules_are_the_processors(rules, processors, naflex):
    ((_, spec),) = planned(naflex()).towers
    spec, rng = replace(spec, rules=OTHERS[rules]), np.random.default_rng(1)
    for size in ((300, 300), (700, 1500), (90, 400)):
        _compare(processors, spec, rng.integers(0, 256, (*size, 3), np.uint8))


def test_layouts_of_many_sizes_are_the_processors(processors, naflex):
    ((_, spec),) = planned(naflex()).towers
    images, rng = processors[0], np.random.default_rng(2)
    processor = object.__new__(images)
    sizes = [*rng.integers(1, 6000, (3000, 2)), *(n * np.array([4, 5]) for n in range(20, 400))]
    for width, height in (map(int, pair) for pair in sizes):
        how = host.layout(spec, width, height)
        whole_ = processor.smart_resize(height, width, 2, 64, 256, 16)
        assert how.whole == whole_
        if processor._is_image_too_large(height, width, 256, 16, 2, 2.0):
            grid = processor._get_grid_layout(height, width, min_tiles=2, max_tiles=10, tile_size=512)
            assert (how.columns, how.rows) == grid[:2], (width, height)
        else:
            assert not how.tiles


def test_positions_are_the_classes(naflex):
    """The shares of learned positions give what the class gives, and torch's own antialiased interpolation."""
    import torch
    from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

    ((_, spec),) = planned(naflex()).towers
    spec, rng = replace(spec, side=16), np.random.default_rng(4)
    table = rng.standard_normal((16, 16, 24)).astype(np.float32)
    for rows, columns in ((16, 16), (32, 32), (2, 512), (512, 2), (10, 14), (15, 17), (1, 1), (64, 16)):
        found = host.shares(spec, rows, columns) @ table.reshape(256, 24)
        sides = torch.tensor([[rows, columns]])
        right = Siglip2VisionEmbeddings.resize_positional_embeddings(torch.from_numpy(table), sides, rows * columns)[0]
        assert far(found, right.numpy()) < EXACT
        image = torch.from_numpy(table).permute(2, 0, 1)[None]
        how = {"mode": "bilinear", "align_corners": False, "antialias": True}
        other = torch.nn.functional.interpolate(image, size=(rows, columns), **how)[0]
        assert far(found.T.reshape(24, rows, columns), other.numpy()) < EXACT
