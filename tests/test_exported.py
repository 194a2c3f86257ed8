"""What travels as JSON between the plan and the workers comes out as it went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plans import planned

from llmconv.compile.records import NetFiles, NetTask, Outcome, Took, Workplace
from llmconv.plan import forms
from llmconv.plan.exported import Exported, Text
from llmconv.toolchain.flags import CompileFlags

OPTIONS = (
    ("apart", {"quantize": "bf16", "vocab_size": 9001}),
    ("packed", {"quantize": "w4bf16"}),
    ("hollow", {"quantize": "bf16", "lora_max_rank": 8, "use_history_kv": 1}),
    ("halved", {"quantize": "f16", "num_device": 3, "distribute_strategy": "pp"}),
)


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_exported(kind, options, checkpoint, tmp_path, monkeypatch):
    if kind in ("packed", "hollow"):
        monkeypatch.setattr(forms, "LARGE", 1)
    sizes = {"vocab_size": options["vocab_size"]} if "vocab_size" in options else {}
    given = {name: str(value) for name, value in options.items() if name not in sizes}
    model = checkpoint("qwen2", **sizes)
    made = planned(model, **given)
    kinds = set()
    for net in made.nets:
        exported = forms.exported(net)
        kinds |= {form.kind for form in exported.forms}
        assert Exported.from_json(through_json(exported.to_json())) == exported
        assert not forms.exported(net, stamp=False).forms
        for sample in forms.samples(net) if forms.form_of(net) in ("packed", "hollow") else ():
            assert Text.from_json(through_json(sample.to_json())) == sample
    assert kind in kinds


def files(place: Path, name: str, *more: str) -> NetFiles:
    return NetFiles(*(place / f"{name}.{ending}" for ending in ("bmodel", "coeff", "json", "run.json", *more)))


@pytest.mark.parametrize("stamped", [False, True])
def test_what_a_compile_is_given(stamped, tmp_path):
    others = {"template": files(tmp_path, "first", "io.json"), "owner": files(tmp_path, "owner")} if stamped else {}
    more = {"addresses": tmp_path / "io.json", "linears": tmp_path / "block_0", "places": {"a": "b"}} if stamped else {}
    paths = {name: tmp_path / name for name in ("model", "mlir", "weights")}
    place, flags = Workplace(tmp_path / "scratch", tmp_path / "log", stamped), CompileFlags("bm1688", "W4BF16", 2)
    task = NetTask(
        name="block_1_2", module="block_1", flags=flags, place=place, check=stamped, **paths, **others, **more
    )
    assert NetTask.from_json(through_json(task.to_json())) == task
    assert bool(task.beside) == stamped


def test_what_became_of_a_net(tmp_path):
    outcome = Outcome("stamped", "the program of block_0", None, 4096, "ab", "block_1.coeff", check="equal")
    made = files(tmp_path, "block_1")
    made.write(outcome, Took(1.5, 0.5, 10))
    assert made.read() == outcome and made.net == "block_1"
    assert json.loads(made.run.read_text()) == {"seconds": 1.5, "cpu_seconds": 0.5, "peak_rss": 10}
