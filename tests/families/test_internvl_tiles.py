"""From a picture to tiles: `preprocess` against Pillow, against transformers' own processor, and against what OpenGVLab
and the public demo do on the host."""

from __future__ import annotations

import json

import numpy as np
import pytest
from internvl_checkpoints import TOKEN, whole
from internvl_graphs import seen
from test_families_graph import EXACT, far, planned

from llmconv.blocks.vision.square import tiling
from llmconv.families.internvl import MEAN, STD, preprocess

# float32 arithmetic in another order, of values up to 3
ROUNDING = 1e-6


def picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise on one side, colours that change slowly on the other, and edges."""
    made = rng.integers(0, 256, (height, width, 3), np.uint8)
    made[:, width // 2 :] = np.linspace(0, 255, width - width // 2)[None, :, None]
    made[height // 3 : height // 2] = 255 * (rng.random(3) > 0.5)
    return made


def sizes(count: int, most: int = 500) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [(int(w), int(h)) for w, h in np.exp(rng.uniform(0, np.log(most), (count, 2))).round().astype(int)]


def pillow(given: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(given).resize((width, height), Image.Resampling.BICUBIC))


def test_pictures_are_resized_as_pillow_does_it():
    """To the bit: smaller, larger, by one axis alone, and to a line."""
    import PIL

    rng = np.random.default_rng(1)
    cases = [(picture(rng, *size), other) for size, other in zip(sizes(150), sizes(300)[150:])]
    wide = picture(rng, 4000, 30)
    cases += [(wide, other) for other in ((448, 30), (4000, 448), (448, 448), (1, 1))]
    for given, (width, height) in cases:
        found, right = tiling.resized(given, width, height), pillow(given, width, height)
        np.testing.assert_array_equal(found, pillow(pillow(given, width, len(given)), width, height))
        if not np.array_equal(found, right):  # from version 13 on the columns come first for some sizes
            assert int(PIL.__version__.split(".")[0]) >= 13
            turned = tiling.resized(given.swapaxes(0, 1), height, width).swapaxes(0, 1)
            np.testing.assert_array_equal(turned, right)


def demo_arrangement(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """As the public demo and OpenGVLab's README choose it, from a set in whatever order that has."""
    found = {(i, j) for n in range(1, most + 1) for i in range(1, n + 1) for j in range(1, n + 1) if i * j <= most}
    best, nearest = (1, 1), float("inf")
    for i, j in sorted(found, key=lambda one: one[0] * one[1]):
        distance = abs(width / height - i / j)
        if distance < nearest:
            best, nearest = (i, j), distance
        elif distance == nearest and width * height > 0.5 * side * side * i * j:
            best = (i, j)
    return best


@pytest.mark.parametrize("most", [1, 2, 4, 6, 12, 40])
def test_the_number_of_tiles(most):
    """Pictures of any size, among them those of published shapes that lie between two arrangements."""
    exact = [
        (w * k, h * k) for w, h in ((1, 1), (4, 3), (3, 4), (16, 9), (5, 4), (3, 2), (2, 1)) for k in (50, 160, 448)
    ]
    for width, height in (*sizes(200 + 4000 // most, 8000), *exact):
        assert tiling.arrangement(width, height, 448, 1, most) == demo_arrangement(width, height, 448, most)


@pytest.mark.parametrize("least, most", [(1, 12), (1, 4), (1, 1), (3, 7)])
def test_tiles_are_those_of_the_models_own_processor(least, most, monkeypatch):
    """transformers' processor, with the Pillow that is there, whose order of passes depends on its version."""
    from PIL import Image
    from transformers import GotOcr2ImageProcessorPil

    monkeypatch.setattr(tiling, "resized", pillow)
    side, rng = 56, np.random.default_rng(2)
    processor = GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        crop_to_patches=True,
        min_patches=least,
        max_patches=most,
        image_mean=MEAN,
        image_std=STD,
    )
    for size in (*sizes(25), (56, 56), (112, 56), (300, 100), (640, 480)):
        given = picture(rng, *size)
        right = processor(Image.fromarray(given), return_tensors="np")
        found = preprocess(given, side, least, most)
        assert len(found) == right["num_patches"][0] and found.dtype == np.float32
        np.testing.assert_allclose(found, np.stack(right["pixel_values"]), atol=ROUNDING, err_msg=str(size))


def test_tiles_are_those_of_the_public_demo(monkeypatch):
    """Cut by Pillow, and normalised by torch."""
    import torch
    from PIL import Image

    monkeypatch.setattr(tiling, "resized", pillow)
    side, rng = 448, np.random.default_rng(3)
    for size in ((900, 500), (200, 700), (448, 448)):
        given = picture(rng, *size)
        image = Image.fromarray(given)
        columns, rows = demo_arrangement(*size, side, 4)
        large = image.resize((columns * side, rows * side))
        boxes = [(x * side, y * side, (x + 1) * side, (y + 1) * side) for y in range(rows) for x in range(columns)]
        cut = [large.crop(box) for box in boxes] + [image.resize((side, side))] * (len(boxes) > 1)
        scaled = [torch.from_numpy(np.asarray(one).copy()).permute(2, 0, 1).float().div(255) for one in cut]
        right = torch.stack(
            [(one - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None] for one in scaled]
        )
        np.testing.assert_allclose(preprocess(given, most=4), right.numpy(), atol=ROUNDING)
        assert len(preprocess(given, most=4, thumbnail=False)) == len(boxes)


def test_a_picture_goes_through_the_processor(internvl_checkpoint):
    """Processor and tower of transformers, against `preprocess` and the net, tile by tile."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor

    model = internvl_checkpoint("internvl", form="6b")
    made = planned(model)
    side = made.towers[0].spec.side
    settings = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": side, "width": side},
        "crop_to_patches": True,
        "max_patches": 4,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (model / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    given = picture(np.random.default_rng(5), 190, 80)  # of a size whose rows come first in every version
    pixels = processor(Image.fromarray(given), return_tensors="pt")["pixel_values"]
    own = whole(json.loads((model / "config.json").read_text())).eval()
    own.load_state_dict({n: v.float() for n, v in load_file(model / "model.safetensors").items()}, assign=True)
    with torch.inference_mode():
        right = own.get_image_features(pixels.float()).pooler_output.numpy()
    found = seen(made, preprocess(given, side, most=4))
    assert found.shape == right.shape == (3, made.towers[0].spec.tokens, 128) and made.towers[0].spec.token == TOKEN
    assert far(found, right) < EXACT
