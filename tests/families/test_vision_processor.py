"""From a picture to the tower's inputs: transformers' own image processor (without torchvision) gives what `preprocess`
takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_families_graph import EXACT, far, planned
from test_vision_graph import Both
from vision_checkpoints import CONFIGS, whole


@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_goes_through_the_processor(name, vision_checkpoint):
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    model = vision_checkpoint(name)
    made = planned(model, max_pixels="160,96" if name == "qwen3_vl" else "140,112")
    (kind, tower), *_ = made.towers
    prepare = kind.preprocess
    sizes = {"patch_size": tower.patch, "temporal_patch_size": tower.temporal, "merge_size": tower.merge}
    (model / "preprocessor_config.json").write_text(
        json.dumps(sizes | {"image_processor_type": "Qwen2VLImageProcessor"})
    )
    width, height = tower.pixels
    processor = AutoImageProcessor.from_pretrained(
        model, backend="pil", size={"shortest_edge": tower.unit**2, "longest_edge": width * height}
    )
    both, own = Both(made), whole(model)
    for shape in ((90, 200, 3), (400, 60, 3), (300, 300, 3)):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        images = processor(picture, return_tensors="np")
        patches, grids = images["pixel_values"], images["image_grid_thw"].tolist()
        assert 0 < len(patches) <= tower.patches
        found, count = both.run(prepare(tower, patches, grids, False)), len(patches) // tower.merge**2
        with torch.inference_mode():
            right = own.get_image_features(torch.from_numpy(patches), torch.tensor(grids))
        features = [
            torch.cat(list(right.pooler_output)),
            *(torch.cat(list(states)) for states in getattr(right, "deepstack_features", None) or ()),
        ]
        assert len(found) == len(features)
        for states, expected in zip(found.values(), features):
            assert far(states[:count], expected.numpy()) < EXACT, shape
