"""The nets of models that hear, as graphs, against transformers' own class in float32: no compiler, no chip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import audio_checkpoints
import numpy as np
import pytest
from audio_checkpoints import ASR, CONFIGS, TOKEN
from test_families_graph import EXACT, far, launches, planned, run

from llmconv.blocks.audio import host
from llmconv.blocks.audio.tower import Sounds, noise
from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.families import qwen2_5_omni
from llmconv.plan.handover import Handover, rows
from llmconv.plan.plan import Plan
from llmconv.runtime import launches as nets
from llmconv.runtime.seen import Shown
from llmconv.top.interpret import interpret
from llmconv.verify import answers
from llmconv.verify.answers import EXPECTED
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

HIDDEN = 256
ODD = {  # fields of audio_config: other sizes
    "qwen3_asr": (
        {"encoder_layers": 1, "d_model": 96, "encoder_attention_heads": 3, "downsample_hidden_size": 5},
        {"num_mel_bins": 37, "n_window_infer": 500, "activation_function": "gelu_pytorch_tanh"},
    ),
    "qwen2_5_omni": (
        {"encoder_layers": 1, "d_model": 96, "encoder_attention_heads": 3, "num_mel_bins": 37},
        {"n_window": 14, "activation_function": "quick_gelu"},
    ),
}
KINDS = [(name, audio) for name in ODD for audio in ({}, *ODD[name])]


class Both:
    """The audio net in our interpreter, and the class."""

    def __init__(self, made: Plan):
        self.made, self.reference = made, Reference(made, Precision())
        self.net = next(net for net in made.nets if net.name == "audio")
        self.fitted = self.net.tower
        self.weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in self.net.graph.weights.values()}

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Hidden states [tokens, H] of a launch."""
        return interpret(self.net.graph, inputs, self.weights)[0].reshape(-1, HIDDEN)

    def hear(self, items: Sounds) -> float:
        """How far the net is from the class, on one launch."""
        launch = nets.tower(self.net, items)
        found = {self.net.outputs[0].name: self.run(dict(launch.inputs)).reshape(self.net.outputs[0].shape)}
        (mine,), (right,) = (
            each.values() for each in (nets.results(launch, found), answers.expected(self.reference, launch))
        )
        assert mine.shape == right.shape == (1, self.fitted.spec.heard(sum(items.lengths)), HIDDEN)
        return far(mine, right)


@pytest.mark.parametrize("exact", [0, 1])
@pytest.mark.parametrize("name, audio", KINDS, ids=str)
def test_towers_equal_the_class(name, audio, exact, audio_checkpoint):
    both = Both(planned(audio_checkpoint(name, audio=audio), exact_audio=exact))
    tower, spec = both.fitted
    for items in tower.trials(spec, False, np.random.default_rng(0)):
        assert both.hear(items) < EXACT, items.lengths


@pytest.mark.parametrize("name", ODD)
def test_exact_nets_take_sound_of_any_length(name, audio_checkpoint):
    """Every length that ends a state, a chunk or a launch in another way, against the class on the whole clip."""
    both = Both(planned(audio_checkpoint(name), exact_audio=1))
    (tower, spec), rng = both.fitted, np.random.default_rng(1)
    chunk, whole = spec.chunk, spec.frames
    for frames in (4, 8, 9, chunk - 1, chunk + 1, whole - 3, whole + 6, 2 * whole + chunk + 5):
        items = noise(spec, (frames,), rng)
        made = host.preprocess(spec, items.frames)
        counts = [spec.heard(part.frames.shape[1]) for part in tower.each(items)]
        found = np.concatenate([both.run(inputs)[:count] for inputs, count in zip(made, counts, strict=True)])
        (right,) = tower.reference(both.reference.sight.whole, Sounds(items.frames, (frames,), frames), _loaded(both))
        assert len(found) == len(right) == tower.count(spec, items)
        assert far(found, right.numpy()) < EXACT, frames


def _loaded(both: Both):
    """float32, after the class's tower has got its weights."""
    import torch

    both.reference.sight.features(Shown(both.fitted, noise(both.fitted.spec, (8,), np.random.default_rng(0))))
    return torch.float32


