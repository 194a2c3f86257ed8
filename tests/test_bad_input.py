"""Bad input gets one clear sentence and exit code 2, before any work starts; a failing compiler gets exit code 1 and
keeps what is done."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmconv.cli.main import main


@pytest.fixture
def model(checkpoint, tmp_path) -> Path:
    """A copy of the tiny qwen2 that a test may damage."""
    return Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "model"))


def refused(capsys, *argv: str) -> str:
    """The one line with which `llmconv convert argv` is refused."""
    try:
        code = main(["convert", *argv])
    except SystemExit as error:  # argparse's own
        code = error.code
    out = capsys.readouterr()
    assert code == 2, out
    assert "Traceback" not in out.err
    return out.err.strip().splitlines()[-1]


def run(capsys, model: Path, *argv: str) -> str:
    return refused(capsys, "-m", str(model), "-s", "64", "-o", str(model.parent / "out"), *argv)


def edit_config(model: Path, **fields) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_tensors(model: Path, change) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")


def test_missing_directory(capsys, tmp_path):
    line = run(capsys, tmp_path / "nowhere")
    assert "nowhere does not exist" in line and "config.json" in line


def test_empty_directory(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in run(capsys, tmp_path / "empty")


def test_malformed_config(capsys, model):
    (model / "config.json").write_text('{"model_type": "qwen2",')
    assert "is not valid JSON" in run(capsys, model)


def test_config_field_of_the_wrong_type(capsys, model):
    edit_config(model, num_hidden_layers="two")
    assert "num_hidden_layers" in run(capsys, model)


def test_unsupported_model_type_names_the_families(capsys, model):
    """A checkpoint's own type is no typing error: what it resembles helps nobody."""
    edit_config(model, model_type="qwen22")
    line = run(capsys, model)
    assert "'qwen22' is not supported" in line and "qwen2_5_vl" in line and "Did you mean" not in line


def test_missing_shard(capsys, checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint("qwen2", shards=3), tmp_path / "model"))
    (model / "model-00002-of-00003.safetensors").unlink()
    assert "lacks the shard model-00002-of-00003.safetensors" in run(capsys, model)


def test_tensor_missing_from_its_shard(capsys, checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint("qwen2", shards=2), tmp_path / "model"))
    file = model / "model-00001-of-00002.safetensors"
    tensors = load_file(file)
    gone = sorted(tensors)[0]
    del tensors[gone]
    save_file(tensors, file)
    assert gone in run(capsys, model)


def test_truncated_safetensors(capsys, model):
    file = model / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1000)
    line = run(capsys, model)
    assert "truncated" in line and "model.safetensors" in line


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0not json at all!"])
def test_garbage_safetensors(capsys, model, content):
    (model / "model.safetensors").write_bytes(content)
    assert "is not a whole safetensors file" in run(capsys, model)


def test_missing_tensor(capsys, model):
    edit_tensors(model, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    assert "no tensor model.layers.1.mlp.up_proj.weight" in run(capsys, model)


def test_unused_tensor(capsys, model):
    edit_tensors(model, lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": torch.zeros(256)}))
    line = run(capsys, model)
    assert "model.layers.0.self_attn.o_proj.bias" in line and "would not be used" in line


def test_misshapen_tensor(capsys, model):
    edit_tensors(model, lambda t: t.update({"model.layers.0.mlp.down_proj.weight": torch.zeros(256, 500)}))
    line = run(capsys, model)
    assert "model.layers.0.mlp.down_proj.weight" in line and "[256, 500]" in line and "[512, 256]" in line


def test_pickled_weights_are_never_read(capsys, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "never unpickles" in run(capsys, model)


def test_group_that_does_not_divide(capsys, model):
    line = run(capsys, model, "-q", "w4bf16", "-g", "96")
    assert "q_group_size 96" in line and "q_proj" in line and "-g 64" in line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-g", "0", "-q", "w4bf16"], "q_group_size 0"),
        (["--max_input_length", "65"], "max_input_length 65"),
        (["--num_core", "2"], "num_core 2"),
        (["--rvti"], "bm1690e"),
        (["-c", "bm1690"], "chip=bm1690"),
        (["-q", "w4"], "quantize=w4"),
        (["--batch", "0"], "batch 0"),
        (["--max_prefill_kv_length", "32"], "max_prefill_kv_length 32"),
        (["--use_history_kv", "--share_prompt"], "two schemes"),
        (["--use_block_with_kv", "--max_input_length", "33"], "at most 32"),
        (["--chunk_length", "33"], "chunk_length 33"),
        (["--batch", "2", "--use_block_with_kv"], "batch 2"),
        (["--memory", "lots"], "memory=lots"),
        (["--seq_len", "8", "--nonsense"], "--nonsense"),
    ],
)
def test_options_that_cannot_be(capsys, model, argv, says):
    assert says in run(capsys, model, *argv)


def test_sequence_of_zero(capsys, model):
    assert "seq_length 0" in refused(capsys, "-m", str(model), "-s", "0")


def test_no_model(capsys):
    assert "no model" in refused(capsys, "-s", "64")


def test_output_inside_the_model(capsys, model):
    assert "inside the model directory" in refused(capsys, "-m", str(model), "-s", "64", "-o", str(model / "out"))


def test_output_beside_a_model_with_the_same_prefix_is_fine(capsys, model):
    assert main(["convert", "-m", str(model), "-s", "64", "-o", str(model) + "_bm1684x", "--dry_run"]) == 0


def test_output_that_is_a_file(capsys, model, tmp_path):
    (tmp_path / "out").write_text("not a directory")
    assert str(tmp_path / "out") in run(capsys, model)


def _fake_compiler(real: Path, place: Path, script: str) -> Path:
    """A toolchain whose tpuc-opt is `script`; everything else is the real one's."""
    root = place / "fake_toolchain"
    (root / "bin").mkdir(parents=True)
    for entry in real.iterdir():
        if entry.name != "bin":
            (root / entry.name).symlink_to(entry)
    for entry in (real / "bin").iterdir():
        if entry.name != "tpuc-opt":
            (root / "bin" / entry.name).symlink_to(entry)
    tool = root / "bin" / "tpuc-opt"
    tool.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo LLVM version 18.0.0git && exit 0\n{script}\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return root


@pytest.mark.compiler
def test_a_crashing_compiler_names_net_log_and_repeat_and_keeps_the_rest(
    capfd, model, compiler, llmconv_env, monkeypatch, tmp_path
):
    real = compiler.root
    script = f'case "$(cat net.mlir)" in *"module @block_1 "*) echo "net.mlir:1: error: something is odd"; kill -ABRT $$;; esac\nexec "{real}/bin/tpuc-opt" "$@"'
    monkeypatch.setenv("TPUC_ROOT", str(_fake_compiler(real, tmp_path, script)))
    argv = ["convert", "-m", str(model), "-s", "64", "-o", str(tmp_path / "out"), "--no_cache", "--continue"]
    assert main(argv) == 1
    out = "".join(capfd.readouterr())
    assert "program:block_1" in out and "SIGABRT" in out and "something is odd" in out
    assert str(tmp_path / "out" / "logs" / "block_1.log") in out
    assert (
        "its last words:\n    | net.mlir:1: error: something is odd" in out
        and "finished tasks are kept; go on with: " in out
    )
    assert "--task program:block_1" in out
    assert (tmp_path / "out" / ".llmconv" / "nets" / "block_0.bmodel").exists()
    assert not list((tmp_path / "out").glob("*.bmodel"))
