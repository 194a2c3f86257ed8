"""From a picture to the tower's inputs: transformers' own image processor (without torchvision) gives what `preprocess`
takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_families_graph import EXACT, far, planned
from test_vision_graph import Both
from vision_checkpoints import CONFIGS, whole

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import Images
from llmconv.errors import InputError


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
        json.dumps(sizes | {"image_processor_type": f"{'Glm4v' if name == 'glm4v' else 'Qwen2VL'}ImageProcessor"})
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
