"""What a device has to know, and the digests of what it loads: in manifest.json, inspect, the report and SHA256SUMS."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from plans import planned

from llmconv.cli.main import main
from llmconv.families import towers
from llmconv.plan.handover import HIDDEN, ITEMS, Handover, KVCache


def of(model: Path, **options) -> Handover:
    return Handover.of(planned(model, **options))


@pytest.mark.parametrize(
    "name, dtype, integer", [("bf16", "bfloat16", "uint16"), ("f16", "float16", "uint16"), ("f32", "float32", "uint32")]
)
def test_the_bits_of_what_hides(name, dtype, integer):
    """As the runtimes write them: the nearest to -10000 that the type has."""
    import torch

    given = torch.tensor(-10000.0, dtype=getattr(torch, dtype))
    assert (float(given), f"0x{int(given.view(getattr(torch, integer))):X}") == HIDDEN[name]


def test_lengths_and_kv_cache(checkpoint):
    model = checkpoint("qwen2")
    assert of(model).kv_cache == KVCache(layers=2, rows=64, heads=2, size=64, stages=())
    assert of(model, batch=2).kv_cache.rows == 64
    found = of(model, chunk_length=16, max_input_length=16, chip="bm1688", quantize="f16")
    assert found.kv_cache.stages == (32, 16) and (found.seq_length, found.max_input_length) == (64, 16)
    assert (found.chip, found.cores, found.half) == ("bm1688", 2, "f16") and not found.equal_lengths
    assert [(m.input, m.dtype, m.bits) for m in found.masks] == [("attention_mask", "f16", "0xF0E2")]
    assert (found.tokens.bos, found.tokens.eos, found.tokens.pad, found.tokens.seen, found.to_dict()["image"]) == (
        1,
        (2,),
        0,
        {},
        None,
    )


def test_a_model_that_sees(vision_checkpoint):
    found = of(vision_checkpoint("qwen2_vl"), max_pixels="112,56")
    assert found.to_dict()["image"] == {"width": 112, "height": 56, "patches": 32, "tokens": 8}
    assert {(m.input, m.dtype, m.bits) for m in found.masks} == {
        ("attention_mask", "bf16", "0xC61C"),
        ("vit full_attn_mask", "f32", "0xC61C4000"),
    }
    assert found.tokens.seen == {
        "image_token_id": 1000,
        "video_token_id": 1001,
        "vision_start_token_id": 998,
        "vision_end_token_id": 999,
    }


def test_dynamic_vision_without_a_mask(vision_checkpoint):
    assert [m.input for m in of(vision_checkpoint("qwen3_vl"), max_pixels="64,64", dynamic=1).masks] == [
        "attention_mask"
    ]


def test_every_kind_of_item_has_a_key():
    assert set(ITEMS) == set(towers())


def test_other_demos_take_any_length(checkpoint):
    made = planned(checkpoint("qwen2"), max_input_length=32)
    assert not [note for note in made.notes if "demo" in note]


def check_sums(out: Path) -> subprocess.CompletedProcess:
    return subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, text=True)


@pytest.mark.compiler
def test_a_build_tells_its_device(checkpoint, convert, capsys, tmp_path):
    """The real thing: manifest.json, inspect, report.html, and the real sha256sum."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint("qwen2"), model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2]}))
    (model / "a name \\ of two words.txt").write_text("text")
    out = convert(model, seq=64, chip="cv186x", embedding_disk=1)
    manifest = json.loads((out / "manifest.json").read_text())
    found = manifest["device"]
    assert found["compiler"] == manifest["toolchain"]["version"] and found["requires"] == {
        "driver": ">= 0.5.1",
        "libsophon": "after 2024-06-30",
    }
    assert found["tokens"] == {"bos": 1, "eos": [7, 2], "pad": 0, "seen": {}} and found["half"] == "bf16"
    block = next(net for net in manifest["nets"] if net["name"] == "block_cache_0")
    assert next(io["shape"] for io in block["inputs"] if io["name"] == "history_k")[1:] == [
        found["kv_cache"][key] for key in ("rows", "heads", "size")
    ]
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    told, page = capsys.readouterr().out, (out / "report.html").read_text()
    for text in (
        "64 rows of 2 x 64 bf16 in each of 2 layers",
        "attention_mask bf16: hidden -9984 (0xC61C)",
        "eos 7 or 2",
    ):
        assert text in told and text in page
    assert "driver >= 0.5.1" in told and "SHA256SUMS" in page

    done = check_sums(out)
    assert done.returncode == 0, done.stderr
    names = {str(path.relative_to(out)) for path in (*out.glob("*.bmodel"), *out.glob("config/**/*")) if path.is_file()}
    assert "config/embedding.bin" in names and len(done.stdout.splitlines()) == len(names) == 5
    config = out / "config" / "config.json"
    config.write_bytes(config.read_bytes() + b" ")
    assert check_sums(out).returncode == 1


