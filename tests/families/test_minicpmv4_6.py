"""MiniCPM-V 4.6's two towers against transformers' own class in float32, and from pictures of any size: no compiler, no
chip."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from checkpoints import headers
from test_families_graph import EXACT, far, planned, run
from vision_checkpoints import HYBRIDS, whole

from llmconv.blocks.navit import slices
from llmconv.blocks.navit.slices import Slices
from llmconv.checkpoint import recipe
from llmconv.cli.main import main
from llmconv.errors import InputError
from llmconv.plan.handover import Handover
from llmconv.plan.net import IO
from llmconv.runtime import launches as nets
from llmconv.verify import answers
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

PIXELS = "112,168"
# (fields of vision_config and of the whole, max_pixels): other head sizes, depths, patches, tables and places of the
# windows than the published ones
ODD = (
    ({"hidden_size": 144, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 98}, {"insert_layer_id": 0}),
    ({"patch_size": 7, "num_channels": 1, "intermediate_size": 100, "layer_norm_eps": 1e-2}, {"insert_layer_id": 2}),
    ({"hidden_act": "quick_gelu", "num_attention_heads": 6, "num_hidden_layers": 4}, {"insert_layer_id": 1}),
)


def seeing(vision_checkpoint, pixels: str = PIXELS, job: dict | None = None, **options):
    """job: options of the conversion; options: of the checkpoint."""
    return planned(vision_checkpoint("minicpmv4_6", **options), max_pixels=pixels, **(job or {}))


def towers(made) -> list:
    return [net for net in made.nets if net.tower]


def see(made, reference, net, items) -> tuple[np.ndarray, np.ndarray]:
    """What the net gives for a slice, and what the class gives."""
    launch = nets.tower(net, items)
    found, right = nets.results(launch, run(made, net, launch.inputs)), answers.expected(reference, launch)
    ((output, expected),) = right.items()
    return found[output], expected


def test_the_nets_tensors_are_the_runtimes(vision_checkpoint):
    """Names, order, shapes and types as the public runtime finds them: dynamic, without masks."""
    made = planned(vision_checkpoint("minicpmv4_6"), 1024, max_input_length=512)
    assert made.job.max_pixels == "448,504"
    assert [note for note in made.notes if "max_pixels" in note] == ["max_pixels is not set, 448,504 is used"]
    assert [net.name for net in made.nets][:4] == ["vit_4x", "vit_16x", "embedding", "block_cache_0"]
    four, sixteen = towers(made)
    shared = (IO("pixel_values", (1, 3, 14, 1152 * 14), "f32"), IO("pos_ids", (1152,), "i32"))
    assert four.inputs == (*shared, IO("merger.reorder_index", (1152,), "i32"))
    assert sixteen.inputs == (
        *shared,
        IO("merger.reorder_index", (288,), "i32"),
        IO("vit_merger.window_index", (1152,), "i32"),
        IO("vit_merger.reverse_index", (1152,), "i32"),
    )
    name = "model.merger.mlp.0.linear_2"
    assert (four.outputs, sixteen.outputs) == ((IO(name, (288, 256), "bf16"),), (IO(name, (72, 256), "bf16"),))
    for net in (four, sixteen):
        assert net.flags.dynamic and net.flags.addr_mode == "basic" and not net.flags.quant_input
    device = Handover.of(made).to_dict()
    assert device["image"] == {"width": 448, "height": 504, "patches": 1152, "tokens": 72}
    assert device["tokens"]["seen"]["image_token_id"] == 1000


@pytest.mark.parametrize("vision, more", [({}, {}), *ODD], ids=lambda v: str(v)[:30])
def test_towers_equal_the_class(vision, more, vision_checkpoint):
    pixels = "56,84" if vision.get("patch_size") == 7 else PIXELS
    made = seeing(vision_checkpoint, pixels, vision=vision, **more)
    reference = Reference(made, Precision())
    for net in towers(made):
        tower, spec = net.tower
        for items in tower.trials(spec, True, np.random.default_rng(0)):
            found, right = see(made, reference, net, items)
            assert found.shape == right.shape == (1, prod(items.sizes[0]) // spec.side**2, 256)
            assert far(found, right) < EXACT, (net.name, items.sizes)


@pytest.mark.parametrize("fault", ["positions", "windows", "order", "table"])
def test_wrong_preparation_is_seen(fault, vision_checkpoint, monkeypatch):
    """What the class works out by itself, so that the comparison shows when a runtime's is wrong."""
    made = seeing(vision_checkpoint)
    reference = Reference(made, Precision())
    places, windows = slices.positions, slices.windows
    wrong = {
        "positions": (slices, "positions", lambda spec, rows, columns: np.roll(places(spec, rows, columns), 1)),
        "table": (slices, "positions", lambda spec, rows, columns: np.arange(rows * columns, dtype=np.int32)),
        "windows": (slices, "windows", lambda rows, columns: np.arange(rows * columns, dtype=np.int32)),
        "order": (slices, "windows", lambda rows, columns: windows(rows, columns)[::-1]),
    }
    monkeypatch.setattr(*wrong[fault])
    for net in towers(made):
        found, right = see(made, reference, net, slices.random(net.tower.spec, ((8, 12),), np.random.default_rng(0)))
        assert far(found, right) > 0.02, net.name


