"""From a picture to the tower's inputs: transformers' own image processor (without torchvision) gives what `preprocess`
takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_families_graph import EXACT, far, planned
from vision_checkpoints import CONFIGS, whole
from vision_graphs import Both

from llmconv.blocks.tower import Given
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import Images
from llmconv.errors import InputError
from llmconv.families import paddleocr_vl

PROCESSORS = {"glm4v": "Glm4v", "paddleocr_vl": "PaddleOCRVL"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_goes_through_the_processor(name, vision_checkpoint):
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    model = vision_checkpoint(name)
    made = planned(model, max_pixels="160,96" if name == "qwen3_vl" else "140,112")
    both, own, ((kind, spec), *_) = Both(made), whole(model), made.towers
    tower, prepare = kind.holding(spec, both.beside), kind.prepare
    sizes = {"patch_size": tower.patch, "temporal_patch_size": tower.temporal, "merge_size": tower.merge}
    (model / "preprocessor_config.json").write_text(
        json.dumps(sizes | {"image_processor_type": f"{PROCESSORS.get(name, 'Qwen2VL')}ImageProcessor"})
    )
    width, height = tower.pixels
    frames = tower.temporal if name == "glm4v" else 1  # that a still image counts for in the limits
    processor = AutoImageProcessor.from_pretrained(
        model, backend="pil", size={"shortest_edge": tower.unit**2, "longest_edge": frames * width * height}
    )
    for shape in ((90, 200, 3), (400, 60, 3), (300, 300, 3)):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        images = processor(picture, return_tensors="np")
        patches, grids = images["pixel_values"], images["image_grid_thw"].tolist()
        assert 0 < len(patches) <= tower.patches
        items = Images(patches, tuple(map(tuple, grids)))
        found, count = both.run(prepare(tower, items, False)), len(patches) // tower.merge**2
        with torch.inference_mode():
            right = own.get_image_features(torch.from_numpy(patches), torch.tensor(grids))
        features = [
            torch.cat(list(right.pooler_output)),
            *(torch.cat(list(states)) for states in getattr(right, "deepstack_features", None) or ()),
        ]
        assert len(found) == len(features)
        for states, expected in zip(found.values(), features):
            assert far(states[:count], expected.numpy()) < EXACT, shape


@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_is_presented_as_the_processor_does_it(name, vision_checkpoint):
    """`llmconv run --image`: patches, grid and placeholders of pictures of many sizes, with limits of the file and of
    the net. A Pillow that begins with the columns rounds otherwise (llmconv.blocks.vision.square.tiling). Where
    nothing is cut off at 0 and 255, two roundings of half a level each, of which the first is spread by at most 1.31
    (the kernel's absolute weights), differ by two levels at most."""
    from PIL import Image
    from transformers import AutoImageProcessor

    model = vision_checkpoint(name)
    made = planned(model, max_pixels="256,192" if name == "qwen3_vl" else "224,168")
    ((tower, spec), *_), rng = made.towers, np.random.default_rng(3)
    sizes = {"patch_size": spec.patch, "temporal_patch_size": spec.temporal, "merge_size": spec.merge}
    kind = {"image_processor_type": f"{PROCESSORS.get(name, 'Qwen2VL')}ImageProcessor"}
    frames, exact = spec.temporal if name == "glm4v" else 1, []
    room = frames * spec.pixels[0] * spec.pixels[1]
    for least, most, more in (
        (4 * spec.unit**2, room, {}),
        (spec.unit**2, 9 * spec.unit**2, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    ):
        (model / "preprocessor_config.json").write_text(json.dumps(sizes | kind | more))
        limits = {"shortest_edge": least, "longest_edge": most}
        processor = AutoImageProcessor.from_pretrained(model, backend="pil", size=limits)
        for height, width in shapes(rng, 12)[1:]:
            if max(height, width) > 200 * min(height, width):
                continue
            values = waves(rng, height, width)
            right = processor(Image.fromarray(values), return_tensors="np")
            items, text = tower.present(spec, Given(values, "<x>", {"size": limits, **more}))
            assert [list(sides) for sides in items.grids] == right["image_grid_thw"].tolist(), (height, width)
            assert text == f"{tower.text[0]}{'<x>' * (len(items.patches) // spec.merge**2)}{tower.text[1]}"
            wanted = right["pixel_values"].reshape(items.patches.shape)
            two = 2.02 / 255 / min(more.get("image_std", (0.2613,)))
            off = np.abs(items.patches - wanted)
            assert off.max() <= two, (height, width)
            exact.append(off.max() < 1e-6)
    assert sum(exact) >= len(exact) / 2


def waves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture of soft colours."""
    down, right = np.mgrid[:height, :width] / 40
    turns, starts = rng.uniform(-1, 1, (2, 3)), rng.uniform(0, 6, 3)
    waves = np.sin(down[..., None] * turns[0] + right[..., None] * turns[1] + starts)
    return (128 + 60 * waves + rng.uniform(-20, 20, (height, width, 3))).astype(np.uint8)


def test_a_picture_is_made_as_small_as_the_net_is(vision_checkpoint):
    """Whatever the processor's file says, or does not say."""
    made = planned(vision_checkpoint("qwen2_vl"), max_pixels="112,84")
    (tower, spec), *_ = made.towers
    picture = np.zeros((900, 1300, 3), np.uint8)
    wrong = {"size": "large", "min_pixels": True, "max_pixels": -1, "image_mean": [1, 2], "image_std": ["a", 1, 1]}
    for processor in ({}, wrong, {"min_pixels": 10**9, "max_pixels": 2 * 10**9}, {"size": {"longest_edge": 10**9}}):
        items, _ = tower.present(spec, Given(picture, "", processor))
        assert 0 < len(items.patches) <= spec.patches and items.grids[0][2] > items.grids[0][1]


def shapes(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Heights and widths of pictures: small, large, long, high, odd."""
    fixed = [(1, 1), (28, 28), (27, 29), (14, 300), (900, 20), (448, 448), (1081, 1921)]
    return fixed + [(int(h), int(w)) for h, w in np.exp(rng.uniform(1, 6.5, (count, 2)))]


def test_patches_of_a_picture_equal_the_processors(vision_checkpoint):
    """GLM-4V's own image processor: how it resizes, scales, and cuts into patches."""
    from PIL import Image
    from transformers import Glm4vImageProcessorPil

    tower, rng = planned(vision_checkpoint("glm4v"), max_pixels="112,112").towers[0].spec, np.random.default_rng(4)
    for least, most in ((112 * 112, 28 * 28 * 400), (64 * 28 * 28, 756 * 756)):
        processor = Glm4vImageProcessorPil(size={"shortest_edge": least, "longest_edge": most})
        for height, width in shapes(rng, 12):
            picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
            right = processor(picture, return_tensors="np")
            resized = picture.resize(grid.resized(tower, height, width, least, most)[::-1], Image.Resampling.BICUBIC)
            found, sides = grid.patches_of(tower, np.asarray(resized), processor.image_mean, processor.image_std)
            assert [list(sides)] == right["image_grid_thw"].tolist(), (height, width)
            np.testing.assert_array_equal(found, right["pixel_values"])


def test_patches_of_a_page_equal_the_processors(vision_checkpoint):
    """PaddleOCR-VL's own image processor, with what the published 0.9B and 1.5 say of it and with its own defaults."""
    from PIL import Image
    from transformers import PaddleOCRVLImageProcessorPil

    made, rng = planned(vision_checkpoint("paddleocr_vl")), np.random.default_rng(5)
    (_, tower), *_ = made.towers
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for count, least, most, given in (
        (1, 147384, 2822400, half),
        (2, 112896, 1003520, half),
        (1, 384 * 384, 1536 * 1536, {}),
        (30, 28 * 28 * 4, 28 * 28 * 60, half),
    ):
        processor = PaddleOCRVLImageProcessorPil(size={"shortest_edge": least, "longest_edge": most}, **given)
        for height, width in [*shapes(rng, 2 * count)[-count - 5 :], (27, 5000), (5, 16), (300, 1), (1754, 1240)]:
            picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
            if max(height, width) > 200 * min(height, width):
                with pytest.raises(ValueError, match="aspect ratio"):
                    processor(picture, return_tensors="np")
                with pytest.raises(InputError, match="its sides are more than 1 : 200"):
                    paddleocr_vl.resized(tower, height, width, least, most)
                continue
            right = processor(picture, return_tensors="np")
            size = paddleocr_vl.resized(tower, height, width, least, most)
            page = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))
            found, sides = paddleocr_vl.patches_of(tower, page, processor.image_mean, processor.image_std)
            assert [list(sides)] == right["image_grid_thw"].tolist(), (height, width)
            np.testing.assert_array_equal(found, right["pixel_values"].reshape(len(found), -1))
            if len(found) <= tower.patches and (least, most) == (112896, 1003520):
                as_given = paddleocr_vl.preprocess(tower, right["pixel_values"], [sides], True)
                as_made = paddleocr_vl.preprocess(tower, found, [sides], True)
                assert all(np.array_equal(as_given[name], as_made[name]) for name in as_made)
    assert np.array_equal(*(paddleocr_vl.patches_of(tower, page, *m)[0] for m in ((), (paddleocr_vl.MEAN,) * 2)))


@pytest.mark.parametrize("side", [1, 2, 8, 27])
def test_taps_of_a_page_equal_the_classes(side, vision_checkpoint):
    """The class's rows and weights of its learned positions, and torch's own interpolation of them, for grids of any
    size; and the order in which the net takes the patches."""
    import torch
    from torch.nn.functional import interpolate
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    model = vision_checkpoint("paddleocr_vl", vision={"image_size": 14 * side + 6})
    (_, tower), *_ = planned(model, max_pixels="112,112").towers
    assert tower.positions == side**2
    rng = np.random.default_rng(side)
    table = rng.standard_normal((side**2, 5)).astype(np.float32)
    for _ in range(12):
        grids = [(1, *(int(n) * tower.merge for n in rng.integers(1, 40, 2))) for _ in range(2)]
        index, weight = grid.taps(tower, grids)
        assert index.dtype == np.int32 and weight.dtype == np.float32
        found = (table[index] * weight[..., None]).sum(1)
        taps, shares = get_vision_interpolation_indices_and_weights(torch.tensor(grids), side)
        raster = np.concatenate(
            [
                interpolate(torch.from_numpy(table.T.reshape(1, 5, side, side)), size=sides, mode="bilinear")[0]
                .flatten(1)
                .T.numpy()
                for _, *sides in grids
            ]
        )
        order = np.concatenate([[0], np.cumsum(grid.frames(grids))])
        places = np.concatenate([n + grid.places(tower, [one]) @ (one[2], 1) for n, one in zip(order, grids)])
        np.testing.assert_allclose(found, raster[places], atol=5e-5)
        own = (torch.from_numpy(table)[taps] * shares[..., None]).sum(1).numpy()
        np.testing.assert_allclose(found, own[places], atol=1e-6)


def test_patches_come_together_token_by_token(vision_checkpoint):
    """Row by row in a 4 x 6 image: patches 0 and 1 of the first row, then those below them."""
    (_, tower), *_ = planned(vision_checkpoint("paddleocr_vl"), max_pixels="112,112").towers
    rows = np.repeat(np.arange(32, dtype=np.float32)[:, None], tower.row, 1)
    found = grid.together(tower, rows, [(1, 4, 6), (2, 2, 2)])[:, 0].astype(int).tolist()
    assert found[:8] == [0, 1, 6, 7, 2, 3, 8, 9] and found[12:16] == [12, 13, 18, 19] and found[24:] == [*range(24, 32)]


def test_pictures_that_cannot_be_taken(vision_checkpoint):
    tower = planned(vision_checkpoint("glm4v"), max_pixels="112,112").towers[0].spec
    with pytest.raises(InputError, match="6000 x 29 pixels: its sides are more than 1 : 200"):
        grid.resized(tower, 29, 6000, 1, 1 << 30)
    for shape in ((28, 30, 3), (30, 28, 3), (28, 28, 4)):
        with pytest.raises(InputError, match="multiples of 28 pixels, of 3 values each"):
            grid.patches_of(tower, np.zeros(shape, np.uint8), (0, 0, 0), (1, 1, 1))
    with pytest.raises(InputError, match="Read config/pos_embed_weight.npy first"):
        grid.interpolated(tower, [(1, 2, 2)])


@pytest.mark.parametrize("side", [1, 2, 8, 24])
def test_learned_positions_are_stretched_as_torch_does(side, vision_checkpoint):
    """torch's grid_sample at the places that the class's documentation gives, for grids of any size."""
    import torch
    from torch.nn.functional import grid_sample

    model = vision_checkpoint("glm4v", vision={"image_size": 14 * side})
    kind, spec = planned(model, max_pixels="112,112").towers[0]
    rng = np.random.default_rng(side)
    table = rng.standard_normal((1, spec.width, side, side)).astype(np.float32)
    tower = kind.holding(spec, {"pos_embed_weight.npy": table})
    for _ in range(12):
        grids = [(1, *(int(n) * spec.merge for n in rng.integers(1, 40, 2))) for _ in range(2)]
        right = []
        for _, rows, columns in grids:
            y, x = torch.from_numpy(grid.places(tower, [(1, rows, columns)])).float().T
            at = torch.stack([(x + 0.5) / columns * 2 - 1, (y + 0.5) / rows * 2 - 1], -1)[None, None]
            given = {"mode": "bicubic", "align_corners": False, "padding_mode": "border"}
            right.append(grid_sample(torch.from_numpy(table), at, **given)[0, :, 0].T.numpy())
        found = grid.interpolated(tower, grids)
        assert found.dtype == np.float32 and far(found, np.concatenate(right)) < EXACT
        np.testing.assert_allclose(found, np.concatenate(right), atol=5e-5)
