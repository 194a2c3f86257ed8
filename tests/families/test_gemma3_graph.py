"""The tower of Gemma 3 as a graph, against transformers' own class in float32: no compiler, no chip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gemma3_checkpoints
import numpy as np
import pytest
from checkpoints import edit_config, edit_tensors, once
from family_checkpoints import GEMMA3_TEXT
from gemma3_checkpoints import CONFIG, LAYOUTS, TOKEN, VISION
from test_families_graph import EXACT, far, launches, planned, run
from test_internvl_tiles import picture, sizes

from llmconv.blocks.vision.square import tiling
from llmconv.blocks.vision.square.tower import Squares, random
from llmconv.checkpoint import recipe
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.families import gemma3
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.top.interpret import interpret
from llmconv.verify import answers
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

ODD: tuple[dict[str, Any], ...] = (  # other sizes of heads, patches, images and tokens
    {"vision": {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 3, "patch_size": 8}, "tokens": 49},
    {"vision": {"image_size": 84, "layer_norm_eps": 0.01}, "tokens": 4},
    {"vision": {"image_size": 63, "hidden_act": "gelu", "num_channels": 1}, "tokens": 16},
    {"vision": {"image_size": 30, "num_hidden_layers": 1, "vision_use_head": True}, "tokens": 1},
)


@pytest.fixture(scope="module")
def gemma3_checkpoint(tmp_path_factory):
    """gemma3_checkpoint("published", vision={...}) -> its directory; the same call gives the same directory."""
    return once(gemma3_checkpoints.make, tmp_path_factory)


class Both:
    """The vit net in our interpreter, and the class."""

    def __init__(self, made):
        self.made, self.reference = made, Reference(made, Precision())
        self.net = next(net for net in made.nets if net.name == "vit")
        self.weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in self.net.graph.weights.values()}

    def tokens(self, items: Squares) -> np.ndarray:
        (found,) = interpret(self.net.graph, nets.tower(self.net, items).inputs, self.weights)
        return found

    def see(self, items: Squares) -> float:
        (right,) = answers.expected(self.reference, nets.tower(self.net, items)).values()
        found = self.tokens(items)
        assert found.shape == right.shape == self.net.outputs[0].shape
        return far(found, right)


@pytest.mark.parametrize("fields", [{}, *ODD], ids=str)
def test_towers_equal_the_class(fields, gemma3_checkpoint):
    more = {"mm_tokens_per_image": fields["tokens"]} if fields else {}
    both = Both(planned(gemma3_checkpoint("published", vision=fields.get("vision"), **more)))
    tower, spec = both.made.towers[0]
    (pixels,), (out,) = both.net.inputs, both.net.outputs
    assert (pixels.name, pixels.shape) == ("pixel_values", (1, spec.channels, spec.side, spec.side))
    assert (pixels.dtype, out.shape, out.dtype) == ("f32", (1, fields.get("tokens", 16), 256), "bf16")
    assert not both.net.flags.dynamic
    for items in tower.trials(spec, False, np.random.default_rng(0)):
        assert both.see(items) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_one_model(layout, gemma3_checkpoint):
    """To the bit, and the reference finds the tensors of each."""
    model = gemma3_checkpoint(layout)
    both, published = Both(planned(model)), Both(planned(gemma3_checkpoint("published")))
    items = random(both.made.towers[0].spec, 1, np.random.default_rng(1))
    np.testing.assert_array_equal(both.tokens(items), published.tokens(items))
    assert both.see(items) < EXACT
    ids = np.array([[5, 6, 7]])
    np.testing.assert_array_equal(both.reference.embed(ids), published.reference.embed(ids))
    for net in both.made.nets:
        if net.kind == "block" and net.layer == 1:
            launch = next(launches(both.made, net))
            (found,) = (values for name, values in run(both.made, net, launch.inputs).items() if "states" in name)
            assert far(found[:, : launch.count], answers.expected(both.reference, launch)["output_states"]) < EXACT


def test_a_prompt_is_the_class_in_one_piece_without_types_of_tokens(gemma3_checkpoint):
    """A prompt with an image through the whole model, as transformers runs it, and through ours, part by part. With
    token_type_ids the class shows an image's tokens those behind them too: what verification tells is so."""
    import torch

    made = planned(gemma3_checkpoint("published"))
    model = gemma3_checkpoints.whole(CONFIG, gemma3_checkpoints.values(CONFIG))
    (fitted,) = made.towers
    seen = random(fitted.spec, 1, np.random.default_rng(2))
    ids = np.array([5, 6, *[TOKEN] * fitted.spec.tokens, 7, 8, 9])
    given, pixels = torch.from_numpy(ids)[None], torch.from_numpy(seen.pixels)
    with torch.inference_mode():
        causal = model(given, pixel_values=pixels).logits[0].numpy()
        free = model(given, pixel_values=pixels, token_type_ids=(given == TOKEN).int()).logits[0].numpy()
    own = Own(Reference(made, Precision()))
    own.look(ids, [Shown(fitted, seen)])
    found = own.reference.logits(own.forward(ids)[0])
    assert far(found, causal) < EXACT
    assert far(found[:2], free[:2]) < EXACT and far(found[2:], free[2:]) > 0.05
    (told,) = fitted.tower.deviations(fitted.spec)
    assert "image tokens see those before them alone" in told and told in made.notes


