"""The nets of Llama 3.2 Vision as graphs against transformers' own class in float32: no compiler, no chip."""

from __future__ import annotations

import json
from dataclasses import replace

import checkpoints
import mllama_checkpoints
import numpy as np
import pytest
from checkpoints import once
from mllama_checkpoints import CONFIGS, MLLAMA
from quantised_checkpoints import How, convert
from test_families_graph import EXACT, far, planned, run

from llmconv.blocks.vision.tiled import host
from llmconv.blocks.vision.tiled.tower import random
from llmconv.errors import InputError
from llmconv.families import mllama
from llmconv.plan.handover import Handover, rows
from llmconv.plan.net import IO
from llmconv.runtime import launches as nets
from llmconv.runtime import state
from llmconv.runtime.across import looks
from llmconv.runtime.seen import Shown
from llmconv.verify import across, answers
from llmconv.verify.adapters import Adapter
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

TOKEN = MLLAMA["image_token_index"]
ODD = (  # fields of vision_config: other heads, patches, tiles and blocks
    {"hidden_size": 96, "attention_heads": 3, "vision_output_dim": 288, "patch_size": 7},
    {"num_hidden_layers": 1, "intermediate_layers_indices": [1], "vision_output_dim": 256, "num_global_layers": 3},
    {"hidden_act": "gelu_pytorch_tanh", "intermediate_layers_indices": [0], "vision_output_dim": 256, "image_size": 28},
)


@pytest.fixture(scope="module")
def mllama_checkpoint(tmp_path_factory):
    """mllama_checkpoint("mllama", vision={...}) -> its directory; the same call gives the same directory."""
    return once(mllama_checkpoints.make, tmp_path_factory)


