"""What fits into a device: lengths that do while the next ones do not, and advice that was tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import headers, published

from llmconv.cli.main import main
from llmconv.plan import fit
from llmconv.plan.fit import STEP, changes, largest_input, largest_seq, needed
from llmconv.plan.plan import plan
from llmconv.request.job import Job

MB = 1 << 20
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 8192, "max_position_embeddings": 16384}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Qwen2 that has headers alone, of 46 MB."""
    return headers(tmp_path_factory.mktemp("wide") / "model", *published("qwen2", **WIDE))


def job(model: Path, **options: object) -> Job:
    given = {"model": model, "seq": 16384, "out": model.parent / "out"} | options
    return Job.create({name: str(value) for name, value in given.items()})


@pytest.mark.parametrize("options", [
    {}, {"max_input_length": 512}, {"use_block_with_kv": 1}, {"use_history_kv": 1, "chunk_length": 256}, {"batch": 4, "max_input_length": 256},
    {"chunk_length": 256}, {"quantize": "w4bf16"}, {"num_device": 3, "distribute_strategy": "pp"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("limit", [110 * MB, 160 * MB, 400 * MB])
def test_the_longest_sequence(model, options, limit):
    asked = job(model, **options)
    made = largest_seq(asked, limit)
    assert made is not None and needed(made) <= limit and made.job.seq_length % STEP == 0
    longer = made.job.seq_length + STEP
    assert longer > 16384 or needed(plan(asked.forced({"seq_length": longer}))) > limit


def test_no_more_positions_than_the_model_has(model):
    assert largest_seq(job(model), 1 << 50).job.seq_length == 16384


def test_nothing_fits(model):
    assert largest_seq(job(model), 30 * MB) is None


@pytest.mark.parametrize("options", [{}, {"use_block_with_kv": 1}], ids=str)
def test_the_longest_prefill(model, options):
    asked, limit = job(model, seq=8192, **options), 200 * MB
    made = largest_input(asked, limit)
    assert needed(made) <= limit
    assert needed(plan(asked.forced({"max_input_length": made.job.max_input_length + STEP}))) > limit


@pytest.mark.parametrize("options, limit, told", [
    ({"seq": 8192}, 200 * MB, ["--max_input_length", "-s"]),
    ({"seq": 8192, "max_input_length": 8192}, 160 * MB, ["--max_input_length"]),
    ({"seq": 512}, 80 * MB, ["-q w4bf16", "--num_device"]),
    ({"seq": 512, "quantize": "w4bf16"}, 52 * MB, ["-s", "--num_device"]),
], ids=str)  # fmt: skip
def test_advice_is_tried(model, options, limit, told):
    """Each piece of it, by itself, makes the job fit."""
    asked = job(model, **options)
    made = plan(asked)
    assert needed(made) > limit
    found = list(changes(asked, limit, made))
    assert {word for word in told if any(word in change.options for change in found)} == set(told), found
    for change in found:
        words = change.options.split()
        names = {"-s": "seq", "-q": "quantize"}
        given = {names.get(name, name.lstrip("-")): value for name, value in zip(words[::2], words[1::2])}
        assert needed(plan(job(model, **options | given))) <= limit, change.options


def test_the_command(model, capsys):
    out = ["-o", str(model.parent / "out")]
    assert main(["plan", "-m", str(model), "--fit", "120M", *out]) == 0
    told = capsys.readouterr().out
    length = largest_seq(job(model), 120 * 1000**2).job.seq_length
    assert (
        told.splitlines()[0]
        .split("  ")[-1]
        .strip()
        .startswith(f"-s {length} is the longest sequence that fits into 120.0 MB")
    )
    assert main(["plan", "-m", str(model), "--fit", *out]) == 0
    assert "no more than 16384 positions" in capsys.readouterr().out
    assert main(["plan", "-m", str(model), "--fit", "30M", *out]) == 2
    assert "no seq_length fits into 30.0 MB" in capsys.readouterr().err
    assert main(["plan", "-m", str(model), "--fit", "much", *out]) == 2


def test_few_plans_are_made(model, monkeypatch):
    """A plan of a large model takes a second."""
    count = []
    real = fit.plan
    monkeypatch.setattr(fit, "plan", lambda job, read: count.append(job) or real(job, read))
    largest_seq(job(model), 400 * MB)
    assert len(count) <= 12
