"""Pictures and sounds in prompts: what the towers get, what stands in the text, and the answer behind it, which is that
of transformers' own class."""

from __future__ import annotations

import json
import math
import shutil
import wave
from pathlib import Path

import audio_checkpoints
import gemma3_checkpoints
import internvl_checkpoints
import janus_checkpoints
import mllama_checkpoints
import numpy as np
import pytest
import slice_checkpoints
import tiny_tokenizer
import vision_checkpoints
from media_samples import greedy, noise, save, tone
from plans import planned
from test_answers import built, interpreted, ran, text  # noqa: F401

from llmconv.blocks.audio import host
from llmconv.blocks.tower import Given
from llmconv.errors import ConvertError, InputError
from llmconv.families import internvl
from llmconv.runtime import manifest
from llmconv.runtime.media import picture, sound

MAKERS = {
    "published": gemma3_checkpoints,
    "internvl": internvl_checkpoints,
    "internvl_chat": internvl_checkpoints,
    "janus": janus_checkpoints,
    "multi_modality": janus_checkpoints,
    "lfm2_vl": vision_checkpoints,
    "minicpmv_4_5": slice_checkpoints,
    "mllama": mllama_checkpoints,
}
MOST = 6


@pytest.mark.parametrize("size", [(70, 70), (41, 150), (500, 900)], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_every_launch_takes_what_a_picture_becomes(name, size, tmp_path):
    """As many placeholders as the launches give hidden states, and inputs in the shapes of the net."""
    sliced = name.startswith("minicpmv")  # of about 448 x 448 pixels, whatever the tower takes
    model = MAKERS[name].make(tmp_path, name, **({"vision": {"image_size": 980}} if sliced else {}))
    plan = planned(model, seq=512, **({"max_pixels": "448,504"} if sliced else {}))
    ((tower, spec),) = plan.towers
    items, told = tower.present(spec, Given(noise(*size), "@", {}))
    assert told.count("@") == tower.marks(spec, items) > 0
    (net,) = (net for net in plan.nets if net.tower)
    for item in tower.each(items):
        made = tower.prepare(spec, item, False)
        assert {io.name: made[io.name].shape for io in net.inputs} == {io.name: io.shape for io in net.inputs}
    dark = tower.present(spec, Given(np.zeros((*size, 3), np.uint8), "@", {}))[0]
    assert any(
        not np.array_equal(one[key], other[key])
        for one, other in (
            (tower.prepare(spec, i, False), tower.prepare(spec, j, False)) for i, j in _pairs(tower, items, dark)
        )
        for key in one
    )


def _pairs(tower, items, others):
    return list(zip(tower.each(items), tower.each(others)))


@pytest.mark.parametrize("name", MAKERS)
def test_a_plan_without_the_checkpoint(name, tmp_path):
    """On a device config/ and the table of tensors make the same nets, to be driven the same way."""
    model = MAKERS[name].make(tmp_path, name)
    out = built(tiny_tokenizer.write(model), tmp_path / "out")
    told = manifest.told(out)
    whole = told.plan()
    shutil.move(model, tmp_path / "away")
    with pytest.raises(ConvertError, match="is gone"):
        told.plan()
    made = told.driven()
    assert made.checkpoint.nbytes == whole.checkpoint.nbytes and made.towers == whole.towers
    for net, other in zip(made.nets, whole.nets, strict=True):
        assert (net.name, net.inputs, net.outputs, net.flags) == (other.name, other.inputs, other.outputs, other.flags)
        assert (net.states, net.ports, net.tower) == (other.states, other.ports, other.tower)
    assert made.spec.vocab == whole.spec.vocab and made.spec.positions == whole.spec.positions


@pytest.mark.parametrize("name", ["qwen3_asr", "qwen2_5_omni"])
@pytest.mark.parametrize("exact", [0, 1])
@pytest.mark.parametrize("samples", [16000, 40000])
def test_every_launch_takes_what_a_sound_becomes(name, exact, samples, tmp_path):
    plan = planned(audio_checkpoints.make(tmp_path, name), seq=512, exact_audio=exact)
    tower, spec = next(one for one in plan.towers if one.tower.item == "sound")
    wave = tone(samples)
    items, told = tower.present(spec, Given(wave, "@", {}))
    assert told.count("@") == tower.count(spec, items) > 0
    seconds = samples / 16000 if exact else math.ceil(samples / (160 * spec.frames)) * spec.frames / 100
    assert items.frames.shape == (128, round(100 * seconds))
    whole = host.log_mel(wave, 128)
    np.testing.assert_array_equal(items.frames[:, : samples // 160 - 2], whole[:, :-2])
    for item in tower.each(items):
        tower.prepare(spec, item, False)


def test_an_answer_to_a_picture(tmp_path, capsys, interpreted):  # noqa: F811
    """Three tiles of an image; transformers' class gets the same pixels and tokens."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    special = ("<img>", "</img>", "<IMG_CONTEXT>")
    model = internvl_checkpoints.make(
        tmp_path, "internvl", seed=5, llm={"vocab_size": 384, "eos_token_id": 2}, image_token_id=6
    )
    tiny_tokenizer.write(model, special=special, size=384)
    values, question = noise(60, 130), "fox?"
    pixels = internvl.preprocess(values, 56)
    known = AutoTokenizer.from_pretrained(model)
    content = f"<img>{'<IMG_CONTEXT>' * 4 * len(pixels)}</img>\n{question}"
    messages = [{"role": "user", "content": content}]
    ids = known.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids.count(6) == 4 * len(pixels) > 8
    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found = whole.generate(
            torch.tensor([ids]),
            pixel_values=torch.from_numpy(pixels),
            max_new_tokens=MOST,
            do_sample=False,
            pad_token_id=0,
        )
    right = text(model, found[0, len(ids) :].tolist())
    file, out = save(tmp_path / "x.png", values), built(model, tmp_path / "out")
    assert ran(capsys, "run", out, question, "--image", file, "--max_tokens", MOST) == right + "\n"
    other = save(tmp_path / "y.png", 255 - values)
    assert ran(capsys, "run", out, question, "--image", other, "--max_tokens", MOST) != right + "\n"
    assert interpreted[0].runs.count("vit") == len(pixels)


def test_an_answer_to_a_sound(tmp_path, capsys, interpreted):  # noqa: F811
    import torch

    special = ("<|audio_start|>", "<|audio_end|>", "<|audio_pad|>")
    model = audio_checkpoints.make(tmp_path, "qwen3_asr", seed=2, text={"vocab_size": 384})
    _token(model, 6)
    tiny_tokenizer.write(model, special=special, size=384)
    samples = tone(16000)
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    heard = sound(tmp_path / "x.wav")
    frames = torch.from_numpy(host.log_mel(heard, 128))[None]
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(model)
    messages = [{"role": "user", "content": f"<|audio_start|>{'<|audio_pad|>' * 13}<|audio_end|>fox?"}]
    ids = torch.tensor([known.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)])
    whole = audio_checkpoints.loaded("qwen3_asr", model)
    whole.config.audio_token_id = 6
    heard_whole = {
        "input_features": frames,
        "input_features_mask": torch.ones(1, frames.shape[-1], dtype=torch.long),
    }
    right = text(model, greedy(lambda tokens: whole(input_ids=tokens, **heard_whole).logits, ids, MOST, special=7))
    out = built(model, tmp_path / "out")
    assert ran(capsys, "run", out, "fox?", "--audio", tmp_path / "x.wav", "--max_tokens", MOST) == right + "\n"
    assert interpreted[0].runs.count("audio") == 1


def _token(model: Path, token: int) -> None:
    config = json.loads((model / "config.json").read_text())
    config["thinker_config"]["audio_token_id"] = token
    (model / "config.json").write_text(json.dumps(config))


def test_files(tmp_path):
    values = noise(9, 7)
    np.testing.assert_array_equal(picture(save(tmp_path / "x.png", values)), values)
    grey = save(tmp_path / "grey.png", values[..., 0])
    np.testing.assert_array_equal(picture(grey), np.repeat(values[..., :1], 3, 2))
    (tmp_path / "text").write_text("no picture")
    for read, path in ((picture, "text"), (picture, "nothing"), (sound, "text"), (sound, "nothing"), (sound, "x.png")):
        with pytest.raises(InputError, match="cannot be read|can be read"):
            read(tmp_path / path)


@pytest.mark.parametrize(("width", "kind", "scale"), [(1, "u1", 127), (2, "<i2", 32767), (4, "<i4", 2147483000)])
def test_sounds_of_several_widths_and_channels(width, kind, scale, tmp_path):
    samples = np.stack([tone(500), tone(500)], 1)
    coded = np.round(samples * scale).astype(np.int64) + (128 if width == 1 else 0)
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(16000)
        file.writeframes(coded.astype(kind).tobytes())
    found = sound(tmp_path / "x.wav")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples.mean(1), atol=2 / scale + 1e-4 * (width > 1) + 0.01 * (width == 1))


def test_a_sound_of_another_rate_is_refused(tmp_path):
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(b"\0" * 100)
    with pytest.raises(InputError, match="44100 samples a second.*ffmpeg"):
        sound(tmp_path / "x.wav")
