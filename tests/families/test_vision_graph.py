"""The nets of the models that see, as graphs, against transformers' own class in float32: no compiler, no chip."""

from __future__ import annotations

import json
import shutil
from math import prod

import numpy as np
import pytest
from test_families_graph import EXACT, far, launches, planned, run
from vision_checkpoints import CONFIGS, whole

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import Images, random
from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.top.interpret import interpret
from llmconv.verify import launches as nets
from llmconv.verify import state
from llmconv.verify.reference import Reference
from llmconv.verify.vision import Shown
from llmconv.verify.weights import Precision

PIXELS = {"qwen2_vl": "112,112", "qwen2_5_vl": "112,224", "qwen3_vl": "128,128", "glm4v": "112,112"}
# (name, fields of vision_config, max_pixels): other head sizes, depths, merges, patches, channels and windows than the
# published ones
ODD = (
    (
        "qwen2_vl",
        {"embed_dim": 192, "num_heads": 3, "depth": 1, "spatial_merge_size": 1, "patch_size": 7, "mlp_ratio": 2},
        "49,56",
    ),
    (
        "qwen2_vl",
        {
            "embed_dim": 144,
            "num_heads": 4,
            "depth": 3,
            "spatial_merge_size": 3,
            "temporal_patch_size": 1,
            "hidden_act": "gelu",
        },
        "84,168",
    ),
    (
        "qwen2_5_vl",
        {
            "hidden_size": 128,
            "num_heads": 2,
            "intermediate_size": 100,
            "window_size": 64,
            "fullatt_block_indexes": [0, 2],
        },
        "140,112",
    ),
    (
        "qwen2_5_vl",
        {"hidden_size": 96, "num_heads": 8, "depth": 2, "spatial_merge_size": 1, "fullatt_block_indexes": []},
        "112,140",
    ),
    (
        "qwen3_vl",
        {
            "hidden_size": 144,
            "num_heads": 2,
            "depth": 3,
            "num_position_embeddings": 49,
            "deepstack_visual_indexes": [2, 0],
        },
        "96,160",
    ),
    (
        "qwen3_vl",
        {"hidden_size": 64, "num_heads": 1, "spatial_merge_size": 4, "patch_size": 8, "deepstack_visual_indexes": []},
        "64,96",
    ),
    (
        "glm4v",
        {"hidden_size": 144, "num_heads": 2, "depth": 3, "intermediate_size": 200, "attention_bias": True},
        "140,84",
    ),
    (
        "glm4v",
        {"hidden_size": 64, "num_heads": 1, "spatial_merge_size": 3, "patch_size": 7, "image_size": 40},
        "84,63",
    ),
    (
        "glm4v",
        {
            "depth": 1,
            "spatial_merge_size": 1,
            "temporal_patch_size": 1,
            "image_size": 14,
            "hidden_act": "gelu",
            "rms_norm_eps": 0.01,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 500.0},
        },
        "112,98",
    ),
)


class Both:
    """The vit net in our interpreter, and the class."""

    def __init__(self, made):
        self.made, self.reference = made, Reference(made, Precision())
        self.net = next(net for net in made.nets if net.name == "vit")
        self.beside = {one.name: recipe.evaluate(one.recipe, made.checkpoint) for one in made.beside}
        self.weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in self.net.graph.weights.values()}

    def see(self, grids):
        """(the net's outputs for random images of these grids, what the class gives for them)."""
        images = random(self.made.towers[0].spec, tuple(map(tuple, grids)), np.random.default_rng(0))
        launch = nets.tower(self.net, images, self.beside)
        return nets.results(launch, self.run(launch.inputs)), nets.expected(self.reference, launch)

    def run(self, inputs) -> dict[str, np.ndarray]:
        return dict(zip((io.name for io in self.net.outputs), interpret(self.net.graph, inputs, self.weights)))