def test_form_of_the_public_nets_of_omni(audio_checkpoint):
    """What the public demo takes: those of Qwen2.5-VL, and one that hears."""
    made = planned(audio_checkpoint("qwen2_5_omni"), max_pixels="112,112")
    audio, vit, *others = made.nets
    assert [(io.name, io.shape, io.dtype) for io in audio.inputs] == [("input_states", (1, 128, 200), "f32")]
    assert [(io.shape, io.dtype) for io in audio.outputs] == [((1, 50, HIDDEN), "bf16")]
    names = ["input_states", "position_ids", "full_attn_mask", "window_attn_mask", "reverse_index"]
    assert vit.name == "vit" and [io.name for io in vit.inputs] == names and vit.outputs[0].shape == (16, HIDDEN)
    assert all(net.inputs[1].shape[0] == 3 for net in others if net.kind == "block")
    note = "the language model and what it sees are converted: 2 tensors such as talker.model.norm.weight are left out"
    assert note in made.notes and not any("demo of" in one for one in made.notes)
    exact = planned(audio_checkpoint("qwen2_5_omni"), exact_audio=1).nets[0]
    assert [(io.name, io.shape) for io in exact.inputs] == [
        ("input_states", (1, 128, 200)),
        ("frame_mask", (1, 1, 200)),
        ("attn_mask", (1, 1, 100, 100)),
    ]
    ((_, spec), _) = made.towers
    assert made.towers[0].tower.apart(spec, np.random.default_rng(0)) is None, "two seconds are all that it hears"


@pytest.mark.parametrize("name", ASR)
def test_form_of_the_public_net(name, audio_checkpoint):
    (net, *_) = planned(audio_checkpoint(name, audio={"n_window_infer": 800})).nets
    assert [(io.name, io.shape, io.dtype) for io in net.inputs] == [("input_states", (1, 1, 128, 100), "f32")]
    assert [(io.shape, io.dtype) for io in net.outputs] == [((1, 13, HIDDEN), "bf16")]
    flags = net.flags
    assert (flags.mode, flags.quant_input, flags.quant_output, flags.addr_mode, flags.dynamic) == (
        "BF16",
        False,
        True,
        "basic",
        False,
    )
    (net, *_) = planned(audio_checkpoint(name, audio={"n_window_infer": 800}), exact_audio=1).nets
    assert [io.shape for io in net.inputs] == [(8, 1, 128, 100), (1, 1, 104, 104)]
    assert [io.shape for io in net.outputs] == [(104, HIDDEN)]


def test_both_layouts_are_one_model(audio_checkpoint):
    """The same values under both layouts' names: the same nets' outputs, to the bit."""
    plans = [planned(audio_checkpoint(name)) for name in ASR]
    ours, theirs = (Both(made) for made in plans)
    inputs = nets.tower(ours.net, noise(ours.fitted.spec, (100,), np.random.default_rng(1))).inputs
    np.testing.assert_array_equal(ours.run(dict(inputs)), theirs.run(dict(inputs)))
    for net, twin in zip(*(made.nets for made in plans), strict=True):
        if net.layer is not None:
            launch, same = next(launches(plans[0], net)), next(launches(plans[1], twin))
            found, right = run(plans[0], net, launch.inputs), run(plans[1], twin, same.inputs)
            for output in right:
                np.testing.assert_array_equal(found[output], right[output])


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("options", [{}, {"dynamic": 1}, {"dynamic": 1, "batch": 2}], ids=str)
def test_blocks_equal_the_class(name, options, audio_checkpoint):
    made = planned(audio_checkpoint(name), **options)
    reference = Reference(made, Precision())
    for net in (net for net in made.nets if net.layer == 1 and not (net.kind == "block_cache" and made.job.batch > 1)):
        for launch in launches(made, net):
            if nets.length(net) != launch.inputs["input_states"].shape[1]:
                continue  # the interpreter knows no other length than the net's
            found = run(made, net, launch.inputs)
            for output, right in EXPECTED[net.kind](reference, launch).items():
                assert far(found[output][:, : launch.count], right) < EXACT, (net.name, output)


