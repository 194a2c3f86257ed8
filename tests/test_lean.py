"""Codegen without weights: program and coefficients are those that it makes with them."""

from __future__ import annotations

from math import inf

import pytest
from checkpoints import SPLIT

from llmconv import forms
from llmconv.bmodel.split import keep, split
from llmconv.compiler import Compiler
from llmconv.errors import ToolError
from llmconv.job import Job
from llmconv.lean import Absent, Lean
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
    ("qwen2", "block_0", {"dynamic": 1}),
    ("qwen2", "block_kv_1", {"use_history_kv": 1, "quantize": "w4bf16", "chip": "cv186x"}),
    ("qwen2_vl", "vit", {"max_pixels": "56,56", "dynamic": 1, "chip": "bm1688"}),
    ("split", "block_0", {"num_device": 2}),
    ("split", "block_cache_1", {"num_device": 2, "quantize": "w4f16"}),
)
pytestmark = pytest.mark.compiler


@pytest.fixture
def build(compiler, llmconv_env, checkpoint, vision_checkpoint, tmp_path, monkeypatch):
    """build(model, net, options, lean) -> (the .bmodel of a net, its cycles), compiled with its weights in codegen or without."""

    def run(model, name, options, lean):
        monkeypatch.setattr(forms, "LEAN", 0 if lean else inf)
        path = vision_checkpoint(model) if model == "qwen2_vl" else checkpoint("qwen2", **SPLIT) if model == "split" else checkpoint(model)
        made = plan(Job.create({"model": str(path), "seq": "64", "out": str(tmp_path / "out")} | {k: str(v) for k, v in options.items()}))
        net = next(net for net in made.nets if net.name == name)
        made_by = Compiler(net.flags.to_dict(), tmp_path / f"lean_{lean}", tmp_path / "log")
        return made_by.run(name, net.mlir, net.weights, made.checkpoint), made_by.results[-1].cycles

    return run


@pytest.mark.parametrize("model, net, options", CASES, ids=str)
def test_program_and_coefficients_are_the_same(model, net, options, build, monkeypatch, tmp_path):
    asked = []
    leave_out = Lean.leave_out
    monkeypatch.setattr(Lean, "leave_out", lambda self, *files: (asked.append(net), leave_out(self, *files)))
    parts = []
    for lean in (False, True):
        made, cycles = build(model, net, options, lean)
        bare, coefficients = tmp_path / f"{lean}.bmodel", tmp_path / f"{lean}.coeff"
        coefficients.write_bytes(b"")
        taken = keep(made, bare, options["num_device"]) if "num_device" in options else split(made, bare, coefficients)
        parts.append([cycles, taken, bare.read_bytes() + coefficients.read_bytes()])
        assert not any(path.exists() for path in made.parent.rglob("*.npz")), "nothing is left behind"
    assert asked == [net] and parts[0] == parts[1]
    assert (cycles or "dynamic" in options or "use_history_kv" in options) and len(parts[0][2]) > 1 << 16


def test_a_net_that_is_not_understood_is_left_as_it_is(tmp_path):
    mlir, weights = tmp_path / "net.mlir", tmp_path / "weights.npz"
    weights.write_bytes(b"weights")

    def leave_out():
        source = tmp_path / "source.npz"
        source.touch()
        Lean(tmp_path, source).leave_out(mlir, weights)
        assert not source.exists()

    head = 'module @net attributes {module.coeff_addr = 4096 : i64, module.coeff_size = 8192 : i64\n#loc1 = loc("a")\n#loc2 = loc("b")\n'
    first = '"top.Weight"() {path = "p"} : () -> tensor<8xbf16, 4096 : i64> loc(#loc1)\n'
    fine = '"top.Weight"() {path = "p"} : () -> tensor<8xbf16, 8192 : i64> loc(#loc2)\n'
    for second in (fine.replace('{path = "p"} ', ""), fine.replace("8192", "4096"), fine.replace("8192", "512"), fine.replace("#loc2", "#loc3"), fine.replace("8xbf16, 8192 : i64", "8xbf16")):
        mlir.write_text(head + first + second)
        leave_out()
        assert mlir.read_text() == head + first + second and weights.read_bytes() == b"weights"
    mlir.write_text(head + first + fine)
    leave_out()
    assert mlir.read_text().count("inline_bytes") == 2 and (tmp_path / "lowered.npz").read_bytes() == b"weights"


def test_linears_without_values_that_lowering_changes_are_refused(tmp_path):
    mlir, weights = tmp_path / "net.mlir", tmp_path / "weights.npz"
    text = 'module @net attributes {module.coeff_addr = 4096 : i64, module.coeff_size = 4096 : i64\n#loc1 = loc("a")\n'
    text += '"top.Weight"() {inline_bytes = "", path = "p"} : () -> tensor<1x4x8xbf16, 4096 : i64> loc(#loc1)\n'

    def leave_out(text):
        mlir.write_text(text)
        for path in (tmp_path / "source.npz", weights):
            path.touch()
        Lean(tmp_path, tmp_path / "source.npz", {"a": Absent("4x8xbf16", lambda: [bytes(64)])}).leave_out(mlir, weights)

    leave_out(text)
    assert mlir.read_text().count("inline_bytes") == 1
    for other in (text.replace("4x8xbf16", "8x4xbf16"), text.replace("bf16", "f32"), text.replace('"a"', '"a_turned"'), text.replace('"p"', "")):
        with pytest.raises(ToolError, match="lowering changed linears that it was given without values"):
            leave_out(other)
