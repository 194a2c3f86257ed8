"""Pictures in slices for a tower that takes them as strips: MiniCPM-V 4.6, which has two towers."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import tiny_tokenizer
import vision_checkpoints
from media_samples import greedy, noise, save
from plans import planned
from test_answers import built, interpreted, ran, text  # noqa: F401

from llmconv.blocks.navit import slices
from llmconv.blocks.tower import Given
from llmconv.cli.main import main

MOST = 6
SPECIAL = ("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<|image_pad|>", "<|video_pad|>")
PAD = 4 + SPECIAL.index("<|image_pad|>")  # ids begin behind the four of every tokenizer
SIZES = [(41, 150), (500, 900), (1400, 460), (449, 448)]


def processor(**settings):
    from transformers import AutoImageProcessor

    kind = {"image_processor_type": "MiniCPMV4_6ImageProcessor"}
    return lambda folder: (
        (folder / "preprocessor_config.json").write_text(json.dumps(kind | settings)),
        AutoImageProcessor.from_pretrained(folder, backend="pil"),
    )[1]


def pillow(picture, width, height):
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "settings", [{}, {"downsample_mode": "4x"}, {"max_slice_nums": 3}, {"slice_mode": False}], ids=str
)
def test_a_picture_becomes_what_the_processor_makes_of_it(settings, tmp_path):
    from PIL import Image

    plan = planned(vision_checkpoints.make(tmp_path, "minicpmv4_6"), seq=512)
    own = processor(**settings)(tmp_path)
    if "4x" in settings.values() and "downsample_mode" not in inspect.signature(own.find_best_resize).parameters:
        pytest.skip("this transformers cuts pictures for 16x whatever the mode is")
    for size in SIZES:
        picture = noise(*size)
        given = Given(picture, "@", settings)
        (tower, spec, items, told), *others = (
            (tower, spec, *made) for tower, spec in plan.towers if (made := tower.present(spec, given)) is not None
        )
        assert not others and tower.mode == settings.get("downsample_mode", "16x")
        seen = own(Image.fromarray(picture), return_tensors="np")
        np.testing.assert_array_equal(np.array(items.sizes), seen["target_sizes"])
        exact, same = slices.shown(spec, given, pillow)
        assert same + "\n" == told and exact.sizes == items.sizes
        np.testing.assert_allclose(exact.strip, seen["pixel_values"], rtol=0, atol=1e-6)
        # our resizing is that of Pillow up to 12; a later one may go along the other axis first, and round otherwise
        assert np.abs(items.strip - exact.strip).mean() < 0.01
        assert told.count("@") == tower.marks(spec, items) == sum(map(np.prod, items.sizes)) // spec.side**2
        rows, columns = seen["grids"][0]
        assert told.count("<slice>") == rows * columns and told.count("\n") == max(rows, 1)
        for item in tower.each(items):
            assert tower.prepare(spec, item, True)["pixel_values"].shape == item.strip.shape


@pytest.mark.compiler
@pytest.mark.simulator
def test_an_answer_to_a_picture_in_slices(tmp_path, capsys, convert):
    """transformers' class gets what its own processor makes of the file, and the placeholders of its own rule."""
    import torch
    from PIL import Image
    from transformers import AutoTokenizer

    model = vision_checkpoints.make(tmp_path, "minicpmv4_6", seed=3, text={"vocab_size": 384}, image_token_id=PAD)
    tiny_tokenizer.write(model, special=SPECIAL, size=384)
    own = processor(scale_resolution=112)(model)
    file = save(tmp_path / "x.png", noise(120, 180))
    seen = own(Image.open(file), return_tensors="pt")
    marks = ["<|image_pad|>" * (int(rows * columns) // 16) for rows, columns in seen["target_sizes"]]
    rows, columns = seen["grids"][0]
    lines = ["".join(f"<slice>{mark}</slice>" for mark in marks[1 + n * columns :][:columns]) for n in range(rows)]
    shown = f"<image_id>0</image_id><image>{marks[0]}</image>" + "\n".join(lines)
    messages = [{"role": "user", "content": f"{shown}\nfox?"}]
    known = AutoTokenizer.from_pretrained(model)
    ids = torch.tensor([known.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)])
    assert rows * columns > 1 and int((ids == PAD).sum()) == sum(mark.count("<|image_pad|>") for mark in marks)
    whole = vision_checkpoints.whole(model)
    given = {"pixel_values": seen["pixel_values"], "target_sizes": seen["target_sizes"], "downsample_mode": "16x"}
    right = text(
        model, greedy(lambda tokens: whole(input_ids=tokens, **given).logits, ids, MOST, special=4 + len(SPECIAL))
    )
    out = convert(model, seq=64, chip="cv186x", max_pixels="168,168")
    assert ran(capsys, "run", out, "fox?", "--image", file, "--max_tokens", MOST) == right + "\n"
    other = save(tmp_path / "y.png", 255 - noise(120, 180))
    assert ran(capsys, "run", out, "fox?", "--image", other, "--max_tokens", MOST) != right + "\n"


def test_a_mode_that_no_tower_has_is_refused_by_name(tmp_path, capsys, interpreted):  # noqa: F811
    model = tiny_tokenizer.write(vision_checkpoints.make(tmp_path, "minicpmv4_6"), size=1002)
    (model / "preprocessor_config.json").write_text(json.dumps({"downsample_mode": "2x"}))
    save(tmp_path / "x.png", noise(40, 40))
    assert main(["run", str(built(model, tmp_path / "out")), "fox?", "--image", str(tmp_path / "x.png")]) == 2
    told = capsys.readouterr().err
    assert "cannot be shown to minicpmv4_6" in told and "own processor" in told
