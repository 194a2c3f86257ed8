"""Qwen3.5's vision tower, and where its tokens stand, against transformers' own class in float32: no compiler, no
chip."""

from __future__ import annotations

import json
import shutil
from math import prod

import numpy as np
import pytest
from test_families_graph import EXACT, far, planned
from vision_checkpoints import HYBRIDS, whole
from vision_graphs import Both

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import Images, shapes
from llmconv.errors import InputError
from llmconv.plan.net import IO
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

PIXELS = "128,160"
# (fields of vision_config, max_pixels): other head sizes, depths, tables, merges and patches than the published ones
ODD = (
    ({"hidden_size": 144, "num_heads": 2, "depth": 1, "num_position_embeddings": 49}, "96,160"),
    ({"hidden_size": 64, "num_heads": 1, "spatial_merge_size": 4, "patch_size": 8}, "64,96"),
    ({"hidden_size": 192, "num_heads": 3, "intermediate_size": 100, "spatial_merge_size": 3}, "144,96"),
)


def seeing(vision_checkpoint, pixels: str = PIXELS, **options):
    return planned(vision_checkpoint("qwen3_5", **options), max_pixels=pixels)


def test_the_towers_tensors_are_the_runtimes(vision_checkpoint):
    """Names, order, shapes and types as public runtimes find them: always dynamic, never a mask, one output."""
    made = planned(vision_checkpoint("qwen3_5"), 1024, max_input_length=768)
    assert made.job.max_pixels == "768,768" and "max_pixels is not set, 768,768 is used" in made.notes
    vit = made.nets[0]
    assert (vit.name, made.nets[1].name) == ("vit", "embedding")
    assert vit.inputs == (
        IO("input_states", (2304, 1536), "f32"),
        IO("position_ids", (2304, 2), "i32"),
        IO("pos_idx", (2304, 4), "i32"),
        IO("pos_weight", (2304, 4, 1), "f32"),
    )
    assert vit.outputs == (IO("model.visual.merger.linear_fc2", (576, 256), "bf16"),)
    flags = vit.flags
    assert flags.dynamic and flags.addr_mode == "basic" and not flags.quant_input and flags.mode == "BF16"
    assert made.towers[0].spec.token == 1000 and dict(made.towers[0].tower.largest(made.towers[0].spec)) == {
        "width": 768,
        "height": 768,
        "patches": 2304,
        "tokens": 576,
    }