def some(tower) -> list[list[tuple[int, int, int]]]:
    """Grids that fit the tower: all of it, a wide one, a high one, the smallest, several images and a video."""
    m, (width, height) = tower.merge, tower.pixels
    most, side = tower.tokens, min(tower.tokens - 4, 5)
    return [
        [(1, height // tower.patch, width // tower.patch)],
        [(1, m, most * 2 // 3 * m)],
        [(1, most // 2 * m, 2 * m)],
        [(1, m, m)],
        [(1, m, side * m), (2, 2 * m, m)],
    ]


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
]


@pytest.mark.parametrize("name, fault", FAULTS)
def test_wrong_preparation_is_seen(name, fault, vision_checkpoint, monkeypatch):
    """What the class works out by itself, so that the comparison shows when a runtime's is wrong."""
    made = planned(vision_checkpoint(name), max_pixels=PIXELS[name])
    right = {part: getattr(grid, part) for part in ("places", "mask", "windows", "taps", "padded", "interpolated")}
    wrong = {
        "places": lambda tower, grids: np.roll(right["places"](tower, grids), 1, 0),
        "mask": lambda lengths, size: 0 * right["mask"](lengths, size),
        "windows": lambda tower, grids: (right["windows"](tower, grids)[0][::-1], right["windows"](tower, grids)[1]),
        "taps": lambda tower, grids: (right["taps"](tower, grids)[0][:, ::-1], right["taps"](tower, grids)[1]),
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
                for output, right in nets.EXPECTED[net.kind](reference, launch).items():
                    assert far(found[output][:, : launch.count], right) < EXACT, (net.name, output, launch.label)


def _filled(positions: np.ndarray, places: np.ndarray) -> np.ndarray:
    out = positions.copy()
    out[:, : places.shape[1]] = places
    return out


@pytest.mark.parametrize("sections", [[16, 24, 24], [1, 2, 61], [64, 0, 0], [8, 8, 8, 20, 20]])
def test_chunked_sections_of_any_size(sections, vision_checkpoint):
    model = vision_checkpoint("qwen2_vl", rope_scaling={"type": "mrope", "mrope_section": sections})
    _blocks_of(planned(model, max_pixels="112,112"))


@pytest.mark.parametrize("sections", [[24, 20, 20], [40, 12, 12], [10, 30, 4], [64, 0, 0]])
def test_interleaved_sections_of_any_size(sections, vision_checkpoint):
    rope = CONFIGS["qwen3_vl"]["text_config"]["rope_scaling"] | {"mrope_section": sections}
    _blocks_of(planned(vision_checkpoint("qwen3_vl", text={"rope_scaling": rope}), max_pixels="128,128"))


def _blocks_of(made) -> None:
    """A prefill and a decode block with three different positions."""
    reference = Reference(made, Precision())
    for net in (n for n in made.nets if n.name in ("block_0", "block_cache_0")):
        rng = np.random.default_rng(2)
        shapes = {io.name: io.shape for io in net.inputs}
        history = state.random(net, rng)
        count = nets.length(net)
        hidden = rng.standard_normal(shapes["input_states"]).astype(np.float32)
        launch = nets.step(net, hidden, count, 9 if history else 0, history, places=rng.integers(0, 64, (3, count)))
        found = run(made, net, launch.inputs)
        for output, right in nets.EXPECTED[net.kind](reference, launch).items():
            assert far(found[output], right) < EXACT, (net.name, output)


@pytest.mark.parametrize("name, text", [("qwen2_vl", "qwen2"), ("qwen2_5_vl", "qwen2"), ("qwen3_vl", "qwen3")])
def test_text_alone_is_the_plain_model(name, text, vision_checkpoint):
    """With the same number in all three rows a block gives what Qwen2 or Qwen3 gives, to the bit."""
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
        if "visual." not in k
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
        assert [(io.name.removeprefix("model."), io.shape, io.dtype) for io in ours.inputs + ours.outputs] == [
            (io.name.removeprefix("model."), io.shape, io.dtype) for io in theirs.inputs + theirs.outputs
        ]
    assert "rope_scaling" not in json.loads((new / "config.json").read_text())
    found, right = Both(other).see([(1, 4, 6)])
    assert all(far(found[o], right[o]) < EXACT for o in right)
    _blocks_of(other)


@pytest.mark.parametrize(
    "name, default, bad, near",
    [
        ("qwen2_vl", "756,756", "768,768", "756,756"),
        ("qwen2_5_vl", "672,896", "100,224", "112,224"),
        ("qwen3_vl", "768,768", "10,128", "32,128"),
        ("glm4v", "756,756", "768,768", "756,756"),
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
        ("glm4v", {"intermediate_size": 512}, "merger.gate_proj.weight .*has shape"),
        ("glm4v", {"out_hidden_size": 128}, "output size 128"),
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
