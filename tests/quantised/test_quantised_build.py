"""Building from quantised checkpoints: stamped nets are those that the compiler makes, and a net is made again when its
own integers change."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bmodels import content, patched
from quantised_checkpoints import How, fp8
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.compiler
DEEP = {"num_hidden_layers": 4, "max_window_layers": 4}
CASES = {
    "gptq": ("gptq", How(4, 64), "qwen2", {}, {"chip": "bm1684x"}),
    "gptq, desc_act, 8 bits, two cores": ("gptq", How(8, 32, False, 1), "qwen2", {}, {"chip": "bm1688"}),
    "awq, f16": ("awq", How(4, 128), "qwen2", {"dtype": "float16"}, {"chip": "cv186x"}),
    "compressed-tensors by channel, LoRA": (
        "compressed",
        How(4, 0),
        "llama",
        {},
        {"chip": "bm1684x", "lora_max_rank": 8, "dynamic": 1},
    ),
    "v2, dequantised and quantised again": ("gptq", How(8, 64), "qwen2", {}, {"chip": "bm1684x", "quantize": "w4bf16"}),
}


def nets(out: Path) -> list[dict]:
    return json.loads((out / "manifest.json").read_text())["nets"]


def stamped_and_compiled(model: Path, convert, **options) -> tuple[Path, Path]:
    """Output directories with nets stamped where they can be, which are those of the middle layers, and with all
    compiled."""
    stamped, compiled = (convert(model, seq=32, no_stamp=n, **({"quantize": "auto"} | options)) for n in (0, 1))
    assert [n["name"] for n in nets(stamped) if n["how"] == "stamped"] == [
        n["name"] for n in nets(stamped) if n["layer"] in (1, 2)
    ]
    assert {n["how"] for n in nets(compiled)} == {"compiled"}
    return stamped, compiled


@pytest.mark.parametrize("case", CASES)
def test_stamped_nets_equal_compiled_ones(case, quantised, convert):
    method, how, name, changes, options = CASES[case]
    depth = DEEP if name == "qwen2" else {"num_hidden_layers": 4}
    stamped, compiled = stamped_and_compiled(quantised(method, how, name, options=depth | changes), convert, **options)
    assert content(stamped) == content(compiled)


APART = {
    "gptq, desc_act, 8 bits, cv186x": ("gptq", How(8, 32, False, 1), "qwen2", {}, {"chip": "cv186x", "dynamic": 1}),
    **{name: CASES[name] for name in ("compressed-tensors by channel, LoRA", "gptq", "awq, f16")},
}


@pytest.mark.parametrize(
    "case", [*list(APART)[:2], *(pytest.param(case, marks=pytest.mark.slow) for case in list(APART)[2:])]
)
def test_nets_compiled_without_their_codes_equal_those_compiled_with_them(case, quantised, convert, monkeypatch):
    method, how, name, changes, options = APART[case]
    model = quantised(method, how, name, options=(DEEP if name == "qwen2" else {"num_hidden_layers": 4}) | changes)
    compiled = convert(model, seq=32, no_stamp=1, quantize="auto", **options)
    monkeypatch.setattr("llmconv.plan.forms.CODED", 1)
    apart = convert(model, seq=32, quantize="auto", no_cache=1, **options)
    assert content(apart) == content(compiled)
    assert {n["name"] for n in nets(apart) if n["form"] == "hollow"} == {
        n["name"] for n in nets(apart) if n["layer"] in (0, 3)
    }
    (check,) = (apart / ".llmconv" / "checks").iterdir()
    checked = {
        re.search(r"layers\.(\d+)\..*?(\w+_proj)", one).groups() for one in json.loads(check.read_text())["weights"]
    }
    assert {layer for layer, _ in checked} == {"0"} and len(checked) == 4, (
        "q, k, up and down of one layer, which have other sizes, for all of them"
    )


def test_codes_that_differ_from_ours_are_left_to_the_compiler(quantised, convert, monkeypatch):
    model = quantised("gptq", How(4, 64), "qwen2", options=DEEP)
    right = convert(model, seq=32, no_stamp=1, quantize="auto", no_cache=1)
    monkeypatch.setattr("llmconv.plan.forms.CODED", 1)
    code = "import llmconv.coefficients.blob as c\nwhole = c._codes\nc._codes = lambda *a: ((q ^ 1, s, z) for q, s, z in whole(*a))\n"
    monkeypatch.setenv("PYTHONPATH", patched(right.parent, code))
    mended = convert(model, seq=32, quantize="auto", no_cache=1)
    assert content(mended) == content(right)
    made = [n for n in nets(mended) if n["layer"] is not None]
    assert {n["how"] for n in made} == {"compiled"} and all("differ from the compiler's" in n["why"] for n in made)


def test_fp8(base, tmp_path, convert):
    stamped, compiled = stamped_and_compiled(fp8(base("qwen2", **DEEP), tmp_path / "fp8"), convert, chip="bm1688")
    assert content(stamped) == content(compiled)


def test_layers_of_other_bits_are_compiled_by_themselves(quantised, convert):
    """Nets of one structure share a program; a layer with an 8-bit matrix is not of the others' structure."""
    odd = "model.layers.2.mlp.down_proj"

    def pick(path):
        return None if "lm_head" in path else How(8, 64) if path == odd else How(4, 64)

    model = quantised("auto-round", How(4, 64), "qwen2", pick, DEEP, extra_config={odd: {"bits": 8}})
    made = {net["name"]: net["how"] for net in nets(convert(model, seq=32, quantize="auto", chip="bm1688"))}
    assert (
        made["block_1"] == made["block_cache_1"] == "stamped" and made["block_2"] == made["block_cache_2"] == "compiled"
    )


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_layer_is_made_again_when_its_integers_change(part, quantised, convert, tmp_path):
    """Its own tensors are in a net's key, packed as they are; the others are left alone."""
    from llmconv import convert as conversion
    from llmconv.request.request import Request

    model = quantised("gptq", How(4, 64), "qwen2", options=DEEP | {"dtype": "float16"})
    out = convert(model, seq=32, quantize="auto", chip="bm1688")
    before = {net["name"]: net["coefficient_sha256"] for net in nets(out)}
    tensors = load_file(model / "model.safetensors")
    name = f"model.layers.1.mlp.up_proj.{part}"
    tensors[name] = tensors[name].copy()
    tensors[name].view(np.uint16 if part == "scales" else np.int32)[0, 0] ^= 1
    save_file(tensors, model / "model.safetensors")
    given = {"model": str(model), "out": str(out), "seq": "32", "quantize": "auto", "chip": "bm1688"}
    assert conversion.run(Request.create(given)) == 0
    after = {net["name"]: net["coefficient_sha256"] for net in nets(out)}
    assert {name for name in before if before[name] != after[name]} == {"block_1", "block_cache_1"}


