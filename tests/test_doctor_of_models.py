"""`llmconv doctor DIR`: what a model directory holds, and what helps; `plan` speaks of the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoints import edit_config, split_file

from llmconv.cli.main import main


@pytest.fixture
def model(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))


def told(capsys, model: Path, code: int) -> list[str]:
    assert main(["doctor", str(model)]) == code
    return capsys.readouterr().out.splitlines()


def test_a_whole_model(model, capsys):
    (model / "tokenizer.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"x")
    lines = told(capsys, model, 0)
    assert lines[0].split() == ["directory", str(model)]
    assert lines[1].startswith("weights    model.safetensors: 21 tensors (BF16 3.4 MB)")
    assert lines[2].startswith("also there pickled weights") and "pytorch_model.bin" in lines[2]
    assert lines[3] == "model      llama, 2 layers, 1.7 M weights"
    assert lines[4] == "to device  config.json, tokenizer.json"
    assert lines[-1] == f"It can be converted: llmconv convert -m {model} -s N (-q auto is bf16)."


def test_parts(model, capsys):
    split_file(model, ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"))
    assert "2 files that model.safetensors.index.json names: 21 tensors" in told(capsys, model, 0)[1]


def test_an_adapter(model, capsys):
    for name in ("model.safetensors", "config.json"):
        (model / name).unlink()
    (model / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "Qwen/Qwen2-7B", "peft_type": "LORA"})
    )
    lines = told(capsys, model, 2)
    assert lines[1] == "weights    none that can be read"
    assert lines[2] == "adapter    a LoRA adapter of Qwen/Qwen2-7B"
    assert lines[-1].startswith("ERROR: ") and "Merge it into Qwen/Qwen2-7B" in lines[-1]


def test_what_cannot_be_converted(model, capsys):
    edit_config(model, rms_norm_eps=float("nan"))
    assert "rms_norm_eps" in told(capsys, model, 2)[-1]
    assert "does not exist" in told(capsys, model / "nowhere", 2)[-1]


def test_a_model_that_sees(vision_checkpoint, capsys):
    assert "towers     vision tower" in told(capsys, vision_checkpoint("qwen2_vl"), 0)


def test_plan_names_the_files(model, tmp_path, capsys):
    assert main(["plan", "-m", str(model), "-s", "64", "-o", str(tmp_path / "out")]) == 0
    assert f"in {model}, weights from model.safetensors" in capsys.readouterr().out
