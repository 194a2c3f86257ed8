"""Stamping against compiling every net: the two .bmodel files are the same, net by net."""

from __future__ import annotations

import json
import re
import shutil
import struct

import pytest
from bmodels import content, patched
from checkpoints import SPLIT, edit_tensors
from plans import planned

from llmconv import tasks
from llmconv.bmodel.read import BModel
from llmconv.coefficients.errors import NotCovered
from llmconv.compile.net import first_outcome
from llmconv.compile.records import Refused
from llmconv.convert import COMPILING
from llmconv.engine.graph import load
from llmconv.errors import ToolError
from llmconv.plan.exported import Form, Text

CASES = {
    "w4 on two cores": {"quantize": "w4bf16", "chip": "bm1688"},
    "LoRA, dynamic": {"quantize": "bf16", "chip": "cv186x", "lora_max_rank": 8, "dynamic": 1},
    "w8 symmetric, history in both forms": {"quantize": "w8f16", "symmetric": 1, "use_history_kv": 1},
    "w4, decode stages": {"quantize": "w4bf16", "chunk_length": 16},
    "f16": {"quantize": "f16"},
}
MORE = {f"{q} {c} {s} {extra}": {"quantize": q, "chip": c, "symmetric": s, **({extra: 1} if extra else {})}
        for q in ("bf16", "f16", "w8bf16", "w4bf16", "w8f16", "w4f16") for c in ("bm1684x", "bm1688", "cv186x") for s in (0, 1) for extra in ("", "dynamic", "share_prompt")
        if s == 0 or q.startswith("w")}  # fmt: skip