def test_what_is_told(gemma3_checkpoint):
    made = planned(gemma3_checkpoint("published"), do_sample=1, batch=2, max_input_length=12)
    told = "\n".join(made.notes)
    for words in (
        "112 x 112 pixels, 64 patches and 16 tokens (id 1000); pan and scan",
        "more than the 12 of one prefill",
    ):
        assert words in told
    assert "batch is 2: the public demo of gemma3" in told and "left out: " not in told
    assert made.towers[0].tower.largest(made.towers[0].spec) == {
        "width": 112,
        "height": 112,
        "patches": 64,
        "tokens": 16,
    }
    with pytest.raises(
        InputError, match="max_pixels 896,896 with a gemma3 model: its vision tower takes images of one"
    ):
        planned(gemma3_checkpoint("published"), max_pixels="896,896")


def test_a_language_model_alone(gemma3_checkpoint, family_checkpoint, tmp_path):
    """No vision_config and no tower; a tower without one is refused, and one without tensors too."""
    alone = planned(family_checkpoint("gemma3"))
    assert not alone.towers and not any("image" in note for note in alone.notes)
    model = shutil.copytree(gemma3_checkpoint("published"), tmp_path / "model")
    edit_config(model, vision_config=...)
    with pytest.raises(InputError, match="vision_config in .* is missing, and the vision tower"):
        planned(model)
    edit_config(model, vision_config=VISION)
    edit_tensors(model, lambda tensors: {name: t for name, t in tensors.items() if name.startswith("language_model")})
    with pytest.raises(InputError, match=r"no tensor vision_tower\.vision_model\.embeddings\.patch_embedding\.weight"):
        planned(model)


def test_a_pooling_head_is_not_used(gemma3_checkpoint):
    """SigLIP's config has one unless it is denied; the model asks for the patches alone."""
    with_head = planned(gemma3_checkpoint("published", vision={"vision_use_head": True}))
    assert any("vision_model.head.probe" in name for name in with_head.checkpoint.tensors)
    items = random(with_head.towers[0].spec, 1, np.random.default_rng(3))
    np.testing.assert_array_equal(
        Both(with_head).tokens(items), Both(planned(gemma3_checkpoint("published"))).tokens(items)
    )


def test_fields_may_be_left_out():
    """The rest is the class's defaults, as in the published config.json of the 4B."""
    given = {"model_type": "gemma3", "text_config": {"hidden_size": 768}, "vision_config": {}}
    right = gemma3_checkpoints.settings(given)
    vision = right.vision_config
    with pytest.raises(InputError, match="mm_tokens_per_image in config.json: is 256; .* divisor of 14"):
        gemma3.sizes(Config(given, Path("config.json")), ())
    spec = gemma3.sizes(Config(given | {"mm_tokens_per_image": 49}, Path("config.json")), ())
    assert spec and spec.token == right.image_token_index
    assert (spec.width, spec.heads, spec.depth) == (
        vision.hidden_size,
        vision.num_attention_heads,
        vision.num_hidden_layers,
    )
    assert (spec.side, spec.patch, spec.channels) == (vision.image_size, vision.patch_size, vision.num_channels)
    assert (spec.intermediate, spec.activation, spec.eps, spec.merge_eps) == (
        vision.intermediate_size,
        vision.hidden_act,
        vision.layer_norm_eps,
        vision.layer_norm_eps,
    )


