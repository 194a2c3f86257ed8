"""llmconv quality: its figures are those of transformers' own class with the chip's weights; what is finished is kept;
what it suggests is a conversion within the size."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tokenizer
from checkpoints import edit_tensors, make
from family_checkpoints import make as make_family
from schemas import check
from vision_checkpoints import make as make_seeing

from llmconv import words
from llmconv.cli.main import main
from llmconv.engine.lock import Lock
from llmconv.errors import ConvertError, InputError
from llmconv.numeric import from_bf16, to_bf16
from llmconv.plan.estimate import coefficient_bytes
from llmconv.plan.plan import plan
from llmconv.quality import quality, suggest
from llmconv.quality.quality import Wish
from llmconv.quality.result import Quality
from llmconv.quality.variants import file_bytes
from llmconv.quality.windows import TEXT, windows
from llmconv.request.job import Job
from llmconv.request.options import amount

WISH = Wish(tokens=90, window=32)
LAYERS, WORDS = 2, TEXT.read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    small: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return tiny_tokenizer.write(make(tmp_path_factory.mktemp("model"), "qwen2", num_hidden_layers=LAYERS, **small))


def job(model: Path, out: Path, **options) -> Job:
    given = {"model": model, "seq": 64, "out": out, "chip": "cv186x"} | options
    return Job.create({name: str(value) for name, value in given.items()})


@pytest.fixture(scope="module")
def found(model, tmp_path_factory) -> Quality:
    return quality.measure(job(model, tmp_path_factory.mktemp("out")), WISH)


def rounded(values: np.ndarray) -> np.ndarray:
    return from_bf16(to_bf16(values))


def quantised(w: np.ndarray, bits: int, group: int, symmetric: bool) -> np.ndarray:
    """(q - z) s of each group, by the definition of asymmetric and symmetric rounding to the nearest."""
    top = np.float32(2**bits - 1)
    parts = w.astype(np.float32).reshape(len(w), -1, group)
    high, low = parts.max(-1, keepdims=True), parts.min(-1, keepdims=True)
    if symmetric:
        scale = 2 * np.maximum(high, -low) / top
        zero = np.float32(2 ** (bits - 1))
    else:
        scale = np.maximum(high - low, np.float32(1e-5)) / top
        zero = np.clip(np.floor(-low / scale + np.float32(0.5)), 0, top)
    ratio = parts / scale
    nearest = np.sign(ratio) * np.floor(np.abs(ratio) + np.float32(0.5))
    return rounded((np.clip(nearest + zero, 0, top) - zero) * rounded(scale)).reshape(w.shape)


def theirs(
    model: Path, change=None, tokens=WISH.tokens, length=WISH.window, kind="AutoModelForCausalLM"
) -> tuple[float, np.ndarray]:
    """Perplexity and likeliest tokens of the same windows by transformers' whole class. change(name, values): weights."""
    import torch
    import transformers

    whole = getattr(transformers, kind).from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        for name, value in whole.named_parameters():
            if change:
                value.copy_(torch.from_numpy(change(name, value.numpy())))
        nll, best = [], []
        for ids in windows(model, WORDS, tokens, length, 1 << 30).ids:
            logits = whole(torch.from_numpy(ids)[None]).logits[0, :-1].double()
            nll.append(-logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.from_numpy(ids[1:])])
            best.append(logits.argmax(-1))
    return float(torch.cat(nll).mean().exp()), torch.cat(best).numpy()


CHANGES = {
    "original": None,
    "bf16": lambda name, w: rounded(w),
    **{
        f"w{bits}bf16 g{group}{' symmetric' if symmetric else ''}": (
            lambda name, w, how=(bits, group, symmetric): quantised(w, *how) if "_proj.weight" in name else rounded(w)
        )
        for bits, group, symmetric in ((4, 32, False), (4, 64, False), (4, 64, True), (8, 128, False))
    },
    "w4bf16 g64, head too": lambda name, w: (
        quantised(w, 4, 64, False) if "_proj.weight" in name or name == "lm_head.weight" else rounded(w)
    ),
}


def test_of_a_model_that_sees_the_text_counts(tmp_path):
    model = tiny_tokenizer.write(make_seeing(tmp_path, "qwen2_vl"))
    found = quality.measure(job(model, tmp_path / "out"), Wish(tokens=60, window=32))
    right, _ = theirs(model, None, 60, 32, "AutoModelForImageTextToText")
    assert found.variants[0].name == "original" and found.variants[0].perplexity == pytest.approx(right, rel=2e-4)


@pytest.mark.parametrize("name", CHANGES)
def test_figures_are_transformers_own(name, found, model):
    one = {one.name: one for one in found.variants}[name]
    (_, original), (right, best) = theirs(model), theirs(model, CHANGES[name])
    assert one.perplexity == pytest.approx(right, rel=2e-4)
    assert one.agreement == pytest.approx((best == original).mean(), abs=0.012), "one token of 87 may be as good"
    assert (one.bytes is None) == (name == "original")