@pytest.mark.compiler
def test_the_sums_are_a_task(checkpoint, llmconv_env, tmp_path, capsys):
    """Written again when they are gone or edited, or when what they are of changes; else left alone."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(checkpoint("qwen2"), model)
    argv = ["convert", "-m", str(model), "-s", "64", "-c", "cv186x", "-o", str(out)]

    assert main(argv) == 0
    first = (out / "SHA256SUMS").read_text()
    for spoil in (
        lambda: (out / "SHA256SUMS").unlink(),
        lambda: (out / "SHA256SUMS").write_text(first.replace("a", "b")),
    ):
        spoil()
        capsys.readouterr()
        assert main(argv) == 0 and "1 built" in capsys.readouterr().out and (out / "SHA256SUMS").read_text() == first
    (model / "generation_config.json").write_text('{"eos_token_id": 5}')
    capsys.readouterr()
    assert main(argv) == 0 and "3 built" in capsys.readouterr().out  # config, sums, manifest
    assert "config/generation_config.json" in (out / "SHA256SUMS").read_text() and check_sums(out).returncode == 0
    assert main(argv) == 0 and "up to date" in capsys.readouterr().out


@pytest.mark.compiler
def test_sums_of_a_pipeline(checkpoint, convert):
    """Every device's file, and which nets are on which."""
    out = convert(checkpoint("qwen2"), seq=32, chip="cv186x", num_device=3, distribute_strategy="pp")
    done = check_sums(out)
    assert done.returncode == 0, done.stderr
    named = {line.split(": ")[0] for line in done.stdout.splitlines()}
    assert (
        named == {path.name for path in (*out.glob("*.bmodel"), *out.glob("*_combine.json"))} | {"config/config.json"}
        and len(named) == 6
    )


@pytest.mark.compiler
def test_learned_positions_beside_the_bmodel(vision_checkpoint, llmconv_env, tmp_path, capsys):
    """As GLM-4V's public demo reads them; written again when they are damaged or their tensor changes, with no net."""
    import torch
    from safetensors.torch import load_file, save_file

    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(vision_checkpoint("glm4v"), model)
    argv = ["convert", "-m", str(model), "-s", "64", "-c", "cv186x", "--max_pixels", "112,112", "-o", str(out)]
    file, name = out / "config" / "pos_embed_weight.npy", "model.visual.embeddings.position_embedding.weight"

    def right() -> bool:
        table = load_file(model / "model.safetensors")[name].float()
        found = np.load(file, allow_pickle=False)
        assert found.dtype == np.float32 and found.flags.c_contiguous and found.shape == (1, 192, 8, 8)
        same = torch.equal(torch.from_numpy(found), table.view(8, 8, -1).permute(2, 0, 1)[None])
        return same and check_sums(out).returncode == 0

    assert main(argv) == 0 and right()
    assert "config/pos_embed_weight.npy" in (out / "SHA256SUMS").read_text()
    assert "compile:vit" in capsys.readouterr().out
    assert main(argv) == 0 and "up to date" in capsys.readouterr().out
    for spoil in (lambda: file.write_bytes(file.read_bytes()[:-4]), file.unlink):
        spoil()
        capsys.readouterr()
        assert main(argv) == 0 and "1 built" in capsys.readouterr().out and right()
    tensors = load_file(model / "model.safetensors")
    tensors[name] = tensors[name] + 1
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert main(argv) == 0 and "compile:" not in capsys.readouterr().out and right()