def test_the_layout_of_every_group(compile_layer):
    """Byte for byte what the compiler stores, also for an input in another order."""
    for bits, group in ((4, 32), (4, 256), (8, 64), (8, 256)):
        for mixed in (0, 1):
            for found, right in compile_layer(How(bits, group, False, mixed)):
                assert found == right


@pytest.fixture
def compile_layer(compiler, tmp_path):
    from lower_samples import Compiler, ours
    from quantised_checkpoints import gptq, quantise

    from llmconv.blocks.packed import matmul
    from llmconv.checkpoint.files import Checkpoint
    from llmconv.checkpoint.quantised.base import Scheme
    from llmconv.checkpoint.quantised.gptq import linear
    from llmconv.top.graph import Graph

    (tmp_path / "compiled").mkdir()
    make = Compiler(compiler, tmp_path / "compiled", tmp_path / "jit")

    def run(how: How) -> Iterator[tuple[bytes, bytes]]:
        """Our coefficients of a layer, and the compiler's, for two chips."""
        weight = np.random.default_rng(0).standard_normal((192, 512)).astype(np.float32)
        place = tmp_path / str(how)
        place.mkdir()
        tensors = gptq(quantise(weight, how), "m.0.p")
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, place / "model.safetensors")
        checkpoint = Checkpoint.open(place)
        g = Graph("net", platform="LLM_QUANTIZED")
        layer = linear(checkpoint, "m.0.p", Scheme(how.bits, how.group), True)
        g.output(matmul(g, "m.0.p", layer, (512, 192), g.input("x", (1, 8, 512)), g.none))
        for chip, cores in (("bm1684x", 1), ("bm1688", 2)):
            data, table, flags = make(g, checkpoint, chip=chip, num_core=cores)
            yield b"".join(ours(g, checkpoint, flags, table).parts()), data

    yield run
    shutil.rmtree(tmp_path / "compiled")
