"""What a runtime prepares for a model that sees slice by slice, against the published code of image processor, class and
demo (MiniCPMVImageProcessor, modeling_navit_siglip and the demo's pipeline.py), written again here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from plans import planned
from slice_checkpoints import noise, sincos

from llmconv.blocks.vision.sliced import host
from llmconv.checkpoint import places
from llmconv.errors import InputError


@pytest.fixture(scope="module")
def spec(slice_checkpoint):
    """Sizes as published: 70 x 70 places, slices of about 448 x 448 pixels, at most 9."""
    made = planned(slice_checkpoint("minicpmv_4", vision={"image_size": 980}), max_pixels="448,504")
    return made.towers[0].spec


class Processor:
    """The rules of the published image processor, method by method. `cut` returns the sizes of overview and refined
    image, and the grid (columns, rows) or None."""

    scale, patch = 448, 14

    def divided(self, length, unit):
        return max(round(length / unit) * unit, unit)

    def best_resize(self, size, upscale=False):
        width, height = size
        if width * height > self.scale * self.scale or upscale:
            r = width / height
            height = int(self.scale / math.sqrt(r))
            width = int(height * r)
        return self.divided(width, self.patch), self.divided(height, self.patch)

    def refined(self, size, grid):
        width, height = (self.divided(length, count) for length, count in zip(size, grid))
        best = self.best_resize((width / grid[0], height / grid[1]), upscale=True)
        return best[0] * grid[0], best[1] * grid[1]

    def best_grid(self, size, most):
        width, height = size
        log_ratio = math.log(width / height)
        multiple = min(math.ceil(width * height / (self.scale * self.scale)), most)
        if multiple <= 1:
            return None
        candidates = []
        for number in (multiple - 1, multiple, multiple + 1):
            if number == 1 or number > most:
                continue
            m = 1
            while m <= number:
                if number % m == 0:
                    candidates.append([m, number // m])
                m += 1
        best, least = [1, 1], float("inf")
        for grid in candidates:
            error = abs(log_ratio - math.log(grid[0] / grid[1]))
            if error < least:
                best, least = grid, error
        return best

    def cut(self, size, most):
        grid = self.best_grid(size, most)
        if grid is None:
            return self.best_resize(size, upscale=True), None, None
        return self.best_resize(size), self.refined(size, grid), grid


def sizes(count: int, longest: int, seed: int = 0) -> list[tuple[int, int]]:
    """Widths and heights: small, middle and large ones alike, and those at the edges of the rules."""
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.uniform(0, math.log(longest), (count, 2))).astype(int) + 1
    edges = [(448, 448), (449, 448), (448, 449), (1, 1), (896, 448), (1344, 1344), (14, 14), (7, 7), (980, 980)]
    return edges + [(int(w), int(h)) for w, h in drawn]


@pytest.mark.parametrize("most", [9, 2, 1, 4])
def test_images_are_cut_as_published(most, spec):
    processor, grids = Processor(), set()
    for size in sizes(4000, 8000, most):
        overview, refined, grid = processor.cut(size, most)
        found = host.rule(spec, most).slicing(*size)
        assert found.overview == overview, size
        assert (found.grid == (0, 0)) is (grid is None), size
        if grid:
            assert list(found.grid) == grid and found.count == 1 + grid[0] * grid[1], size
            assert (found.slice[0] * grid[0], found.slice[1] * grid[1]) == refined, size
        grids.add(found.grid)
    assert len(grids) > 2 * most - 2
    assert host.rule(spec) == host.rule(spec, 9)


def test_slices_fit_the_usual_size(spec):
    """Of images up to 50 times as long as high, none has a slice that is larger than what `usual` allows."""
    most, long = 0, 0
    for size in sizes(20000, 20000, 5):
        found = host.rule(spec).slicing(*size)
        for width, height in (found.overview, *[found.slice] * (found.count > 1)):
            if max(size) <= 50 * min(size):
                most = max(most, width * height // spec.patch**2)
                long = max(long, width // spec.patch, height // spec.patch)
    assert spec.usual == (448, 504) and spec.reach == 1152 and 1056 <= most <= 1152 and long > 200


@pytest.mark.parametrize("side, reach", [(70, 1152), (8, 64), (8, 40), (3, 9), (5, 5), (5, 3), (7, 48)])
def test_places_of_the_resampler(side, reach):
    """Every grid of up to `reach` places finds each of its places in the table, once, and the square is as public
    runtimes count it."""
    rows, columns = places.table(side, reach)
    assert len(rows) == len(columns) == places.size(side, reach) == len(set(zip(rows.tolist(), columns.tolist())))
    for high in range(1, max(side, reach) + 1):
        wide = max(reach // high, side if high <= side else 0)
        if not wide:
            continue
        y, x = np.indices((high, wide)).reshape(2, -1)
        found = places.numbers(y, x, side, reach)
        np.testing.assert_array_equal((rows[found], columns[found]), (y, x))
        inside = (y < side) & (x < side)
        np.testing.assert_array_equal(found[inside], (y * side + x)[inside])
    width = 24
    table = places.sincos(side, reach, width)
    right = sincos(int(rows.max()) + 1, int(columns.max()) + 1, width)
    np.testing.assert_allclose(table, right[rows, columns], atol=2e-4)  # its own fractions are in float32


@pytest.mark.parametrize("image_size", [980, 448, 112])
def test_places_are_those_of_the_class(image_size, slice_checkpoint):
    """torch.bucketize of fractions that torch.arange makes; where a corner is on a border, float32 decides by chance
    (and by the processor that it runs on), between the two places that meet there."""
    import torch

    made = planned(slice_checkpoint("minicpmv_4", vision={"image_size": image_size}), max_pixels=f"{image_size},112")
    spec, side = made.towers[0].spec, image_size // 14
    for count in range(1, side + 1):
        inputs = host.preprocess(spec, noise(588, [(1, count, 1)]), [(1, count, 1)])
        found = inputs["pos_ids"][:count] // side
        borders = torch.arange(1 / side, 1.0, 1 / side)
        right = torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / count), borders, right=True).numpy()
        tie = np.arange(count) * side % count == 0
        assert (found[~tie] == right[~tie]).all(), count
        assert set(found[tie] - right[tie]) <= {0, 1}, count
        exact = np.array([sum(k * side >= j * count for j in range(1, side)) for k in range(count)])
        np.testing.assert_array_equal(found, exact)


def test_inputs_are_those_of_the_demo(spec):
    """As its host code fills the inputs of the net, which it zeroes before."""
    for rows, columns in ((32, 32), (28, 36), (37, 28), (70, 16), (23, 50)):
        patches, hw = noise(588, [(1, rows, columns)]), rows * columns
        found = host.preprocess(spec, patches, [(1, rows, columns)])
        mask = np.full((1152, 1152), -10000.0, np.float32)
        mask[:hw, :hw] = 0
        np.testing.assert_array_equal(found["attn_mask"][0, 0], mask)
        np.testing.assert_array_equal(found["resampler_attn_mask"][0, 0], mask[:64])
        ids = np.zeros(1152, np.int32)
        ids[:hw] = [h * 70 + w for h in range(rows) for w in range(columns)]
        np.testing.assert_array_equal(found["pos_embed_ids"], ids)
        np.testing.assert_array_equal(found["input_states"][:hw], patches)
        assert not found["input_states"][hw:].any() and not found["pos_ids"][hw:].any()
        assert {n: (v.dtype.name, v.shape) for n, v in found.items()} == {
            "input_states": ("float32", (1152, 588)),
            "pos_ids": ("int32", (1152,)),
            "attn_mask": ("float32", (1, 1, 1152, 1152)),
            "pos_embed_ids": ("int32", (1152,)),
            "resampler_attn_mask": ("float32", (1, 1, 64, 1152)),
        }


@pytest.mark.parametrize(
    "size", [(300, 200), (1000, 700), (700, 1500), (448, 448), (90, 260), (2000, 2000), (900, 40)], ids=str
)
def test_a_picture_goes_through(size, spec):
    """Overview and slices as the published processor cuts, normalises and unfolds them."""
    import torch
    from PIL import Image

    width, height = size
    picture = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    image, processor = Image.fromarray(picture), Processor()

    def resize(pixels, wide, high):
        return np.asarray(Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC))

    found, how = host.launches(spec, picture, resize)
    overview, refined, grid = processor.cut(size, 9)
    parts = [image.resize(overview, resample=Image.Resampling.BICUBIC)]
    if grid:
        whole = image.resize(refined, resample=Image.Resampling.BICUBIC)
        wide, high = refined[0] // grid[0], refined[1] // grid[1]
        corners = [(x, y) for y in range(0, refined[1], high) for x in range(0, refined[0], wide)]
        parts += [whole.crop((x, y, x + wide, y + high)) for x, y in corners]
    assert len(found) == how.count == len(parts)
    for inputs, part in zip(found, parts):
        values = (np.asarray(part).astype(np.float32) / 255 - 0.5) / 0.5
        flat = torch.nn.functional.unfold(torch.from_numpy(values.transpose(2, 0, 1)), (14, 14), stride=(14, 14))
        # the processor gives [3, 14, k * 14], and the demo makes rows of it
        rows = flat.reshape(3, 14, 14, -1).permute(0, 1, 3, 2).reshape(3, 14, -1).numpy()
        rows = rows.reshape(3, 14, -1, 14).transpose(2, 0, 1, 3).reshape(-1, 588)
        np.testing.assert_allclose(inputs["input_states"][: len(rows)], rows, atol=1e-6)
        assert (inputs["resampler_attn_mask"][0, 0, 0] == 0).sum() == len(rows)


@pytest.mark.parametrize(
    "grids, rows, word",
    [
        ([(1, 4, 4), (1, 4, 4)], 32, "a launch takes one slice"),
        ([(2, 4, 4)], 32, "a launch takes one slice"),
        ([(1, 4, 4)], 15, r"patches of shape \[15, 588\]: .* take \[16, 588\]"),
        ([(1, 40, 40)], 1600, "1600 patches: the net takes 1152: max_pixels is 448,504"),
        ([(1, 1153, 1)], 1153, "1153 patches: the net takes 1152"),
    ],
)
def test_slices_that_do_not_fit_are_refused(grids, rows, word, spec):
    with pytest.raises(InputError, match=word):
        host.preprocess(spec, np.zeros((rows, 588), np.float32), grids)


def test_slices_that_no_place_is_for_are_refused(slice_checkpoint):
    made = planned(slice_checkpoint("minicpmv_4", vision={"image_size": 980}), max_pixels="980,980")
    spec = made.towers[0].spec
    for high, wide in ((70, 70), (8, 144), (1152, 1)):
        host.preprocess(spec, np.zeros((high * wide, 588), np.float32), [(1, high, wide)])
    word = "a slice of 71 x 17 patches: the resampler has places for 70 x 70 patches, or for 1152 of any shape"
    with pytest.raises(InputError, match=word):
        host.preprocess(spec, np.zeros((17 * 71, 588), np.float32), [(1, 17, 71)])