def test_positions_are_the_class_s_for_every_side(vision_checkpoint):
    import torch
    from transformers.vision_utils import get_vision_nearest_position_ids

    _, spec = towers(seeing(vision_checkpoint))[0].tower
    for places in (70, 16, 7):
        for side in range(1, 300):
            right = get_vision_nearest_position_ids(torch.tensor([[side, 3]]), places).numpy()
            np.testing.assert_array_equal(slices.positions(replace(spec, places=places), side, 3), right)


def test_pictures_of_many_sizes_go_through_the_processor(vision_checkpoint):
    """Transformers' own image processor cuts a picture; each of its slices goes through the net, in both modes, and all
    of them fit in the default size."""
    import torch
    from PIL import Image
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    small = {"hidden_size": 32, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 32}
    made = planned(vision_checkpoint("minicpmv4_6", vision=small, insert_layer_id=0), 1024)
    own, rng = whole(made.job.model_path), np.random.default_rng(0)
    counts, largest = set(), 0
    for number in range(10):
        high, wide = (int(side) for side in np.exp(rng.uniform(np.log(100), np.log(1500), 2)))
        high, wide = (high, min(wide, 5 * high)) if number else (400, 600)
        picture = Image.fromarray(rng.integers(0, 256, (min(high, 5 * wide), wide, 3), np.uint8))
        for net in towers(made):
            tower, spec = net.tower
            given = MiniCPMV4_6ImageProcessorPil()(picture, downsample_mode=tower.mode, return_tensors="np")
            sizes = tuple((int(rows), int(columns)) for rows, columns in given["target_sizes"])
            each = list(tower.each(Slices(given["pixel_values"], sizes)))
            assert sum(one.strip.shape[-1] for one in each) == given["pixel_values"].shape[-1]
            largest = max(largest, *map(prod, sizes))
            counts.add(len(sizes))
            last = each[-1]
            with torch.inference_mode():
                (right,) = own.get_image_features(
                    torch.from_numpy(last.strip), torch.tensor(last.sizes), downsample_mode=tower.mode
                ).pooler_output
            (found,) = run(made, net, tower.prepare(spec, last, True)).values()
            assert far(found, right.numpy()) < EXACT, (net.name, high, wide)
            assert tower.count(spec, last) == len(right)
    assert len(counts) >= 4 and 1024 < largest <= 1152


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"merger_times": 2}, "merger_times .*is 2"),
        ({"merge_kernel_size": [1, 2]}, "merge_kernel_size"),
        ({"drop_vision_last_layer": True}, "drop_vision_last_layer"),
        ({"insert_layer_id": 3}, "insert_layer_id 3 .*layers 0 to 2"),
        ({"vision": {"window_kernel_size": [4, 4]}}, "window_kernel_size"),
        ({"vision": {"num_attention_heads": 5}}, "5 heads of vision_config"),
        ({"vision": {"hidden_act": "mish"}}, "hidden_act 'mish'"),
        ({"vision": {"num_hidden_layers": 2}}, "encoder.layers.2.* would not be used"),
        ({"vision": {"image_size": 448}}, "position_embedding.weight .*has shape"),
        ({"vision": None}, "vision_config in .* is missing"),
    ],
    ids=str,
)
def test_what_is_refused(changes, word, vision_checkpoint, tmp_path):
    model = vision_checkpoint("minicpmv4_6")
    config = dict(HYBRIDS["minicpmv4_6"])
    vision = changes.get("vision", {})
    config |= {name: value for name, value in changes.items() if name != "vision"}
    if vision is None:
        del config["vision_config"]
    else:
        config["vision_config"] = config["vision_config"] | vision
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    os.symlink(model / "model.safetensors", other / "model.safetensors")
    with pytest.raises(InputError, match=word):
        planned(other, max_pixels=PIXELS)


