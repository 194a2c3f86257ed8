"""llmconv quality on GGUF files: the figures are those of the values that a file has."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import tiny_tokenizer
import torch
import vision_checkpoints
from gguf_files import write
from gguf_towers import write_tower

from llmconv.cli.main import main
from llmconv.quality import quality
from llmconv.quality.quality import Wish
from llmconv.quality.result import Quality
from llmconv.quality.windows import TEXT, windows
from llmconv.request.job import Job

WISH = Wish(tokens=40, window=20)


def measured(model: Path, out: Path, **options) -> Quality:
    given = {"model": model, "seq": 64, "out": out, "chip": "cv186x", "q_group_size": 32} | options
    return quality.measure(Job.create({name: str(value) for name, value in given.items()}), WISH)


def vocabulary(model: Path) -> dict:
    """Metadata of the checkpoint's tokenizer, as llama.cpp's converter writes it."""
    told = json.loads((model / "tokenizer.json").read_text())
    vocab = told["model"]["vocab"]
    tokens, special = sorted(vocab, key=lambda token: vocab[token]), {one["content"] for one in told["added_tokens"]}
    keys = {
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3 if token in special else 1 for token in tokens],
        "merges": [" ".join(pair) for pair in told["model"]["merges"]],
        "add_bos_token": False,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def perplexity(whole: torch.nn.Module, model: Path) -> float:
    """By transformers' whole class, of the same windows."""
    lost = []
    for ids in windows(model, TEXT.read_text(), WISH.tokens, WISH.window, 1 << 30).ids:
        with torch.inference_mode():
            logits = whole(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1].double()
        lost.append(-logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.from_numpy(ids[1:])])
    return float(torch.cat(lost).mean().exp())


def test_figures_are_those_of_the_checkpoint(tmp_path, written):
    model = tiny_tokenizer.write(written("llama"))
    file = write(model, tmp_path / "m.gguf", "BF16", **vocabulary(model))
    ours, theirs = measured(file, tmp_path / "a"), measured(model, tmp_path / "b")
    assert ours.tokens == theirs.tokens > 30
    assert (ours.variants, ours.layers, ours.linears) == (theirs.variants, theirs.layers, theirs.linears)
    assert len({one.perplexity for one in ours.variants}) > 4


def test_the_original_is_what_the_file_has(tmp_path, written):
    """Of a type that becomes bf16: transformers' class with what the gguf package reads."""
    from transformers import AutoModelForCausalLM

    model = tiny_tokenizer.write(written("qwen2"))
    file = write(model, tmp_path / "m.gguf", "Q4_1", **vocabulary(model))
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    plain, kind = perplexity(whole, model), gguf.GGMLQuantizationType.Q4_1
    with torch.inference_mode():
        for value in whole.parameters():
            if value.dim() > 1:
                made = gguf.dequantize(gguf.quantize(value.numpy(), kind), kind)
                value.copy_(torch.from_numpy(made).to(torch.bfloat16).float())
    (original, *_) = measured(file, tmp_path / "out").variants
    right = perplexity(whole, model)
    assert original.perplexity == pytest.approx(right, rel=2e-4) and abs(plain / right - 1) > 0.01


@pytest.mark.parametrize("name", ["qwen2_vl", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
def test_the_text_of_a_model_that_sees(tmp_path, name):
    model = tiny_tokenizer.write(vision_checkpoints.make(tmp_path, name), special=("<|image_pad|>",))
    text = write(model, tmp_path / "m.gguf", "BF16", **vocabulary(model))
    found = measured(text, tmp_path / "out", mmproj=write_tower(model, tmp_path / "t.gguf", "F16"))
    right = perplexity(vision_checkpoints.whole(model), model)
    assert found.variants[0].perplexity == pytest.approx(right, rel=2e-4)
    assert "the language model alone is measured, on text: the vision tower is not" in found.notes


def test_what_it_cannot_say(tmp_path, written, capsys):
    """Integers are all that is known of a file's weights; and a tower is missing."""

    def told(file: Path) -> str:
        assert main(["quality", "-m", str(file), "-o", str(tmp_path / "out"), "--tokens", "8"]) == 2
        return capsys.readouterr().err

    file = write(written("qwen2"), tmp_path / "m.gguf", "Q4_0")
    assert f"{file} is quantised already: its original weights are not in it" in told(file)
    file = write(vision_checkpoints.make(tmp_path, "qwen2_vl"), tmp_path / "m.gguf", "F16")
    assert "its tower is in a file of its own. Name that too: --mmproj FILE.gguf." in told(file)
