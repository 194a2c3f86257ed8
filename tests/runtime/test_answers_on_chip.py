"""`llmconv run` of real builds: on the chip simulator, and on what stands for a device, the simulator's own libraries."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tokenizer
from test_answers import SMALL, VOCAB, asked, expected, ran, text

from llmconv.chips import CHIPS
from llmconv.cli.main import main
from llmconv.simulator.library import link

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
CHIP, SEQ, MOST, PROMPT = "cv186x", 64, 6, "quick fox?"


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> Path:
    return tiny_tokenizer.write(checkpoint("qwen2", seed=9, **SMALL), size=VOCAB)


@pytest.mark.parametrize(
    "options", [{"dynamic": 1}, {"use_history_kv": 1, "chunk_length": 16, "do_sample": 1}], ids=str
)
def test_the_text_is_that_of_transformers(options, model, convert, capsys):
    """In the second, the prompt is read in chunks and the heads stand apart."""
    right = text(model, expected(model, asked(model, PROMPT), MOST))
    out = convert(model, seq=SEQ, chip=CHIP, **options)
    assert ran(capsys, "run", out, PROMPT, "--max_tokens", MOST) == right + "\n"
    if options.get("do_sample"):
        (out / "config" / "generation_config.json").write_text('{"top_k": 1}')
        assert ran(capsys, "run", out, PROMPT, "--max_tokens", MOST, "--do_sample") == right + "\n"


def test_a_device_is_driven_by_the_same_calls(compiler, model, convert, tmp_path, monkeypatch, capsys):
    """There the checkpoint is not."""
    model = Path(shutil.copytree(model, tmp_path / "model"))
    right = text(model, expected(model, asked(model, PROMPT), MOST))
    out = convert(model, seq=SEQ, chip=CHIP)
    shutil.rmtree(model)
    (tmp_path / "lib").mkdir()
    link(compiler.root, CHIPS[CHIP], tmp_path / "lib")
    monkeypatch.setenv("LIBSOPHON", str(tmp_path))
    monkeypatch.setattr("llmconv.runtime.opened.obtain", None)  # no simulator is needed
    assert ran(capsys, "run", out, PROMPT, "--max_tokens", MOST) == right + "\n"
    (tmp_path / "lib" / "libbmrt.so.1.0").unlink()
    assert main(["run", str(out), PROMPT]) == 2
    assert "holds no libbmrt.so" in capsys.readouterr().err