@pytest.mark.compiler
@pytest.mark.parametrize("case", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_stamped_nets_equal_compiled_ones(case, checkpoint, convert):
    model = checkpoint("qwen2", num_hidden_layers=4, tie_word_embeddings=True)
    stamped, compiled = (convert(model, seq=64, no_stamp=n, **(CASES | MORE)[case]) for n in (0, 1))
    assert content(stamped) == content(compiled)
    made = json.loads((stamped / "manifest.json").read_text())["nets"]
    middle = [n["name"] for n in made if n["layer"] in (1, 2)]
    assert middle and [n["name"] for n in made if n["how"] == "stamped"] == middle
    assert {n["how"] for n in json.loads((compiled / "manifest.json").read_text())["nets"]} == {"compiled"}


@pytest.mark.compiler
def test_decode_stages_use_the_addresses_of_the_first(checkpoint, convert):
    out = convert(checkpoint("qwen2", num_hidden_layers=1), seq=64, chunk_length=16)
    (file,) = out.glob("*.bmodel")
    (net,) = (net for net in BModel.read(file).tree["net"] if net["name"] == "block_cache_0")
    first, *others = (
        {"memory": (s["io_addr"], s["io_size"])} | {t["name"]: t["device_addr"] for t in s["input_tensor"]}
        for s in net["parameter"]
    )
    assert others == [first, first]


@pytest.mark.compiler
@pytest.mark.parametrize("large", [1 << 23, 1], ids=["whole", "packed"])
def test_programs_serve_other_checkpoints_of_their_structure(large, checkpoint, convert, monkeypatch, tmp_path):
    """The second one brings nothing before the compiler, and its nets are right."""
    monkeypatch.setenv("LLMCONV_CACHE", str(shared := tmp_path / "cache"))
    monkeypatch.setattr("llmconv.plan.forms.LARGE", large)
    one, other = (checkpoint("qwen2", num_hidden_layers=3, seed=seed) for seed in (61, 62))
    given = {"seq": 64, "quantize": "w4bf16", "chip": "cv186x"}
    convert(one, **given)
    assert any(shared.iterdir())
    out = convert(other, **given)
    ran = [json.loads(line) for line in (out / ".llmconv" / "events.jsonl").read_text().splitlines()]
    hows = {e["name"]: e["how"] for e in ran if e["event"] == "TaskFinished"}
    compiled = {name for name, how in hows.items() if name.startswith(("program:", "check:")) and how == "built"}
    programs = {name for name in hows if name.startswith("program:")}
    assert not compiled and {"program:block_0", "program:block_cache_2"} <= programs
    assert content(out) == content(convert(other, no_stamp=1, **given))


@pytest.mark.compiler
@pytest.mark.parametrize("quantize", ["w4bf16", "bf16"])
def test_programs_are_those_of_weights_that_do_nothing(quantize, checkpoint, convert, tmp_path):
    """Norms of ones and biases of zeros, which the compiler could leave out: it does not look at them."""

    def plain(tensors):
        found = [name for name in tensors if "norm" in name or name.endswith("bias")]
        assert len(found) == 3 * 5 + 1
        for name in found:
            tensors[name].fill_("norm" in name)

    model = edit_tensors(shutil.copytree(checkpoint("qwen2", num_hidden_layers=3, seed=63), tmp_path / "model"), plain)
    given = {"seq": 64, "quantize": quantize, "chip": "cv186x"}
    stamped, compiled = (convert(model, no_stamp=n, **given) for n in (0, 1))
    assert content(stamped) == content(compiled)
    assert "stamped" in {n["how"] for n in json.loads((stamped / "manifest.json").read_text())["nets"]}


TABLES = {
    "bm1684x": {"chip": "bm1684x", "quantize": "w4bf16"},
    "f16": {"chip": "bm1684x", "quantize": "f16"},
    "bm1688, logits": {"chip": "bm1688", "quantize": "bf16", "do_sample": 1},
    "one core, f16": {"chip": "bm1688", "num_core": 1, "quantize": "w4f16"},
    "cv186x, LoRA": {"chip": "cv186x", "quantize": "bf16", "lora_max_rank": 8},
}


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("tied", "vocab"),
    [(False, 9001), *(pytest.param(t, v, marks=pytest.mark.slow) for t, v in ((True, 9001), (True, 8192)))],
)
@pytest.mark.parametrize("case", TABLES)
def test_nets_compiled_without_their_table_equal_those_compiled_with_it(case, tied, vocab, checkpoint, convert):
    model = checkpoint(
        "qwen2", num_hidden_layers=1, vocab_size=vocab, hidden_size=128, intermediate_size=128, tie_word_embeddings=tied
    )
    stamped, compiled = (convert(model, seq=32, graph="vendor", no_stamp=n, **TABLES[case]) for n in (0, 1))
    assert content(stamped) == content(compiled)
    made = {n["name"]: n for n in json.loads((stamped / "manifest.json").read_text())["nets"]}
    assert {name for name, net in made.items() if net["form"] == "apart"} == {"embedding", "embedding_cache", "lm_head"}


PACKED = {
    "bm1684x": {"quantize": "w4bf16", "chunk_length": 16},
    "two cores, symmetric": {"chip": "bm1688", "quantize": "w4f16", "symmetric": 1},
    "cv186x, w8, LoRA": {"chip": "cv186x", "quantize": "w8bf16", "lora_max_rank": 8},
    "dynamic, history": {"quantize": "w8f16", "dynamic": 1, "share_prompt": 1},
    "dynamic, two cores": {"chip": "bm1688", "quantize": "w4bf16", "dynamic": 1},
}


@pytest.mark.compiler
@pytest.mark.parametrize("case", PACKED)
def test_blocks_compiled_with_stand_ins_equal_those_that_the_compiler_quantises(case, checkpoint, convert, monkeypatch):
    model = checkpoint("qwen2", num_hidden_layers=3)
    compiled = convert(model, seq=64, no_stamp=1, **PACKED[case])
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    stamped = convert(model, seq=64, no_cache=1, **PACKED[case])
    assert content(stamped) == content(compiled)
    made = json.loads((stamped / "manifest.json").read_text())["nets"]
    templates = {n["name"] for n in made if n["layer"] in (0, 2)}
    assert {n["name"] for n in made if n["form"] == "packed"} == templates
    files = [path for path in (stamped / ".llmconv" / "checks").iterdir() if path.stem != "lm_head"]
    checked = [name.removeprefix("model.layers.") for file in files for name in json.loads(file.read_text())["weights"]]
    first = "gate_proj" if "LoRA" in case else "up_proj"  # whichever the graph has first
    sizes = {"q_proj", "k_proj", first, "down_proj"}  # o as q, v as k, and the other one
    assert sorted(name.split(".")[2] for name in checked) == sorted(sizes) and {name[0] for name in checked} == {"0"}


