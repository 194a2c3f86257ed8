"""Real models, `./run real`: SmolLM2 135M (Q4_1) and Gemma 3 270M (Q4_K_M), converted from their GGUF files, proved on
the chip simulator, and for SmolLM2 the words of an answer, which are transformers' own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from real_models import GEMMA3, SMOLLM2, RealModel

import llmconv
from llmconv.plan.plan import Plan
from llmconv.runtime import manifest
from llmconv.runtime.tokenizer import Tokenizer
from llmconv.user_cache import cache_dir
from llmconv.verify.gguf_file import GgufFile

pytestmark = [pytest.mark.slow, pytest.mark.compiler, pytest.mark.simulator]
KEPT = cache_dir() / "real"  # before tests have caches of their own
CHIPS = ("cv186x", "bm1688", "bm1684x")
SEQ = {"cv186x": 64, "bm1688": 64, "bm1684x": 32}
# a text to go on with, and a question in the chat template
PROMPTS = (("The capital of France is", True, 4), ("What is the capital of France?", False, 10))


def fetched(model: RealModel) -> Path:
    KEPT.mkdir(parents=True, exist_ok=True)
    return model.file(KEPT)


def layers(model: RealModel) -> list[str]:
    """The nets of the first, the middle and the last layer."""
    found = (0, model.layers // 2, model.layers - 1)
    return [f"{kind}_{layer}" for layer in found for kind in ("block", "block_cache")]


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("quantize", ["bf16", "w4bf16"])
@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3], ids=lambda model: model.name)
def test_blocks_are_right(model, quantize, chip, llmconv_env, tmp_path):
    # of Gemma, whose weights are of 4 to 6 bits already, 4 bits in groups of 64 cost more than verification allows
    groups: dict[str, Any] = {"q_group_size": 32} if quantize == "w4bf16" else {}
    made = llmconv.convert(fetched(model), SEQ[chip], tmp_path, quantize=quantize, chip=chip, **groups)
    assert made.bmodel is not None
    size = made.bmodel.stat().st_size / 1e6
    say(f"{made.bmodel.name}: {size:.1f} MB in {made.seconds:.0f} s")
    found = llmconv.verify(tmp_path, nets=layers(model))
    nets = found.record["nets"]
    assert [net["name"] for net in nets] == layers(model) and all(net["ok"] for net in nets)
    cost = [net["relative_l2_original"] for net in nets if net["relative_l2_original"] is not None]
    told = f"; {max(cost):.3f} from the weights before 4 bits" if cost else ""
    worst = max(net["relative_l2"] for net in nets)
    say(f"{len(nets)} nets right in {found.seconds:.0f} s, relative L2 {worst:.4f} at most{told}")


def test_words_are_those_of_transformers(llmconv_env, tmp_path):
    llmconv.convert(fetched(SMOLLM2), 64, tmp_path, quantize="bf16", chip="bm1688")
    own = Own(manifest.told(tmp_path).plan(), tmp_path / "config")
    for prompt, plain, most in PROMPTS:
        start = time.monotonic()
        words = ["run", *["--plain"] * plain, "--on", "simulator", "--max_tokens", str(most), str(tmp_path), prompt]
        command = [sys.executable, "-m", "llmconv.cli.main", *words]
        ours = subprocess.run(command, capture_output=True, text=True, env=llmconv_env)
        assert ours.returncode == 0, ours.stderr
        say(f"{prompt!r}: {ours.stdout!r} in {time.monotonic() - start:.0f} s on the simulator")
        assert ours.stdout == own.answer(prompt, plain, most) + "\n"
        assert "Paris" in ours.stdout


class Own:
    """transformers' class in float32, with the values that the gguf package reads."""

    def __init__(self, plan: Plan, config: Path):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self.tokenizer, source = Tokenizer(config), GgufFile.of(plan)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config), dtype=torch.float32)
        values = {name: torch.from_numpy(source.float32(name).copy()) for name, _ in model.named_parameters()}
        model.load_state_dict(values, strict=False)  # a tied head is no parameter of its own
        self.model = model.eval()

    def answer(self, text: str, plain: bool, most: int) -> str:
        """The words behind a prompt, the best token every time."""
        import torch

        given = self.tokenizer.plain(text) if plain else self.tokenizer.chat([{"role": "user", "content": text}])
        ids = torch.from_numpy(given)[None]
        with torch.inference_mode():
            found = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
        return self.tokenizer.text(found[0, ids.shape[1] :].tolist())