def test_what_is_measured_of_layers(found):
    assert [one.layer for one in found.layers] == list(range(LAYERS)) and found.base == "w4bf16 g64"
    assert len(found.linears) == 7 * LAYERS and all(one.loss and one.bytes > 0 for one in found.linears)
    for layer in found.layers:
        alone = [one.loss or 0 for one in found.linears if one.layer == layer.layer]
        assert layer.loss and max(alone) < layer.loss**2 < 1.5 * sum(alone), "they nearly add up"
        assert layer.drift["original"] == 0 and layer.drift["w8bf16 g64"] < layer.drift["w4bf16 g64"]
    assert found.tokens == 87 and found.suggestion is None, "each of three windows has a first token"


def test_a_run_that_ends_early_goes_on(model, found, tmp_path):
    """Interrupted within the second layer; what was half-written then, and what another version left, do not count."""
    steps: list[str] = []

    def tell(step):
        steps.append(step.text)
        if "layer 2 of 2: w8" in step.text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quality.measure(job(model, tmp_path), WISH, tell)
    (folder,) = (tmp_path / ".llmconv" / "quality").iterdir()
    assert {file.name for file in folder.iterdir()} == {"states-1.bin", "states-2.bin.part", "layer-0.json"}
    (folder / "states-9.bin").write_bytes(b"too short")
    outside = tmp_path / "outside"
    outside.mkdir()
    for link in (folder / "states-2.bin.part", tmp_path / "quality.json.part"):
        link.unlink(missing_ok=True)
        link.symlink_to(outside / link.name)
    before, steps[:] = len(steps), []
    with Lock(tmp_path / ".llmconv" / "measuring"), pytest.raises(ConvertError, match="is being built by pid"):
        quality.measure(job(model, tmp_path), WISH)
    again = quality.measure(job(model, tmp_path), WISH, lambda step: steps.append(step.text))
    assert replace(again, model="") == replace(found, model="") and not any("layer 1 of 2" in one for one in steps)
    assert before > 15 and any("layer 2 of 2" in one for one in steps)
    assert not list(folder.glob("states*")), "what nobody needs any more is gone"
    steps[:] = []
    assert quality.measure(job(model, tmp_path), WISH, lambda step: steps.append(step.text)) == again
    assert steps == ["digests of the weights"], "what is measured is not measured again"
    shutil.rmtree(folder.parent)
    folder.parent.symlink_to(outside)
    quality.measure(job(model, tmp_path), replace(WISH, again=True), lambda step: steps.append(step.text))
    assert len(steps) > 30
    assert not list(outside.iterdir()) and not folder.parent.is_symlink(), "no link leads out of the directory"


@pytest.mark.parametrize("what", ["one value", "the text"])
def test_another_content_is_measured_anew(what, model, found, tmp_path):
    given = shutil.copytree(model, tmp_path / "m")
    quality.measure(job(given, tmp_path / "out"), replace(WISH, tokens=8))
    wish = replace(WISH, tokens=8)
    if what == "the text":
        (tmp_path / "t.txt").write_text("Pack my box with five dozen liquor jugs.")
        wish = replace(wish, text=tmp_path / "t.txt")
    else:

        def change(tensors):
            tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1

        edit_tensors(given, change)
    steps = []
    quality.measure(job(given, tmp_path / "out"), wish, lambda step: steps.append(step.text))
    assert any("layer 1 of 2: original" in one for one in steps)


