"""Towers and blocks of models that see, as graphs, against transformers' own class: no compiler, no chip."""

from __future__ import annotations

import json
import shutil
from math import prod

import numpy as np
import pytest
from test_families_graph import EXACT, far, launches, planned, run
from vision_checkpoints import CONFIGS
from vision_graphs import ODD, PIXELS, Both, hold_blocks, some

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import Images
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision


@pytest.mark.parametrize(
    "name, vision, pixels", [*((n, {}, PIXELS[n]) for n in CONFIGS), *ODD], ids=lambda v: str(v)[:40]
)
def test_towers_equal_the_class(name, vision, pixels, vision_checkpoint):
    made = planned(vision_checkpoint(name, vision=vision), max_pixels=pixels)
    both = Both(made)
    for grids in some(made.towers[0].spec):
        found, right = both.see(grids)
        assert list(found) == list(right) and len(found) == 1 + len(made.towers[0].spec.deepstack)
        for output in right:
            assert (
                found[output].shape
                == right[output].shape
                == (1, sum(map(prod, grids)) // made.towers[0].spec.merge ** 2, 256)
            )
            assert far(found[output], right[output]) < EXACT, (grids, output)


FAULTS = [
    *((name, fault) for name in CONFIGS for fault in ("places", "mask", "order")),
    ("qwen2_5_vl", "windows"),
    ("qwen3_vl", "taps"),
    ("glm4v", "interpolated"),
    ("paddleocr_vl", "taps"),
    ("paddleocr_vl", "together"),
]


@pytest.mark.parametrize("name, fault", FAULTS)
def test_wrong_preparation_is_seen(name, fault, vision_checkpoint, monkeypatch):
    """What the class works out by itself, so that the comparison shows when a runtime's is wrong."""
    made = planned(vision_checkpoint(name), max_pixels=PIXELS[name])
    right = {
        part: getattr(grid, part)
        for part in ("places", "mask", "windows", "taps", "padded", "interpolated", "together")
    }
    wrong = {
        "places": lambda tower, grids: np.roll(right["places"](tower, grids), 1, 0),
        "mask": lambda lengths, size: 0 * right["mask"](lengths, size),
        "windows": lambda tower, grids: (right["windows"](tower, grids)[0][::-1], right["windows"](tower, grids)[1]),
        "taps": lambda tower, grids: (right["taps"](tower, grids)[0][:, ::-1], right["taps"](tower, grids)[1]),
        "together": lambda tower, patches, grids: patches,
        "interpolated": lambda tower, grids: right["interpolated"](tower, grids)[::-1],
        "padded": lambda values, rows: right["padded"](values[::-1] if values.dtype.kind == "f" else values, rows),
    }
    part = {"order": "padded"}.get(fault, fault)
    monkeypatch.setattr(grid, part, wrong[part])
    found, expected = Both(made).see([(1, 4, 4), (1, 6, 4)])
    assert max(far(found[output], expected[output]) for output in expected) > 0.02


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", [{}, {"use_block_with_kv": 1}, {"use_history_kv": 1}, {"dynamic": 1}], ids=str)
def test_blocks_equal_the_class(name, options, vision_checkpoint):
    """With the positions of text, and with three different ones for every token."""
    made = planned(vision_checkpoint(name), max_pixels=PIXELS[name], **options)
    reference = Reference(made, Precision())
    blocks = [net for net in made.nets if net.layer in (0, made.spec.layers - 1)]
    assert {len(net.inputs[1].shape) for net in blocks} == {2} and {net.inputs[1].shape[0] for net in blocks} == {3}
    for net in blocks:
        for text in launches(made, net):
            if net.flags.dynamic and nets.length(net) != text.inputs["input_states"].shape[1]:
                continue  # the interpreter knows no other length than the net's
            places = np.random.default_rng(1).integers(0, 64, (3, text.count))
            inputs = dict(text.inputs) | {"position_ids": _filled(text.inputs["position_ids"], places)}
            shown = nets.Launch(net, inputs, text.count, text.past, positions=places)
            for launch in (text, shown):
                found = run(made, net, launch.inputs)
                for output, right in EXPECTED[net.kind](reference, launch).items():
                    assert far(found[output][:, : launch.count], right) < EXACT, (net.name, output, launch.label)


def _filled(positions: np.ndarray, places: np.ndarray) -> np.ndarray:
    out = positions.copy()
    out[:, : places.shape[1]] = places
    return out


@pytest.mark.parametrize("sections", [[16, 24, 24], [1, 2, 61], [64, 0, 0], [8, 8, 8, 20, 20]])
def test_chunked_sections_of_any_size(sections, vision_checkpoint):
    model = vision_checkpoint("qwen2_vl", rope_scaling={"type": "mrope", "mrope_section": sections})
    hold_blocks(planned(model, max_pixels="112,112"))


@pytest.mark.parametrize("sections", [[24, 20, 20], [40, 12, 12], [10, 30, 4], [64, 0, 0]])
def test_interleaved_sections_of_any_size(sections, vision_checkpoint):
    rope = CONFIGS["qwen3_vl"]["text_config"]["rope_scaling"] | {"mrope_section": sections}
    hold_blocks(planned(vision_checkpoint("qwen3_vl", text={"rope_scaling": rope}), max_pixels="128,128"))


@pytest.mark.parametrize(
    "name, text", [("qwen2_vl", "qwen2"), ("qwen2_5_vl", "qwen2"), ("qwen3_vl", "qwen3"), ("paddleocr_vl", "llama")]
)
def test_text_alone_is_the_plain_model(name, text, vision_checkpoint):
    """With the same number in all three rows a block gives what Qwen2, Qwen3 or Llama gives, to the bit."""
    model = vision_checkpoint(name)
    plain = shutil.copytree(model, model.parent / "plain", dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    config = {
        k: v
        for k, v in {**config, **config.get("text_config", {})}.items()
        if k not in ("vision_config", "text_config", "rope_scaling")
    }
    (plain / "config.json").write_text(json.dumps(config | {"model_type": text}))
    _language_model(plain)
    ours, theirs = planned(model, max_pixels=PIXELS[name]), planned(plain)
    for name in ("block_0", "block_cache_1"):
        net, other = (next(n for n in made.nets if n.name == name) for made in (ours, theirs))
        launch, twin = next(launches(ours, net)), next(launches(theirs, other))
        found, right = run(ours, net, launch.inputs), run(theirs, other, twin.inputs)
        for output in right:
            np.testing.assert_array_equal(found[output][:, : launch.count], right[output][:, : launch.count])


def _language_model(model) -> None:
    """Leave the tensors of the language model, under its own names."""
    from safetensors.torch import load_file, save_file

    tensors = {
        k.replace("model.language_model.", "model."): v
        for k, v in load_file(model / "model.safetensors").items()
        if "visual." not in k and not k.startswith("mlp_AR.")
    }
    save_file(tensors, model / "model.safetensors")


@pytest.mark.parametrize("name", CONFIGS)
def test_positions_equal_the_class(name, vision_checkpoint):
    made = planned(vision_checkpoint(name), max_pixels=PIXELS[name])
    sight, tower, rng = Reference(made, Precision()).sight, made.towers[0].spec, np.random.default_rng(3)
    for _ in range(30):
        grids, ids = [], []
        for _ in range(rng.integers(1, 4)):
            grids.append((1, *(int(n) * tower.merge for n in rng.integers(1, 6, 2))))
            ids += [
                *rng.integers(0, 900, rng.integers(0, 6)),
                *[tower.token] * (prod(grids[-1]) // tower.merge**2),
                999,
            ]
        ids = np.array(ids[: len(ids) - rng.integers(0, 2)])
        found, after = grid.token_positions(tower, ids, grids)
        np.testing.assert_array_equal(found, sight.positions(ids, [Shown(made.towers[0], Images(np.zeros(0), grids))]))
        assert after == found.max() + 1


def test_positions_of_videos_equal_the_class(vision_checkpoint):
    """Frames have positions by time in Qwen2.5-VL, by number in Qwen2-VL."""
    import torch

    ids = np.array([5, *[1001] * 18, 7, 8])
    for name, seconds in (("qwen2_5_vl", 1.5), ("qwen2_vl", 0)):
        made = planned(vision_checkpoint(name), max_pixels=PIXELS[name])
        more = {"second_per_grid_ts": [seconds]} if seconds else {}
        given = torch.from_numpy(ids)[None]
        more |= {"mm_token_type_ids": 2 * (given == 1001).int(), "video_grid_thw": torch.tensor([[3, 4, 6]])}
        right, _ = Reference(made, Precision()).sight.whole.get_rope_index(given, **more)
        found, after = grid.token_positions(made.towers[0].spec, ids, [(3, 4, 6)], tokens=[1001], seconds=[seconds])
        np.testing.assert_array_equal(found, right[:, 0].numpy())
        assert after == found.max() + 1