def see(made, items, reference: Reference | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What the vit net and the class make of an image."""
    reference = reference or Reference(made, Precision())
    net = next(net for net in made.nets if net.name == "vit")
    launch = nets.tower(net, items)
    found = nets.results(launch, run(made, net, launch.inputs))
    (mine,), (right,) = (one.values() for one in (found, answers.expected(reference, launch)))
    return mine, right


@pytest.mark.parametrize(
    "name, vision", [*((name, {}) for name in CONFIGS), *(("mllama", v) for v in ODD)], ids=lambda v: str(v)[:40]
)
def test_towers_equal_the_class(name, vision, mllama_checkpoint):
    made = planned(mllama_checkpoint(name, vision=vision))
    ((tower, spec),) = made.towers
    count, reference = 0, Reference(made, Precision())
    for items in tower.trials(spec, False, np.random.default_rng(0)):
        mine, right = see(made, items, reference)
        assert mine.shape == right.shape == (1, spec.tokens, 256) and far(mine, right) < EXACT, items.ratio
        count += 1
    assert count == len(spec.ratios)


def test_what_goes_to_the_projector(mllama_checkpoint):
    """What the named blocks get, as in the weights' own code. The class as it is takes what they give: should that
    change one day, this test says so."""
    import torch

    made = planned(mllama_checkpoint("mllama"))
    model = mllama_checkpoints.loaded(made.job.model_path).model
    spec = made.towers[0].spec
    items = random(spec, 6, np.random.default_rng(1))
    mine, right = see(made, items)
    given = [torch.from_numpy(values) for values in host.inputs(spec, items.pixels, 6).values()]
    given[0] = given[0][None, None]
    names = "pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"
    inside: list[torch.Tensor] = []
    layers = model.vision_model.transformer.layers
    for layer in (layers[0], layers[2]):
        layer.register_forward_pre_hook(
            lambda _, __, kwargs: inside.append(next(iter(kwargs.values()))), with_kwargs=True
        )
    with torch.inference_mode():
        whole = model.vision_model(**dict(zip(names, given))).last_hidden_state
        width = spec.width
        wanted = [one.reshape(spec.tiles, spec.padded, width)[:, : spec.rows] for one in inside]
        parts = torch.cat([whole[0, 0, ..., :width], torch.stack(wanted, -1).flatten(-2)], -1)
        by_hand, as_it_is = (model.multi_modal_projector(one).flatten(0, -2).numpy() for one in (parts, whole[0, 0]))
    assert far(right[0], by_hand) < EXACT and far(mine[0], by_hand) < EXACT
    assert far(as_it_is, by_hand) > 0.1


def launches(made, net):
    """Launches of a block: a padded prompt, some tokens of which see nothing; a token in decode; nothing shown."""
    rng, length, capacity = np.random.default_rng(net.layer), nets.length(net), nets.capacity(net)
    shape = next(io.shape for io in net.inputs)
    looking = looks(net)
    for past in sorted({capacity // 4, max(0, capacity - length), 0}) if capacity else [0]:
        count = max(1, length * 3 // 4)
        seen = across.random(made, net, count, past, rng) if looking else None
        hidden = rng.standard_normal(shape).astype(np.float32)
        yield nets.step(net, hidden, count, past, state.random(net, rng), seen=seen)
        if looking:
            zeros = {name: values * 0 for name, values in state.random(net, rng).items()}
            yield nets.step(net, hidden, count, past, zeros)


OPTIONS = ({}, {"use_block_with_kv": 1}, {"use_history_kv": 1}, {"lora_max_rank": 4}, {"quantize": "f16"})


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_blocks_equal_the_class(name, options, mllama_checkpoint):
    made = planned(mllama_checkpoint(name), seq=32, **options)
    adapter = Adapter.random(made, np.random.default_rng(0)) if "lora_max_rank" in options else None
    reference = Reference(made, Precision(), adapter=adapter)
    looked = 0
    for net in (net for net in made.nets if net.layer is not None):
        for launch in launches(made, net):
            if net.flags.dynamic and nets.length(net) != launch.inputs["input_states"].shape[1]:
                continue  # the interpreter knows no other length than the net's
            found = nets.results(launch, run(made, net, launch.inputs, adapter))
            expected = answers.expected(reference, launch)
            shown = not launch.across or launch.across[0]
            assert expected.keys() == (found.keys() if shown else {"output_states"})
            for output, right in expected.items():
                assert far(found[output][:, : right.shape[1]], right) < EXACT, (net.name, output, launch.label)
            looked += bool(launch.across)
    assert looked >= (4 if "use_history_kv" in options else 8)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shown", [True, False])
def test_the_reference_is_the_class_in_one_piece(name, shown, mllama_checkpoint):
    """A prompt with an image, and one without, through the whole model, as transformers runs it, and through ours part
    by part; a token is decoded behind it."""
    import torch

    made = planned(mllama_checkpoint(name))
    model = mllama_checkpoints.loaded(made.job.model_path)
    (fitted,) = made.towers
    picture = random(fitted.spec, 2, np.random.default_rng(2))
    ids = np.array([5, 6, 7, TOKEN, 8, 9, 10, 11])
    features = mllama.features

    def whole(ids: np.ndarray) -> np.ndarray:
        given: dict = {}
        if shown:
            prepared = host.inputs(fitted.spec, picture.pixels, picture.ratio)
            pixels, ratio, tiles = (torch.from_numpy(one) for one in prepared.values())
            sees = mllama.seen(ids, TOKEN, int(tiles.sum()), fitted.spec.tiles)
            given["cross_attention_states"] = features(model.model, pixels[None, None], ratio, tiles)
            given["cross_attention_mask"] = torch.from_numpy(sees).long()[None, :, None]
        with torch.inference_mode():
            return model(torch.from_numpy(ids)[None], **given).logits[0].float().numpy()

    own = Own(Reference(made, Precision()))
    if shown:
        own.look(ids[:-1], [Shown(fitted, picture)])
    states = own.forward(ids[:-1])
    right = whole(ids)
    assert far(own.reference.logits(states[0]), right[:-1]) < EXACT
    assert far(own.reference.logits(own.forward(ids[-1:])[0]), right[-1:]) < EXACT
    assert far(right, whole(np.array([4, 6, 7, TOKEN, 8, 9, 10, 11]))) > 0.01


def test_both_layouts_are_one_model(mllama_checkpoint, tmp_path):
    published = planned(mllama_checkpoint("mllama"))
    renamed = planned(mllama_checkpoints.make(tmp_path, "mllama", internal=True))
    items = random(published.towers[0].spec, 3, np.random.default_rng(3))
    mine, same = (see(made, items)[0] for made in (published, renamed))
    np.testing.assert_array_equal(mine, same)
    for net, twin in zip(published.nets, renamed.nets):
        if net.layer is not None:
            launch = next(launches(published, net))
            found, right = run(published, net, launch.inputs), run(renamed, twin, launch.inputs)
            for output in right:
                np.testing.assert_array_equal(found[output], right[output])


def test_pictures_equal_the_processors(mllama_checkpoint):
    """Of its real size, to the bit; and the masks of tokens."""
    from PIL import Image
    from transformers import MllamaImageProcessorPil

    spec = replace(planned(mllama_checkpoint("mllama")).towers[0].spec, side=560)
    size = {"height": 560, "width": 560}
    processor = MllamaImageProcessorPil(size=size, image_mean=list(host.MEAN), image_std=list(host.STD))
    rng = np.random.default_rng(5)
    sizes = [(560, 560), (1, 1), (3, 900), (1120, 1120), (560, 2240), (100, 3000), (559, 561), (1700, 1300)]
    chosen = set()
    for height, width in (*sizes, *rng.integers(5, 1500, (8, 2)).tolist()):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        right = processor(Image.fromarray(picture), return_tensors="np")
        found = mllama.preprocess(spec, picture)
        for name, values in found.items():
            np.testing.assert_array_equal(values, right[name][0, 0] if name == "pixel_values" else right[name])
        chosen.add(int(found["aspect_ratio_ids"][0, 0]))
        assert found["aspect_ratio_mask"].sum() == right["num_tiles"][0][0]
    assert len(chosen) >= 6
    for ids in ([7, TOKEN, 8, 9], [TOKEN, 5], [4, 5, 6, TOKEN]):
        for ratio, (high, wide) in enumerate(spec.ratios, 1):
            mine = host.cross_attention_mask(spec, np.array(ids), ratio)
            np.testing.assert_array_equal(mine, mllama.seen(np.array(ids), TOKEN, high * wide, 4))
    assert not host.cross_attention_mask(spec, np.array([4, 5, 6]), 6).any()


def test_the_contract_of_the_11b(tmp_path):
    """The nets that the public demo drives, by name, shape, type and order."""
    text = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 40, "num_attention_heads": 32}
    text |= {"num_key_value_heads": 8, "vocab_size": 128256}
    config = {
        "model_type": "mllama",
        "text_config": {"model_type": "mllama_text_model", **text},
        "vision_config": {"model_type": "mllama_vision_model", "image_size": 560},
    }
    parameters = mllama_checkpoints.whole(config).state_dict().items()
    shapes = ((mllama_checkpoints.published(name), tuple(value.shape)) for name, value in parameters)
    made = planned(checkpoints.headers(tmp_path / "model", config, shapes), seq=512)
    found = {net.name: net for net in made.nets}
    looking = [3, 8, 13, 18, 23, 28, 33, 38]
    assert [i for i in range(40) if looks(found[f"block_{i}"])] == looking
    assert [net.name for net in made.nets if net.layer is None] == ["vit", "embedding", "lm_head", "embedding_cache"]
    assert {net.flags.addr_mode for net in made.nets if net.kind == "block_cache"} == {"io_alone"}
    hidden, mask = IO("input_states", (1, 512, 4096), "bf16"), IO("attention_mask", (1, 1, 512, 6404), "bf16")
    states, marks = IO("cross_attention_states", (4, 1601, 4096), "bf16"), IO("text_row_mask", (1, 512, 1), "bf16")
    assert found["block_3"].inputs == (hidden, states, marks, mask)
    kept = [(io.shape, io.dtype) for io in found["block_3"].outputs]
    assert kept == [((1, 512, 4096), "bf16"), *(((1, 32, 6404, 128), "bf16"),) * 2]
    decode = [(io.name, io.shape) for io in found["block_cache_3"].inputs]
    assert decode[:2] == [("input_states", (1, 1, 4096)), ("attention_mask", (1, 1, 1, 6404))]
    assert [shape for _, shape in decode[2:]] == [(1, 32, 6404, 128)] * 2
    assert [io.shape for io in found["block_cache_3"].outputs] == [(1, 1, 4096)]
    assert [(io.name, io.shape, io.dtype) for io in found["vit"].inputs] == [
        ("pixel_values", (4, 3, 560, 560), "f32"),
        ("aspect_ratio_ids", (1, 1), "i32"),
        ("aspect_ratio_mask", (1, 1, 4), "i32"),
    ]
    assert [(io.shape, io.dtype) for io in found["vit"].outputs] == [((4, 1601, 4096), "bf16")]
    assert found["embedding"].graph.weights["language_model.model.embed_tokens.weight"].shape[0] == 128264
    assert not any("has 40 layers" in note for note in made.notes)
    device = json.loads(json.dumps(Handover.of(made).to_dict()))
    assert device["across"] == {"layers": looking, "states": [4, 1601, 4096], "kept": [1, 32, 6404, 128]}
    assert device["kv_cache"]["layers"] == 32 and device["image"]["tokens"] == 6404
    assert [mask["input"] for mask in device["masks"]] == ["attention_mask"]
    assert "3, 8, 13, 18, 23, 28, 33, 38 at 4 x 1601 x 4096" in dict(rows(device))["look across"]


BAD = {
    "vision_output_dim": ({"vision": {"vision_output_dim": 385}}, "vision_output_dim .* give 384"),
    "ratios": ({"vision": {"supported_aspect_ratios": [[1, 5]]}}, r"supported_aspect_ratios \[1, 5\]"),
    "pairs": ({"vision": {"supported_aspect_ratios": [[1, 2, 3]]}}, "pairs of numbers of tiles"),
    "blocks": ({"vision": {"intermediate_layers_indices": [0, 9]}}, "intermediate_layers_indices 9"),
    "none": ({"vision": {"intermediate_layers_indices": []}}, "intermediate_layers_indices"),
    "patches": ({"vision": {"image_size": 50}}, "image_size 50"),
    "layers": ({"text": {"cross_attention_layers": [1, 7]}}, "cross_attention_layers .* has 7"),
    "tied": ({"text": {"tie_word_embeddings": True}}, "tie_word_embeddings"),
    "sections": ({"vision": {"image_size": [56, 42]}}, "squares"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_refused(what, mllama_checkpoint):
    changes, said = BAD[what]
    path = mllama_checkpoint("mllama")
    config = json.loads((path / "config.json").read_text())
    for part, fields in changes.items():
        config[f"{part}_config"] |= fields
    shapes = {
        mllama_checkpoints.published(n): tuple(v.shape)
        for n, v in mllama_checkpoints.whole(MLLAMA).state_dict().items()
    }
    with pytest.raises(InputError, match=said):
        planned(checkpoints.headers(path.parent / f"bad {what}", config, shapes.items()))


def test_other_options_that_cannot_be(mllama_checkpoint):
    model = mllama_checkpoint("mllama")
    with pytest.raises(InputError, match="the compiler splits Llama's form of a layer alone"):
        planned(model, num_device=2)
    with pytest.raises(InputError, match="takes images of one size"):
        planned(model, max_pixels="112,112")
    notes = " ".join(planned(model, do_sample=1, max_input_length=32).notes)
    assert "the first two tiles" in notes and "do_sample is on" in notes and "needs both to be the same" in notes
    assert "this model has 4, and 1, 2 of them look" in notes


def test_a_launch_takes_one_image(mllama_checkpoint):
    ((tower, spec),) = planned(mllama_checkpoint("mllama")).towers
    items = random(spec, 1, np.random.default_rng(0))
    for wrong in (replace(items, pixels=items.pixels[:1]), replace(items, ratio=0), replace(items, ratio=9)):
        with pytest.raises(InputError):
            tower.prepare(spec, wrong, False)


METHODS = {
    "awq": ("awq", How(4, 64)),
    "gptq, desc_act": ("gptq", How(4, 64, False, 3)),
    "compressed": ("compressed", How(4, 64, True)),
    "auto-round": ("auto-round", How(4, 64, True)),
}


@pytest.mark.parametrize(
    "case", [c if c == "gptq, desc_act" else pytest.param(c, marks=pytest.mark.slow) for c in METHODS]
)
def test_integers_stay_and_the_tower_is_float(case, mllama_checkpoint, tmp_path):
    """Layers that look across are quantised too, in the checkpoints that are published."""
    method, how = METHODS[case]
    more = {"packing_format": "auto_round:auto_gptq"} if method == "auto-round" else {}

    def text_alone(path: str) -> How | None:
        return how if "language_model" in path and "lm_head" not in path else None

    to, _ = convert(mllama_checkpoint("mllama"), tmp_path / "model", method, how, text_alone, **more)
    made = planned(to, seq=32)
    assert made.job.quantize == "w4bf16" and made.spec.packed
    assert any("cross_attn.k_proj" in path for path in made.spec.stored)
    assert {weight.dtype for weight in made.nets[0].weights} == {"f32"}
    reference = Reference(made, Precision())
    for net in (net for net in made.nets if net.layer == 1):
        for launch in launches(made, net):
            found = nets.results(launch, run(made, net, launch.inputs))
            for output, right in answers.expected(reference, launch).items():
                assert far(found[output][:, : right.shape[1]], right) < EXACT, (net.name, output)