PHASES = ("check", "compile")


def test_workers_start_with_what_the_first_tasks_of_a_conversion_call(checkpoint, monkeypatch):
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    made = planned(checkpoint("qwen2"), quantize="w4bf16")
    nodes = load(tasks.graph(made), ["convert"]).nodes.values()
    calls = {node.action.call.partition(":")[0] for node in nodes if node.action and node.action.phase in PHASES}
    assert calls == set(COMPILING)


HOLLOW = {
    "bf16, stages": ("qwen2", {"chunk_length": 16}),
    "f16, two cores, LoRA": ("qwen2", {"quantize": "f16", "chip": "bm1688", "lora_max_rank": 8}),
    "tower, dynamic, f16": ("qwen2_vl", {"max_pixels": "112,112", "quantize": "f16", "dynamic": 1, "chip": "bm1688"}),
    "dynamic, cv186x": ("qwen2", {"chip": "cv186x", "dynamic": 1}),
    "tower": ("qwen2_5_vl", {"max_pixels": "112,112"}),
}


@pytest.mark.compiler
@pytest.mark.parametrize(
    "case", [*list(HOLLOW)[:3], *(pytest.param(case, marks=pytest.mark.slow) for case in list(HOLLOW)[3:])]
)
def test_nets_compiled_without_their_linears_equal_those_compiled_with_them(
    case, checkpoint, vision_checkpoint, convert, monkeypatch
):
    name, options = HOLLOW[case]
    model = vision_checkpoint(name) if "vl" in name else checkpoint(name, num_hidden_layers=3)
    compiled = convert(model, seq=64, no_stamp=1, **{"quantize": "bf16", **options})
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    stamped = convert(model, seq=64, no_cache=1, **{"quantize": "bf16", **options})
    assert content(stamped) == content(compiled)
    made = {n["name"]: n for n in json.loads((stamped / "manifest.json").read_text())["nets"]}
    hollow = {
        n["name"] for n in made.values() if n["how"] == "compiled" and (n["layer"] is not None or n["name"] == "vit")
    }
    assert {n["name"] for n in made.values() if n["form"] == "hollow"} >= hollow > set()


DEVICES = {
    "bf16": {"quantize": "bf16"},
    "w4f16, symmetric": {"quantize": "w4f16", "symmetric": 1, "vocab_size": 9001},
    "w4, four": {"quantize": "w4bf16", "q_group_size": 32, "num_device": 4},
    "f16": {"quantize": "f16"},
    "w4": {"quantize": "w4bf16"},
    "w4, groups of 32, prefix": {"quantize": "w4bf16", "q_group_size": 32, "share_prompt": 1},
}


@pytest.mark.compiler
@pytest.mark.parametrize(
    "case", [*list(DEVICES)[:3], *(pytest.param(case, marks=pytest.mark.slow) for case in list(DEVICES)[3:])]
)
def test_blocks_of_several_devices_in_cheaper_forms_equal_those_in_float32(case, checkpoint, convert, monkeypatch):
    options = {"num_device": 2, **DEVICES[case]}
    model = checkpoint(
        "qwen2",
        num_hidden_layers=2,
        **SPLIT | {"intermediate_size": 8448, "vocab_size": options.pop("vocab_size", 256)},
    )
    compiled = convert(model, seq=64, no_stamp=1, **options)
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    cheaper = convert(model, seq=64, no_cache=1, **options)
    assert content(cheaper) == content(compiled)
    made = {n["name"]: n for n in json.loads((cheaper / "manifest.json").read_text())["nets"]}
    head = made["lm_head"]
    assert head["form"] == ("hollow" if "vocab_size" in DEVICES[case] else "")
    made = {name: n for name, n in made.items() if n["layer"] is not None}
    codes = "compiled from codes of ours, which samples of its linears showed to be right"
    assert {(n["form"], n["why"]) for n in made.values()} == {
        ("packed", codes)
        if "w4" in options["quantize"]
        else ("", "compiled for a part for each device, which is not stamped")
    }


