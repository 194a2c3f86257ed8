"""Pictures in patches, for towers that take images of any shape, and the answers to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_tokenizer
import vision_checkpoints
from media_samples import greedy, noise, save
from plans import planned
from test_answers import built, interpreted, ran, text  # noqa: F401

from llmconv.blocks.tower import Given

MOST = 6


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "paddleocr_vl"])
@pytest.mark.parametrize("size", [(70, 70), (41, 150), (900, 500)], ids=str)
def test_a_launch_takes_what_a_picture_becomes_in_patches(name, size, tmp_path):
    """Of a size that the net takes, with as many placeholders as the launch gives hidden states."""
    plan = planned(vision_checkpoints.make(tmp_path, name), seq=64, max_pixels="192,128" if "3" in name else "168,112")
    ((tower, spec),) = plan.towers
    items, told = tower.present(spec, Given(noise(*size), "@", {}))
    assert told.count("@") == tower.marks(spec, items) > 0
    (net,) = (net for net in plan.nets if net.tower)
    made = tower.prepare(tower.holding(spec, {"pos_embed_weight.npy": _table(spec)}), items, net.flags.dynamic)
    whole = {io.name: io.shape for io in net.inputs}
    assert all(made[key].shape == whole[key] or net.flags.dynamic for key in whole) and made.keys() >= whole.keys()


def _table(spec) -> np.ndarray:
    return np.zeros((1, spec.width, spec.side, spec.side), np.float32) if spec.image else np.zeros(0)


def test_an_answer_to_a_picture_in_patches(tmp_path, capsys, interpreted):  # noqa: F811
    """transformers' class gets what its own processor makes of the file."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoTokenizer

    names = ("vision_start", "vision_end", "image", "video")  # the ids 4 to 7
    ids_ = {f"{name}_token_id": number for number, name in enumerate(names, 4)}
    model = vision_checkpoints.make(tmp_path, "qwen2_5_vl", seed=4, text={"vocab_size": 384}, **ids_)
    tiny_tokenizer.write(
        model, special=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"), size=384
    )
    given = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 28 * 28, "max_pixels": 112 * 84}
    (model / "preprocessor_config.json").write_text(json.dumps(given))
    file = save(tmp_path / "x.png", noise(60, 90))
    seen = AutoImageProcessor.from_pretrained(model, backend="pil")(Image.open(file), return_tensors="pt")
    marks = "<|image_pad|>" * (len(seen["pixel_values"]) // 4)
    messages = [{"role": "user", "content": f"<|vision_start|>{marks}<|vision_end|>fox?"}]
    known = AutoTokenizer.from_pretrained(model)
    ids = torch.tensor([known.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)])
    whole = vision_checkpoints.whole(model)
    logits = lambda tokens: whole(input_ids=tokens, mm_token_type_ids=(tokens == 6).int(), **seen).logits  # noqa: E731
    right = text(model, greedy(logits, ids, MOST, special=8))
    out = built(model, tmp_path / "out", max_pixels="112,84")
    assert ran(capsys, "run", out, "fox?", "--image", file, "--max_tokens", MOST) == right + "\n"
    other = save(tmp_path / "y.png", 255 - noise(60, 90))
    assert ran(capsys, "run", out, "fox?", "--image", other, "--max_tokens", MOST) != right + "\n"
    assert interpreted[0].runs.count("vit") == 1