def test_the_suggestion_is_a_conversion_within_the_size(model, found, tmp_path, capsys):
    base = file_bytes(plan(job(model, tmp_path, quantize="w4bf16")))
    size = base + 90_000
    argv = ["quality", "-m", str(model), "-s", "64", "-c", "cv186x", "-o", str(tmp_path / "out"), "--size", str(size)]
    assert main([*argv, "--tokens", "90", "--window", "32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    check("quality", told, json.loads(json.dumps(found.to_dict())))
    made = told["suggestion"]
    planned = plan(job(model, tmp_path, quantize="w4bf16", keep_half=made["keep_half"]))
    assert base < made["bytes"] == file_bytes(planned) <= size and made["lost"] < made["of"]
    assert made["proof"]["name"] == f"w4bf16 g64, kept: {made['keep_half']}"
    four = next(one for one in told["variants"] if one["name"] == "w4bf16 g64")
    assert made["proof"]["agreement"] >= four["agreement"]
    assert main(["build", str(tmp_path / "out" / "keep_half.toml"), "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert words.size(coefficient_bytes(planned.nets)) in told
    assert words.size(coefficient_bytes(plan(job(model, tmp_path, quantize="w4bf16")).nets)) not in told
    page = (tmp_path / "out" / "quality.html").read_text()
    drawn = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)[0])
    assert drawn["losses"]["layers"] == [0, 1] and len(drawn["errors"]["series"]) == 9
    assert main([*argv, "--tokens", "90", "--window", "32"]) == 0
    text = capsys.readouterr().out
    assert "original" in text and f"--keep-half {made['keep_half']}" in text


def test_what_is_kept_is_what_loses_most_for_its_size(model, tmp_path):
    base = plan(job(model, tmp_path, quantize="w4bf16"))
    losses = [dict.fromkeys(suggest.modules(base.spec, layer), 1e-6) for layer in range(LAYERS)]
    losses[1]["self_attn.o_proj"], losses[0]["mlp.up_proj"] = 1e-2, 1.2e-2  # of a half the size of the other
    known = suggest.linears(base, losses)
    sizes = {(one.layer, one.name): one.bytes for one in known}
    room = sizes[1, "self_attn.o_proj"]
    assert suggest.suggest(base, known, file_bytes(base) + room).keep_half == "1.self_attn.o_proj"
    both = suggest.suggest(base, known, file_bytes(base) + room + sizes[0, "mlp.up_proj"])
    assert both.keep_half == "1.self_attn.o_proj,0.mlp.up_proj" or both.keep_half == "0.mlp.up_proj,1.self_attn.o_proj"
    assert suggest.suggest(base, known, file_bytes(base)).keep_half == ""
    assert suggest.suggest(base, known, 1 << 40).keep_half == "0-1"
    with pytest.raises(InputError, match="takes .* already"):
        suggest.suggest(base, known, file_bytes(base) - 1)


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--text", "nowhere.txt"], "--text nowhere.txt: No such file"),
        (["--size", "much"], "--size much: an amount of memory"),
        (["--size", "1MB"], "the file takes"),
        (["-q", "bf16"], "quantize bf16: it is 4 or 8 bits whose cost is measured"),
        (["-g", "96"], "q_group_size 96 does not divide"),
        (["--window", "1"], "--window 1: a token is foretold from one before it"),
    ],
)
def test_mistakes_are_one_sentence(argv, says, model, tmp_path, capsys):
    assert main(["quality", "-m", str(model), "-o", str(tmp_path / "o"), "--tokens", "8", *argv]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("ERROR: ") and err.count("\n") == 1 and not out


def test_without_a_tokenizer(checkpoint, tmp_path, capsys):
    assert main(["quality", "-m", str(checkpoint("qwen2")), "-o", str(tmp_path / "o")]) == 2
    assert "no tokenizer that can be read" in capsys.readouterr().err


def test_amounts_are_those_of_other_options():
    assert amount("300MB") == 300_000_000


def test_windows(model):
    found = windows(model, WORDS, 70, 32, 1024)
    assert [len(ids) for ids in found.ids] == [32, 32, 6] and found.lead == 0 and found.expected == 67
    assert np.concatenate(found.ids).tolist() == windows(model, WORDS, 70, 70, 1024).ids[0].tolist()
    with pytest.raises(InputError, match="the model has 200"):
        windows(model, WORDS, 70, 32, 200)


PEAK = """
import resource, sys
from llmconv.cli.main import main
assert main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_layers(tmp_path):
    """Three layers more are 130 MB of float32 more, if they stayed."""
    sizes: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_attention_heads": 8,
        "vocab_size": 512,
    }
    peaks = []
    for layers in (2, 5):
        model = tiny_tokenizer.write(make(tmp_path / str(layers), "qwen2", num_hidden_layers=layers, **sizes))
        argv = ["quality", "-m", str(model), "-o", str(tmp_path / f"o{layers}"), "--tokens", "64", "--window", "32"]
        ran = subprocess.run([sys.executable, "-c", PEAK, *argv], capture_output=True, text=True, check=True)
        peaks.append(int(ran.stdout.splitlines()[-1]) / 1e3)
    assert math.fabs(peaks[1] - peaks[0]) < 40, peaks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3_text", "qwen2_moe", "lfm2", "phi3", "granite", "qwen3_5"])
def test_other_families(name, tmp_path):
    """The original's figure is that of the whole class, whatever the layers are; and all of it goes through."""
    model = tiny_tokenizer.write(make_family(tmp_path, name))
    found = quality.measure(job(model, tmp_path / "out", q_group_size=32), Wish(tokens=60, window=30, size=1 << 40))
    if name != "qwen3_5":  # whose auto class ties no head
        assert found.variants[0].perplexity == pytest.approx(theirs(model, None, 60, 30)[0], rel=1e-3)
    assert found.suggestion and found.suggestion.proof
    assert found.suggestion.proof.perplexity == pytest.approx(found.variants[1].perplexity, rel=1e-6)