@pytest.mark.compiler
def test_a_block_of_several_devices_whose_weights_cannot_be_coded_is_compiled_as_it_is(
    checkpoint, convert, monkeypatch
):
    model = checkpoint("qwen2", num_hidden_layers=1, seed=7, **SPLIT)
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    first, _ = json.loads(data[8 : 8 + size])["model.layers.0.mlp.up_proj.weight"]["data_offsets"]
    data[8 + size + first : 8 + size + first + 256] = struct.pack("<128H", *[0x0100] * 128)  # next to denormal: 2^-125
    file.write_bytes(data)
    compiled = convert(model, seq=64, no_stamp=1, num_device=2, symmetric=1, quantize="w4bf16")
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    mended = convert(model, seq=64, no_cache=1, num_device=2, symmetric=1, quantize="w4bf16")
    assert content(mended) == content(compiled)
    made = json.loads((mended / "manifest.json").read_text())["nets"]
    assert all(n["why"].startswith("compiled with all its weights: ") for n in made if n["layer"] is not None)


@pytest.mark.compiler
@pytest.mark.parametrize("quantize", ["bf16", "w4bf16"])
def test_denormal_weights_are_rounded_as_the_compiler_does(quantize, checkpoint, convert, monkeypatch):
    model = checkpoint("qwen2", num_hidden_layers=1, seed=41)
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    tensors = json.loads(data[8 : 8 + size])
    for name in (
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.embed_tokens.weight",
    ):
        first, _ = tensors[name]["data_offsets"]
        struct.pack_into("<6H", data, 8 + size + first, 0x0001, 0x807F, 0x007F, 0x8000, 0x0080, 0x8080)
    file.write_bytes(data)
    stamped, compiled = (convert(model, seq=32, quantize=quantize, no_stamp=n) for n in (0, 1))
    assert content(stamped) == content(compiled)
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    stamped = convert(model, seq=32, quantize=quantize, no_cache=1)
    assert content(stamped) == content(compiled)
    forms = {n["form"] for n in json.loads((stamped / "manifest.json").read_text())["nets"] if n["layer"] is not None}
    assert forms == {"hollow" if quantize == "bf16" else "packed"}


@pytest.mark.compiler
@pytest.mark.parametrize(("quantize", "function", "code"), [
    ("w4bf16", "quantize", "lambda *a: (lambda q, s, z: (q, s ^ 1, z))(*whole(*a))"),
    ("bf16", "half_bits", "lambda *a: whole(*a) & 0xFFFE"),
], ids=["packed", "hollow"])  # fmt: skip
def test_a_linear_that_differs_from_our_coefficients_is_left_to_the_compiler(
    quantize, function, code, checkpoint, convert, monkeypatch
):
    """With wrong scales or a wrong rounding in llmconv.coefficients each check fails, the compiler gets every block as
    it is, those too that were to be stamped, and the result is right."""
    model = checkpoint("qwen2", num_hidden_layers=3)
    right = convert(model, seq=32, quantize=quantize, no_stamp=1, no_cache=1)
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    monkeypatch.setenv(
        "PYTHONPATH",
        patched(right.parent, f"import llmconv.coefficients.blob as c\nwhole = c.{function}\nc.{function} = {code}\n"),
    )
    mended = convert(model, seq=32, quantize=quantize, no_cache=1)
    assert content(mended) == content(right)
    made = [n for n in json.loads((mended / "manifest.json").read_text())["nets"] if n["layer"] is not None]
    assert all(
        re.match("compiled with all its weights: our coefficients for .* differ from the compiler's", n["why"])
        and not n["form"]
        for n in made
    )
    assert {n["how"] for n in made} == {"compiled"} and {n["layer"] for n in made} == {0, 1, 2}