def test_slices_that_do_not_fit_are_refused(vision_checkpoint):
    made = seeing(vision_checkpoint)
    four, sixteen = (net.tower for net in towers(made))
    rng = np.random.default_rng(0)
    for (tower, spec), sizes, word in (
        (sixteen, ((8, 16),), "128 patches: the net takes 96: 112 x 168"),
        (sixteen, ((4, 6),), "multiples of 4"),
        (four, ((3, 4),), "multiples of 2"),
        (four, ((4, 4), (2, 2)), "one slice at a time"),
    ):
        with pytest.raises(InputError, match=word):
            tower.prepare(spec, slices.random(spec, sizes, rng), True)
    strip = slices.random(four.spec, ((4, 4),), rng).strip
    with pytest.raises(InputError, match="a strip of shape"):
        four.tower.prepare(four.spec, Slices(strip, ((4, 6),)), True)
    for bad, near in (("448,448", None), ("112,140", "112,112"), ("100,56", "112,56")):
        model = made.job.model_path
        if near:
            with pytest.raises(InputError, match=f"max_pixels {bad}: both sides must be multiples of 56.* Use {near}"):
                planned(model, max_pixels=bad)
        else:
            assert planned(model, 1024, max_pixels=bad).nets[0].inputs[1].shape == (1024,)
    small = planned(made.job.model_path, 64)
    said = [note for note in small.notes if "a slice of" in note]
    assert said == [
        f"a slice of 448 x 504 pixels at {mode} is {count} tokens, more than the 64 of one prefill"
        for mode, count in (("4x", 288), ("16x", 72))
    ]


def test_the_published_size_makes_a_graph_of_tasks(tmp_path, capsys):
    """Both towers hold many of the same tensors, each of which is checked once; a real size is needed for that."""
    text = HYBRIDS["minicpmv4_6"]["text_config"] | {
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "layer_types": None,
        "num_attention_heads": 8,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "vocab_size": 248094,
        "partial_rotary_factor": 0.25,
        "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e7, "rope_type": "default"},
    }
    vision = HYBRIDS["minicpmv4_6"]["vision_config"] | {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
    }
    config = HYBRIDS["minicpmv4_6"] | {"text_config": text, "vision_config": vision, "insert_layer_id": 6}
    shapes = {tensor: tuple(value.shape) for tensor, value in whole(config).state_dict().items()}
    del shapes["lm_head.weight"]
    model = headers(tmp_path / "MiniCPM-V-4.6", config, shapes.items())
    given = ["convert", "-m", str(model), "-s", "2048", "--max_input_length", "1024", "-q", "bf16", "-c", "bm1684x"]
    assert main([*given, "--dry_run", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "max_pixels is not set, 448,504 is used" in said and re.search(r"vit_4x +1 .*\n +vit_16x +1 ", said)


@pytest.mark.compiler
@pytest.mark.parametrize(
    "chip, quantize",
    [
        ("bm1684x", "bf16"),
        ("cv186x", "bf16"),
        *(pytest.param(chip, "f16", marks=pytest.mark.slow) for chip in ("bm1684x", "cv186x", "bm1688")),
        pytest.param("bm1688", "bf16", marks=pytest.mark.slow),
    ],
)
def test_both_towers_have_one_set_of_coefficients(chip, quantize, vision_checkpoint, tmp_path):
    """A .bmodel stores it once: vit_4x has the weights of the windows too, where nothing reads them."""
    from llmconv.bmodel.read import BModel
    from llmconv.toolchain import jit
    from llmconv.toolchain.fetch import obtain
    from llmconv.toolchain.tpuc_opt import compile_mlir
    from llmconv.user_cache import cache_dir

    made, tools = seeing(vision_checkpoint, job={"chip": chip, "quantize": quantize}), obtain()
    assert made.origins["vit_16x"].owner == "vit_4x"
    kernels, found = jit.kernels(cache_dir(), tools.version, tools.digest), []
    for net in towers(made):
        place = tmp_path / net.name
        place.mkdir()
        (place / "net.mlir").write_text(net.mlir)
        weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint).reshape(w.shape) for w in net.weights}
        np.savez(place / "weights.npz", **weights)
        out = place / "net.bmodel"
        compile_mlir(tools, place / "net.mlir", net.flags, out, place / "run", place / "log", kernels)
        found.append(BModel.read(out).nets[0].stages[0].coeff_sha256)
    assert found[0] == found[1]
