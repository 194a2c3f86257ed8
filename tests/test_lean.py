"""Codegen without weights: program and coefficients are those that it makes with them."""

from __future__ import annotations

from math import inf

import pytest
from checkpoints import SPLIT
from plans import planned

from llmconv.bmodel.split import keep, split
from llmconv.compile import stand_ins
from llmconv.compile.compiler import Compiler
from llmconv.compile.records import Workplace
from llmconv.compile.without_weights import Absent, Lean
from llmconv.errors import ToolError
from llmconv.plan import forms

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
    """build(model, net, options, lean) -> (the .bmodel of a net, its cycles), compiled with its weights in codegen or
    without."""

    def run(model, name, options, lean):
        monkeypatch.setattr(forms, "LEAN", 0 if lean else inf)
        path = (
            vision_checkpoint(model)
            if model == "qwen2_vl"
            else checkpoint("qwen2", **SPLIT)
            if model == "split"
            else checkpoint(model)
        )
        made = planned(path, **options)
        net = next(net for net in made.nets if net.name == name)
        made_by = Compiler(net.flags, made.checkpoint, Workplace(tmp_path / f"lean_{lean}", tmp_path / "log"))
        return made_by.run(name, net.mlir, net.weights), made_by.cycles

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


CODES = (
    ("block_0", {"quantize": "w4bf16", "lora_max_rank": 8}),
    ("block_cache_1", {"quantize": "w8f16", "dynamic": 1}),
    ("block_0", {"quantize": "w8bf16", "chip": "cv186x", "q_group_size": 32}),
    ("block_cache_0", {"quantize": "w4f16", "chip": "cv186x", "symmetric": 1}),
)


@pytest.mark.parametrize("name, options", CODES, ids=str)
def test_codes_that_lowering_does_not_see_make_the_same_program(
    name, options, compiler, llmconv_env, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(forms, "LARGE", 0)
    made = planned(checkpoint("qwen2"), **options)
    net = next(net for net in made.nets if net.name == name)
    (form,), widened, programs, widen = forms.forms(net), [], [], Lean.widen
    assert form.kind == "packed"
    monkeypatch.setattr(
        Lean, "widen", lambda self, mlir: (widened.append("1xui8" in mlir.read_text()), widen(self, mlir))
    )
    for apart in (False, True):
        monkeypatch.setattr(forms, "APART", 0 if apart else 1 << 40)
        bare, place = tmp_path / f"{apart}.bmodel", Workplace(tmp_path / f"apart_{apart}", tmp_path / "log")
        made_by = Compiler(net.flags, made.checkpoint, place)
        stand_ins.program(name, form.text, made_by, bare)
        programs.append((bare.read_bytes(), made_by.cycles))
        assert not [
            path for path in made_by.scratch.rglob("*") if path.exists() and path.suffix in (".npz", ".coeff")
        ], "nothing is left behind"
    assert widened == [True] and programs[0] == programs[1]


def test_codes_are_named_where_they_are_and_where_they_are_multiplied(tmp_path):
    text = """    %1 = "top.Weight"() : () -> tensor<8x32xui8> loc(#loc1)
    %2 = "top.Weight"() : () -> tensor<8x32xui8> loc(#loc2)
    %5 = "top.A16MatMul"(%0, %1, %2, %2, %9) {weight_bits = 4 : i64} : (tensor<1x64xf32>, tensor<8x32xui8>, tensor<8x32xui8>, tensor<8x32xui8>, none) -> tensor<1x8xf32> loc(#loc3)
    %6 = "top.A16MatMul"(%0, %2, %1, %1, %9) {weight_bits = 4 : i64} : (tensor<1x64xf32>, tensor<8x32xui8>, tensor<8x32xui8>, tensor<8x32xui8>, none) -> tensor<1x8xf32> loc(#loc3)
#loc1 = loc("a.q")
#loc2 = loc("b.q")
"""
    lean = Lean(tmp_path, tmp_path / "weights.npz", {"a_weight": Absent("8x32xui8", lambda: [bytes(256)], "a.q")})
    first, second, third, *rest = lean.narrow(text).splitlines(keepends=True)
    assert (
        "<8x1xui8>" in first
        and "(tensor<1x64xf32>, tensor<8x1xui8>, tensor<8x32xui8>, tensor<8x32xui8>, none)" in third
    )
    assert [second, *rest] == [line for i, line in enumerate(text.splitlines(keepends=True)) if i not in (0, 2)]
    assert [(w.name, w.values.shape, w.dtype) for w in lean.stand_ins] == [("a.q", (8, 1), "ui8")]
    lowered = tmp_path / "net.mlir"
    lowered.write_text(lean.narrow(text).replace("top.A", "tpu.A").replace("a.q", "a_weight"))
    lean.widen(lowered)
    assert lowered.read_text() == text.replace("top.A", "tpu.A").replace("a.q", "a_weight").replace(
        '%1 = "top.Weight"()', '%1 = "top.Weight"() {inline_bytes = ""}'
    )


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
    for second in (
        fine.replace('{path = "p"} ', ""),
        fine.replace("8192", "4096"),
        fine.replace("8192", "512"),
        fine.replace("#loc2", "#loc3"),
        fine.replace("8xbf16, 8192 : i64", "8xbf16"),
    ):
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
    for other in (
        text.replace("4x8xbf16", "8x4xbf16"),
        text.replace("bf16", "f32"),
        text.replace('"a"', '"a_turned"'),
        text.replace('"p"', ""),
    ):
        with pytest.raises(ToolError, match="lowering changed linears that it was given without values"):
            leave_out(other)