@pytest.mark.compiler
def test_a_hollow_program_is_refused_for_what_differs_around_its_linears(checkpoint, convert, monkeypatch):
    """Of one bit in what the compiler made of a norm. The nets then get programs with all their weights."""
    model = checkpoint("qwen2", num_hidden_layers=3)
    given = {"seq": 32, "quantize": "bf16", "chip": "cv186x", "no_cache": 1}
    right = convert(model, no_stamp=1, **given)
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    monkeypatch.setenv("PYTHONPATH", patched(right.parent, """
import llmconv.compile.without_weights as w
whole = w.Lean.present
w.Lean.present = lambda self: ((at, bytes([stored[0] ^ 1]) + stored[1:]) for at, stored in whole(self))
"""))  # fmt: skip
    mended = convert(model, **given)
    assert content(mended) == content(right)
    made = [n for n in json.loads((mended / "manifest.json").read_text())["nets"] if n["layer"] in (0, 2)]
    assert {(n["form"], n["why"]) for n in made} == {
        ("", "compiled as it is, because our coefficients around its linears differ from the compiler's")
    }


@pytest.mark.compiler
def test_a_template_that_differs_from_our_coefficients_is_not_stamped(checkpoint, convert, monkeypatch, capfd):
    """With a wrong rounding in llmconv.coefficients the self-check fails, every net is compiled, and the result is
    right all the same."""
    model = checkpoint("qwen2", num_hidden_layers=4)
    right = convert(model, seq=32, no_stamp=1, no_cache=1)
    monkeypatch.setenv(
        "PYTHONPATH",
        patched(
            right.parent,
            "import llmconv.coefficients.blob as c\nwhole = c.half_bits\nc.half_bits = lambda *a, **k: whole(*a, **k) & 0xFFFE\n",
        ),
    )
    wrong = convert(model, seq=32, no_cache=1)
    assert content(wrong) == content(right)
    made = json.loads((wrong / "manifest.json").read_text())["nets"]
    assert {n["how"] for n in made} == {"compiled"}
    assert any("differ from the compiler's" in n["why"] for n in made)


class _Build:
    """One whose compiler fails on the first form."""

    def __init__(self, error: ToolError):
        self.error, self.asked = error, []

    def outcome(self, form: Form, why: str) -> tuple[str, str]:
        self.asked.append(form.text.mlir)
        if form.text.mlir == "cheap":
            raise self.error
        return form.text.mlir, why


FORMS = [Form("hollow", Text("cheap")), Form("", Text("whole"))]


def test_a_form_that_the_compiler_refuses_is_followed_by_the_net_and_told():
    build = _Build(ToolError("net block_0: the compiler died of SIGABRT", "arr.word_size"))
    assert first_outcome(build, FORMS) == (
        "whole",
        "compiled as it is, because the compiler fails on a cheaper form: arr.word_size",
    )


@pytest.mark.parametrize(
    ("kind", "told"), [("packed", "compiled with all its weights: "), ("halved", "compiled as it is, because ")]
)
@pytest.mark.parametrize("refusal", [Refused, NotCovered])
def test_a_form_that_is_of_no_use_is_followed_by_the_net_and_told(kind, told, refusal):
    build, reason = (
        _Build(refusal("a reason")),
        "llmconv does not compute a reason" if refusal is NotCovered else "a reason",
    )
    assert first_outcome(build, [Form(kind, Text("cheap")), FORMS[1]], "before") == ("whole", told + reason)


def test_the_last_form_has_no_other_behind_it():
    build = _Build(ToolError("net block_0: the compiler died of SIGABRT", "arr.word_size"))
    with pytest.raises(ToolError, match="SIGABRT"):
        first_outcome(build, FORMS[:1])


def test_a_killed_compiler_is_not_followed_by_a_form_that_needs_more():
    build = _Build(ToolError("net block_0: the compiler died of SIGKILL", "probably out of memory"))
    with pytest.raises(ToolError, match="SIGKILL"):
        first_outcome(build, FORMS)
    assert build.asked == ["cheap"]