NUMBERS = ("hidden_size", "num_hidden_layers", "num_channels", "image_size", "patch_size", "layer_norm_eps")


def _vision(**fields: Any) -> dict[str, Any]:
    return {"vision_config": VISION | fields}


@pytest.mark.parametrize(
    "change, word",
    [
        ({"mm_tokens_per_image": 15}, "mm_tokens_per_image in .* is 15; the square of a divisor of 8"),
        ({"mm_tokens_per_image": 9}, "is 9; the square of a divisor of 8"),
        ({"mm_tokens_per_image": 100}, "is 100; the square of a divisor of 8"),
        ({"mm_tokens_per_image": "all"}, "mm_tokens_per_image .*a whole number is expected"),
        (_vision(model_type="clip_vision_model"), "model_type in .* is 'clip_vision_model'"),
        (_vision(num_attention_heads=5), "5 heads of vision_config"),
        (_vision(hidden_act="mish"), "hidden_act 'mish'"),
        *(
            (_vision(**{name: value}), f"{name} .*expected")
            for name in NUMBERS
            for value in (-1, 10**9, "4", float("nan"))
        ),
        (_vision(image_size=224), r"position_embedding\.weight .*has shape"),
        (_vision(hidden_size=96), r"patch_embedding\.weight .*has shape"),
        (_vision(num_hidden_layers=3), r"encoder\.layers\.2"),
        (_vision(num_hidden_layers=1), r"encoder\.layers\.1\..* would not be used"),
        ({"text_config": GEMMA3_TEXT | {"hidden_size": 128}}, "hidden_size of config.json are 1024 and 128"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change, word, gemma3_checkpoint, tmp_path):
    model = shutil.copytree(gemma3_checkpoint("published"), tmp_path / "model")
    (model / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(InputError, match=word):
        planned(model)


def test_every_tensor_of_the_tower_is_needed(gemma3_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(gemma3_checkpoint("published"), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tower = [name for name in tensors if name.startswith(("vision_tower.", "multi_modal_projector."))]
    assert len(tower) == 2 * 16 + 7
    for name in tower:
        save_file({k: v for k, v in tensors.items() if k != name}, model / "model.safetensors")
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            planned(model)


def test_pictures_equal_the_processors():
    """transformers' own image processor, at the real size and at smaller ones."""
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    rng = np.random.default_rng(5)
    cases = [(896, (640, 480)), (896, (896, 896)), (896, (1700, 300)), *((112, size) for size in sizes(40))]
    for side, size in cases:
        given = picture(rng, *size)
        processor = Gemma3ImageProcessorPil(size={"height": side, "width": side})
        right = processor(pillow(given, side, side), return_tensors="np", input_data_format="channels_last")[
            "pixel_values"
        ]
        found = gemma3.preprocess(given, side)
        assert found.shape == right.shape == (1, 3, side, side) and found.dtype == np.float32
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)
        # of a picture as it is: from version 13 on Pillow begins with the columns for some sizes, which rounds otherwise
        whole = processor(given, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        assert np.abs(found - whole).max() <= 1.01 * 2 / 255


def pillow(given: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resized in two passes, the rows first."""
    from PIL import Image

    for size in ((width, len(given)), (width, height)):
        given = np.asarray(Image.fromarray(given).resize(size, Image.Resampling.BILINEAR))
    return given


def test_linear_and_cubic_differ():
    given = picture(np.random.default_rng(6), 50, 40)
    assert (tiling.resized(given, 32, 32, tiling.BILINEAR) != tiling.resized(given, 32, 32)).mean() > 0.5