@pytest.mark.parametrize("name", ASR)
def test_rows_of_positions(name, audio_checkpoint):
    """One, and with nets of any length three, as the public demo uploads them."""
    for options, rows_of in (({}, 1), ({"dynamic": 1}, 3), ({"use_history_kv": 1}, 3)):
        made = planned(audio_checkpoint(name), **options)
        given = [io for net in made.nets if net.layer == 0 for io in net.inputs if io.name == "position_ids"]
        assert {io.shape[0] for io in given} == {rows_of} and made.spec.positions == rows_of
    several = planned(audio_checkpoint(name), dynamic=1, batch=2).nets
    assert next(net.inputs[1].shape for net in several if net.kind == "block_cache") == (2, 3, 1)


@pytest.mark.parametrize("name, tied", [("qwen3_asr", True), ("qwen3_asr_hf", False)])
def test_the_reference_is_the_class_in_one_piece(name, tied, audio_checkpoint):
    """A prompt with sound through the whole model, as transformers runs it, and through ours, part by part."""
    import torch

    model = audio_checkpoint(name, text={"tie_word_embeddings": tied})
    made = planned(model, exact_audio=1)
    assert made.spec.tied is tied
    (fitted,) = made.towers
    items = noise(fitted.spec, (437,), np.random.default_rng(2))
    count = fitted.tower.count(fitted.spec, items)
    ids = np.array([5, 6, *[TOKEN] * count, 7, 8, 9])
    padded = np.pad(items.frames, ((0, 0), (0, 63)))[None]
    mask = (np.arange(500) < 437).astype(int)[None]
    with torch.inference_mode():
        right = audio_checkpoints.loaded(name, model)(
            torch.from_numpy(ids)[None],
            input_features=torch.from_numpy(padded),
            input_features_mask=torch.from_numpy(mask),
        ).logits[0]
    own = Own(Reference(made, Precision()))
    own.look(ids, [Shown(fitted, items)])
    assert far(own.reference.logits(own.forward(ids)[0]), right.numpy()) < EXACT


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("frames", [400, 333])
def test_omni_in_one_piece(frames, image, audio_checkpoint):
    """A prompt with sound, and with an image behind it, through transformers' whole thinker and through ours."""
    import torch

    model = audio_checkpoint("qwen2_5_omni")
    made = planned(model, exact_audio=1, max_pixels="112,112")
    (hears, sees), rng = made.towers, np.random.default_rng(frames)
    sound, picture = noise(hears.spec, (frames,), rng), sees.tower.sample(sees.spec, 9, rng)
    count, tokens = hears.tower.count(hears.spec, sound), sees.tower.count(sees.spec, picture)
    ids = [5, 6, 996, *[TOKEN] * count, 997, 7]
    ids = np.array([*ids, 998, *[1001] * tokens, 999, 8, 9] if image else ids)
    given = {"attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    given |= {"input_features": torch.from_numpy(sound.frames)[None]}
    given |= {"feature_attention_mask": torch.ones(1, frames, dtype=torch.long)}
    if image:
        given |= {"pixel_values": torch.from_numpy(picture.patches), "image_grid_thw": torch.tensor(picture.grids)}
    with torch.inference_mode():
        right = audio_checkpoints.loaded("qwen2_5_omni", model)(torch.from_numpy(ids)[None], **given).logits[0]
    own = Own(Reference(made, Precision()))
    own.look(ids, [Shown(hears, sound), *([Shown(sees, picture)] if image else [])])
    assert far(own.reference.logits(own.forward(ids)[0]), right.numpy()) < EXACT


def test_a_thinker_that_was_saved_alone(audio_checkpoint, tmp_path):
    """Without the whole's prefix, and with config.json of its own: the same nets."""
    from safetensors.torch import load_file, save_file

    model = audio_checkpoint("qwen2_5_omni")
    config = json.loads((model / "config.json").read_text())["thinker_config"]
    tensors = load_file(model / "model.safetensors")
    alone = {name.removeprefix("thinker."): value for name, value in tensors.items() if name.startswith("thinker.")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(alone, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours, theirs = planned(tmp_path, max_pixels="112,112"), planned(model, max_pixels="112,112")
    assert [net.inputs for net in ours.nets] == [net.inputs for net in theirs.nets]
    both = Both(ours)
    assert both.hear(noise(both.fitted.spec, (200,), np.random.default_rng(0))) < EXACT


@pytest.mark.parametrize("frames", [3, 4, 5, 199, 200, 203, 401, 1002])
def test_tokens_of_omni_are_as_many_as_the_class_gives(frames, audio_checkpoint):
    import torch

    model = audio_checkpoint("qwen2_5_omni")
    ((_, spec), _) = planned(model).towers
    with torch.inference_mode():
        given = qwen2_5_omni.features(audio_checkpoints.loaded("qwen2_5_omni", model), torch.zeros(spec.mels, frames))
    assert spec.heard(frames) == len(given)


@pytest.mark.parametrize("frames", [1, 8, 99, 100, 101, 250, 799, 801, 1234])
def test_tokens_are_counted_as_the_processor_does(frames, audio_checkpoint):
    import torch
    from transformers import Qwen3ASRProcessor

    ((tower, spec),) = planned(audio_checkpoint("qwen3_asr")).towers
    (right,) = Qwen3ASRProcessor._get_audio_token_length(None, torch.tensor([frames]))
    assert spec.heard(frames) == right
    assert tower.count(spec, Sounds(np.zeros((128, 2 * frames)), (frames, frames), 100)) == 2 * right


def test_what_a_device_has_to_know(audio_checkpoint):
    device = Handover.of(planned(audio_checkpoint("qwen3_asr"))).to_dict()
    assert device["sound"] == {"seconds": 1, "frames": 100, "tokens": 13, "seconds_of_attention": 3}
    assert device["image"] is None and device["tokens"]["seen"]["audio_token_id"] == TOKEN
    assert dict(rows(device))["largest sound"] == "1 second, 100 frames, 13 tokens, 3 seconds of attention"
    exact = Handover.of(planned(audio_checkpoint("qwen3_asr"), exact_audio=1))
    assert exact.largest["sound"] == {"seconds": 3, "frames": 300, "tokens": 39, "seconds_of_attention": 3}


def test_notes(audio_checkpoint):
    notes = planned(audio_checkpoint("qwen3_asr")).notes
    assert any("the model hears 3 s of sound together, and the audio net 1 s alone" in note for note in notes)
    assert any("a prefill of 64 tokens has room for 4 s" in note for note in notes)
    assert not any("demo of" in note for note in notes)
    notes = planned(audio_checkpoint("qwen3_asr"), exact_audio=1, batch=2).notes
    assert any(note.startswith("exact_audio is on: the public demo of qwen3_asr") for note in notes)
    assert any(note.startswith("batch is 2") for note in notes) and not any("together" in note for note in notes)


def test_launches_that_do_not_fit(audio_checkpoint):
    ((_, spec),) = planned(audio_checkpoint("qwen3_asr")).towers
    ((_, exact),) = planned(audio_checkpoint("qwen3_asr"), exact_audio=1).towers
    for which, shape, word in (
        (spec, (128, 150), "128 bands of 1 to 100 frames"),
        (spec, (80, 100), "128 bands of 1 to 100 frames"),
        (spec, (128, 99), "the net has no masks, and takes 100 frames.*exact_audio"),
        (exact, (128, 301), "128 bands of 1 to 300 frames"),
        (exact, (128, 0), "128 bands of 1 to 300 frames"),
    ):
        with pytest.raises(InputError, match=word):
            host.launch(which, np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="no masks"):
        host.preprocess(spec, np.zeros((128, 250), np.float32))
    whole = host.preprocess(spec, host.log_mel(host.filled(spec, np.zeros(33333, np.float32)), 128))
    assert [inputs["input_states"].shape for inputs in whole] == [(1, 1, 128, 100)] * 3


def test_exact_audio_is_for_models_that_hear(audio_checkpoint, checkpoint):
    with pytest.raises(InputError, match="exact_audio with a qwen2 model: it is converted without an audio tower"):
        planned(checkpoint("qwen2"), exact_audio=1)
    with pytest.raises(InputError, match="max_pixels 112,112 with a qwen3_asr model.*without a vision tower"):
        planned(audio_checkpoint("qwen3_asr"), max_pixels="112,112")


@pytest.mark.parametrize(
    "name, change, word",
    [
        ("qwen3_asr", {"n_window": 100}, "n_window .*is 100.*knows 50 alone"),
        ("qwen3_asr", {"n_window_infer": 350}, "n_window_infer .*is 350, no multiple of the 100 frames"),
        ("qwen3_asr", {"encoder_attention_heads": 5}, "5 heads of audio_config"),
        ("qwen3_asr", {"activation_function": "mish"}, "activation_function 'mish' of audio_config"),
        ("qwen3_asr", {"output_dim": 128}, "output size 128"),
        ("qwen3_asr_hf", {"num_mel_bins": 80}, "conv_out.weight .*has shape"),
        ("qwen3_asr_hf", {"encoder_layers": 3}, "layers.2"),
        ("qwen3_asr_hf", {"encoder_layers": 1}, "layers.1.* would not be used"),
        ("qwen2_5_omni", {"encoder_attention_heads": 5}, "5 heads of audio_config"),
        ("qwen2_5_omni", {"n_window": 15}, "n_window 15 of audio_config.*2 hidden states become one"),
        ("qwen2_5_omni", {"d_model": 64}, "has shape"),
        ("qwen3_asr_hf", {"d_model": "many"}, "d_model .*is 'many'; a whole number is expected"),
    ],
)
def test_what_does_not_fit_is_refused(name, change, word, audio_checkpoint, tmp_path):
    with pytest.raises(InputError, match=word):
        planned(_changed(audio_checkpoint(name), tmp_path, audio_config=change))


def test_a_language_model_alone(audio_checkpoint, tmp_path):
    """Without audio_config and tower; and with one of them missing."""
    for name in ASR:
        alone = audio_checkpoint(
            name, drop=("thinker.audio_tower.", "model.audio_tower.", "model.multi_modal_projector.")
        )
        made = planned(_changed(alone, tmp_path / name, audio_config=None))
        assert not made.towers and made.nets[0].name == "embedding"
        with pytest.raises(InputError, match="no tensor .*conv2d1"):
            planned(alone)
        with pytest.raises(InputError, match="audio_config .*is missing"):
            planned(_changed(audio_checkpoint(name), tmp_path / f"{name}_2", audio_config=None))


def _changed(model: Path, place: Path, **parts: dict | None) -> Path:
    """A copy with other fields in parts of config.json; None: without the part."""
    made = shutil.copytree(model, place / "model")
    config = json.loads((made / "config.json").read_text())
    inner = config.get("thinker_config", config)
    for part, fields in parts.items():
        if fields is None:
            del inner[part]
        else:
            inner[part] |= fields
    (made / "config.json").write_text(json.dumps(config))
    return made


SIZES = {  # published: language model, encoder
    "0.6B": ((1024, 3072), {"encoder_layers": 18, "d_model": 896, "encoder_attention_heads": 14, "encoder_ffn_dim": 3584}),
    "1.7B": ((2048, 6144), {"encoder_layers": 24, "d_model": 1024, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096}),
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size, tmp_path):
    from checkpoints import headers

    (hidden, inner), encoder = SIZES[size]
    config = json.loads(json.dumps(CONFIGS["qwen3_asr"]))
    thinker = config["thinker_config"]
    thinker["audio_config"] |= encoder | {"output_dim": hidden, "n_window_infer": 800, "downsample_hidden_size": 480}
    thinker["audio_token_id"] = 151676
    heads = {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True}
    thinker["text_config"] |= heads | {"hidden_size": hidden, "intermediate_size": inner, "vocab_size": 151936}
    made = planned(headers(tmp_path / "model", config, audio_checkpoints.tensors("qwen3_asr", config)), seq=512)
    assert [net.name for net in made.nets][:3] == ["audio", "embedding", "block_cache_0"] and len(made.nets) == 60
    assert made.nets[0].outputs[0].shape == (1, 13, hidden)
    known = {"0.6B": 782e6, "1.7B": 2.04e9}[size]
    assert made.weights == pytest.approx(known, rel=0.01)
