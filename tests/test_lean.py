"""Codegen with weights left out: the .bmodel is the one that it makes with all of them."""

from __future__ import annotations

from math import inf

import pytest

from llmconv import compiler as compiling
from llmconv import lean
from llmconv.compiler import Compiler
from llmconv.errors import ToolError
from llmconv.job import Job
from llmconv.plan import plan

CASES = (
    ("qwen2", "block_0", {}),
    ("qwen2", "block_cache_1", {"quantize": "f16"}),
    ("qwen2", "block_0", {"quantize": "w4bf16"}),
    ("qwen2", "block_1", {"quantize": "w8bf16", "chip": "bm1688"}),
    ("qwen2", "block_0", {"chip": "bm1688"}),
    ("qwen2", "block_cache_0", {"chip": "cv186x"}),
    ("qwen2", "block_0", {"lora_max_rank": 8}),
    ("qwen2_vl", "vit", {"max_pixels": "56,56"}),
)
pytestmark = pytest.mark.compiler


@pytest.fixture
def build(compiler, llmconv_env, checkpoint, vision_checkpoint, tmp_path, monkeypatch):
    """build(model, net, options, spared) -> .bmodel, compiled with as many weights left out as can be, or with all."""

    def run(model, name, options, spared):
        monkeypatch.setattr(compiling, "LEAN", 0 if spared else inf)
        monkeypatch.setattr(lean, "LARGE", 1 << 12)
        path = (vision_checkpoint if model == "qwen2_vl" else checkpoint)(model)
        made = plan(Job.create({"model": str(path), "seq": "64", "out": str(tmp_path / "out")} | {k: str(v) for k, v in options.items()}))
        net = next(net for net in made.nets if net.name == name)
        place = tmp_path / f"spared_{spared}"
        return Compiler(net.flags.to_dict(), place, tmp_path / "log").run(name, net.mlir, net.weights, made.checkpoint)

    return run


@pytest.mark.parametrize("model, net, options", CASES, ids=str)
def test_the_file_is_the_same(model, net, options, build, monkeypatch):
    left_out = []
    leave_out = lean.Lean.leave_out
    monkeypatch.setattr(lean.Lean, "leave_out", lambda self, *files: (leave_out(self, *files), left_out.extend(self._left_out.values())))
    whole, spared = build(model, net, options, False), build(model, net, options, True)
    assert whole.read_bytes() == spared.read_bytes()
    assert len(left_out) >= 2
    assert not any(path.exists() for path in spared.parent.rglob("*.npz")), "nothing is left behind"


def test_what_is_elsewhere_is_not_overwritten(build, monkeypatch):
    put_back = lean.Lean.put_back

    def moved(self, made):
        self._left_out = {offset + 64: names for offset, names in self._left_out.items()}
        put_back(self, made)

    monkeypatch.setattr(lean.Lean, "put_back", moved)
    with pytest.raises(ToolError, match="put something else in the place of"):
        build("qwen2", "block_0", {}, True)