@pytest.mark.parametrize("vision, pixels", [({}, PIXELS), *ODD], ids=lambda v: str(v)[:40])
def test_towers_equal_the_class(vision, pixels, vision_checkpoint):
    made = seeing(vision_checkpoint, pixels, vision=vision)
    both, spec = Both(made), made.towers[0].spec
    for grids in shapes(spec, masked=False):
        found, right = both.see(grids)
        (output,) = right
        assert found[output].shape == (1, sum(map(prod, grids)) // spec.merge**2, 256)
        assert far(found[output], right[output]) < EXACT, grids


def test_frames_of_a_video_are_launched_one_by_one(vision_checkpoint):
    """What the class makes of a video, whose frames do not see each other."""
    import torch

    made = seeing(vision_checkpoint)
    both, spec = Both(made), made.towers[0].spec
    video = np.random.default_rng(0).standard_normal((3 * 4 * 6, spec.row)).astype(np.float32)
    with torch.inference_mode():
        right = whole(made.job.model_path).get_video_features(torch.from_numpy(video), torch.tensor([[3, 4, 6]]))
    frames = [nets.tower(both.net, Images(part, ((1, 4, 6),))) for part in np.split(video, 3)]
    found = np.concatenate([next(iter(both.run(launch.inputs).values())) for launch in frames])
    assert far(found, torch.cat(list(right.pooler_output)).numpy()) < EXACT
    with pytest.raises(InputError, match="one frame at a time"):
        nets.tower(both.net, Images(video, ((3, 4, 6),)))


@pytest.mark.parametrize("fault", ["places", "taps", "weights", "order"])
def test_wrong_preparation_is_seen(fault, vision_checkpoint, monkeypatch):
    """What the class works out by itself, so that the comparison shows when a runtime's is wrong."""
    made = seeing(vision_checkpoint)
    right = {part: getattr(grid, part) for part in ("places", "taps", "padded")}
    wrong = {
        "places": lambda tower, grids: np.roll(right["places"](tower, grids), 1, 0),
        "taps": lambda tower, grids: (right["taps"](tower, grids)[0][:, ::-1], right["taps"](tower, grids)[1]),
        "weights": lambda tower, grids: (right["taps"](tower, grids)[0], np.full((prod(grids[0]), 4), 0.25, "f")),
        "padded": lambda values, rows: right["padded"](values[::-1] if values.shape[-1] > 4 else values, rows),
    }
    part = {"order": "padded", "weights": "taps"}.get(fault, fault)
    monkeypatch.setattr(grid, part, wrong[fault if fault in wrong else part])
    found, expected = Both(made).see([(1, 6, 4)])
    assert min(far(found[output], expected[output]) for output in expected) > 0.02


def test_a_wrong_position_table_is_seen(vision_checkpoint):
    both = Both(seeing(vision_checkpoint))
    (table,) = (name for name in both.weights if name.endswith("pos_embed.weight"))
    both.weights[table] = both.weights[table][::-1]
    found, expected = both.see([(1, 6, 4)])
    assert min(far(found[output], expected[output]) for output in expected) > 0.02


def test_pictures_of_many_sizes_go_through_the_processor(vision_checkpoint):
    """Transformers' own image processor gives what `preprocess` takes; it brings every picture below max_pixels."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    made = seeing(vision_checkpoint, "160,96")
    (kind, spec), *_ = made.towers
    model = made.job.model_path
    fields = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    fields |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (model / "preprocessor_config.json").write_text(json.dumps(fields))
    size = {"shortest_edge": 4 * spec.unit**2, "longest_edge": 160 * 96}
    processor = AutoImageProcessor.from_pretrained(model, backend="pil", size=size)
    both, own, rng = Both(made), whole(model), np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        high, wide = (int(side) for side in np.exp(rng.uniform(np.log(20), np.log(700), 2)))
        if max(high, wide) > 40 * min(high, wide):
            continue
        images = processor(Image.fromarray(rng.integers(0, 256, (high, wide, 3), np.uint8)), return_tensors="np")
        patches, grids = images["pixel_values"], images["image_grid_thw"].tolist()
        if len(patches) > spec.patches:  # of very long pictures the smallest form of the processor is too large
            continue
        with torch.inference_mode():
            right = own.get_image_features(torch.from_numpy(patches), torch.tensor(grids)).pooler_output[0].numpy()
        (found,) = both.run(kind.prepare(spec, Images(patches, tuple(map(tuple, grids))), True)).values()
        assert far(found, right) < EXACT, (high, wide)
        seen.add(tuple(grids[0]))
    assert len(seen) >= 8


def test_positions_equal_the_class(vision_checkpoint):
    """Of images and text; and of a video, every frame of which is between its own marks behind its time as text."""
    import torch

    made = seeing(vision_checkpoint)
    sight, spec, rng = Reference(made, Precision()).sight, made.towers[0].spec, np.random.default_rng(3)
    for _ in range(20):
        grids, ids = [], []
        for _ in range(rng.integers(1, 4)):
            grids.append((1, *(int(n) * spec.merge for n in rng.integers(1, 6, 2))))
            tokens = [spec.token] * (prod(grids[-1]) // spec.merge**2)
            ids += [*rng.integers(0, 900, rng.integers(0, 6)), 998, *tokens, 999]
        ids = np.array(ids)
        found, after = grid.token_positions(spec, ids, grids)
        shown = [Shown(made.towers[0], Images(np.zeros(0), tuple(grids)))]
        np.testing.assert_array_equal(found, sight.positions(ids, shown))
        assert after == found.max() + 1
    frame = [998, *[1001] * 6, 999]
    ids = np.array([5, 6, *frame, 7, 8, 9, *frame, 7, *frame, 3])
    given = torch.from_numpy(ids)[None]
    right, _ = sight.whole.get_rope_index(
        given, mm_token_type_ids=2 * (given == 1001).int(), video_grid_thw=torch.tensor([[3, 4, 6]])
    )
    found, _ = grid.token_positions(spec, ids, [(1, 4, 6)] * 3, tokens=[1001])
    np.testing.assert_array_equal(found, right[:, 0].numpy())


def rewritten(model, name: str, config: dict, rename=lambda tensor: tensor):
    """A copy with another config.json and other tensors' names (None: left out)."""
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(model, model.parent / name, dirs_exist_ok=True)
    (other / "config.json").write_text(json.dumps(config))
    tensors = {rename(tensor): value for tensor, value in load_file(model / "model.safetensors").items()}
    save_file({tensor: value for tensor, value in tensors.items() if tensor}, other / "model.safetensors")
    return other


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_the_language_model_alone(name, vision_checkpoint):
    """Of type qwen3_5_text under its own names, and of type qwen3_5 without vision: no tower, the same blocks."""
    model = vision_checkpoint(name)
    config = json.loads((model / "config.json").read_text())
    plain = rewritten(
        model,
        "plain",
        config["text_config"],
        lambda tensor: None if "visual" in tensor else tensor.replace("language_model.", ""),
    )
    bare = {key: value for key, value in config.items() if key != "vision_config"}
    nested = rewritten(model, "nested", bare, lambda tensor: None if "visual" in tensor else tensor)
    whole_one = planned(model, max_pixels="64,64")
    for path in (plain, nested):
        made = planned(path)
        assert not made.towers and [net.name for net in made.nets] == [net.name for net in whole_one.nets[1:]]
        reference = Reference(made, Precision())
        for net in (net for net in made.nets if net.layer in (0, 2) and net.kind == "block"):
            other = next(one for one in whole_one.nets if one.name == net.name)
            assert net.mlir.replace("language_model.", "") == other.mlir.replace("language_model.", "")
            hidden = np.random.default_rng(0).standard_normal((1, 64, 256)).astype(np.float32)
            places = np.tile(np.arange(64), (3, 1, 1))
            right, _ = Reference(whole_one, Precision()).block(net.layer, hidden, places)
            np.testing.assert_array_equal(reference.block(net.layer, hidden, places)[0], right)
        with pytest.raises(
            InputError, match="max_pixels 64,64 with a qwen3_5.* model: it is converted without a vision"
        ):
            planned(path, max_pixels="64,64")


def test_a_tower_without_its_config_or_its_tensors_is_refused(vision_checkpoint):
    model = vision_checkpoint("qwen3_5")
    config = json.loads((model / "config.json").read_text())
    bare = {key: value for key, value in config.items() if key != "vision_config"}
    shallow = config | {"vision_config": HYBRIDS["qwen3_5"]["vision_config"] | {"depth": 2}}
    for name, other, rename, word in (
        ("bare", bare, lambda tensor: tensor, "vision_config in .* is missing"),
        ("blind", config, lambda tensor: None if "visual" in tensor else tensor, "model.visual"),
        ("shallow", shallow, lambda tensor: tensor, "model.visual.blocks.2.* would not be used"),
    ):
        with pytest.raises(InputError, match=word):
            planned(rewritten(model, name, other, rename), max_pixels="64,64")
