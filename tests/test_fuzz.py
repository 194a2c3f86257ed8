"""Random damage to what others write: config.json, safetensors headers, indexes, adapters, quantisation, options.
Whatever comes in: a plan, or one sentence, in bounded time and memory. tests/fuzzing.py says how to make more cases.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from checkpoints import headers, published
from fuzz_models import KINDS, description, fields, start
from fuzzing import bounded, cases, damaged
from hypothesis import given
from hypothesis import strategies as st

from llmconv.checkpoint.directory import INDEX, WHOLE
from llmconv.checkpoint.fields import LEGAL
from llmconv.errors import InputError
from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job
from llmconv.request.options import OPTIONS


def job(model: Path, **options: object) -> Job:
    return Job.create(
        {"model": str(model), "seq": "64", "out": str(model) + ".out"} | {k: str(v) for k, v in options.items()}
    )


SECTIONS: dict[str, Any] = {
    "llama": {},
    "qwen2": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True, "dynamic": {"-:.*down.*": {}, "+:.*q_proj": {"bits": 8}}}},
    "qwen3": {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 64, "strategy": "group", "symmetric": True, "type": "int"}}}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Checkpoints that have headers alone: plans read no more."""
    found = {}
    for name in SECTIONS:
        config, tensors = published(name, num_hidden_layers=2)
        found[name] = headers(tmp_path_factory.mktemp("fuzz") / name, config, tensors), config
    return found


@pytest.mark.parametrize("name", SECTIONS)
@given(data=st.data())
@cases(300)
def test_config_json(name, models, data):
    model, config = models[name]
    extra = SECTIONS[name] if data.draw(st.booleans()) else {}
    change = data.draw(damaged(config | extra))
    (model / "config.json").write_text(json.dumps(change), encoding="utf-8", errors="surrogatepass")
    made = bounded(lambda: plan(job(model)), InputError)
    if not isinstance(made, InputError):  # a plan that was made is one that can be written and read
        assert made.nets and all(net.mlir for net in made.nets[:2])
        assert "nan" not in made.nets[-1].mlir.lower() and "inf " not in made.nets[-1].mlir.lower()


STARTS: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "fuzz_starts.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of every kind."""
    place = tmp_path_factory.mktemp("starts")
    return {kind: start(place / kind, told) for kind, told in STARTS.items()}


def test_every_declared_field_is_damaged_somewhere():
    found = set().union(*(fields(told["config"]) for told in STARTS.values()))
    assert set(LEGAL) <= found, "a field without a start: add it to fuzz_models"
    assert set(STARTS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_plans(kind, starts):
    """Without damage: else nothing behind the first fault would ever be tried."""
    assert plan(job(starts[kind])).nets


@pytest.mark.slow
def test_starts_are_the_checkpoints_of_the_tests(request, tmp_path):
    """pytest tests/test_fuzz.py -k starts_are --update-golden writes them again."""
    found = {kind: description(kind, tmp_path / kind) for kind in KINDS}
    if request.config.getoption("--update-golden"):
        lines = (f"{json.dumps(kind)}: {json.dumps(told)}" for kind, told in found.items())
        (Path(__file__).parent / "golden" / "fuzz_starts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        assert found == STARTS


@given(data=st.data())
@cases(600)
def test_config_json_of_every_kind(starts, data):
    """config.json of decoders with towers, states, experts and codes."""
    kind = data.draw(st.sampled_from(sorted(starts)))
    (starts[kind] / "config.json").write_text(
        json.dumps(data.draw(damaged(STARTS[kind]["config"]))), encoding="utf-8", errors="surrogatepass"
    )
    made = bounded(lambda: plan(job(starts[kind])), InputError)
    if not isinstance(made, InputError):
        assert made.nets and all(net.mlir for net in (made.nets[0], made.nets[-1]))
        assert not any(word in net.mlir.lower() for net in made.nets[-2:] for word in ("nan", "inf "))


@pytest.fixture(scope="module")
def headed(tmp_path_factory) -> tuple[Path, dict, int]:
    """A checkpoint, the table in its shard's header, and the bytes behind that."""
    config, tensors = published("llama", num_hidden_layers=2)
    model = headers(tmp_path_factory.mktemp("fuzz") / "headed", config, tensors)
    with open(model / WHOLE, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        table = json.loads(file.read(size))
    return model, table, (model / WHOLE).stat().st_size - 8 - size


@given(data=st.data())
@cases(400)
def test_safetensors_headers(headed, data):
    model, table, behind = headed
    text = json.dumps(data.draw(damaged(table))).encode("utf-8", "surrogatepass")
    text = data.draw(st.sampled_from([text, text, text, text[:-1], text + b" ", b"", text[: len(text) // 2]]))
    told = data.draw(st.sampled_from([len(text)] * 6 + [0, 1, len(text) + 1, 1 << 62, (1 << 64) - 1]))
    with open(model / WHOLE, "wb") as file:
        file.write(struct.pack("<Q", told) + text)
        file.truncate(8 + len(text) + max(0, behind + data.draw(st.sampled_from([0, 0, 0, 0, 1, -1, -behind]))))
    assert isinstance(bounded(lambda: plan(job(model)), InputError), (Plan, InputError))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """A checkpoint of two shards, and the files beside them."""
    config, tensors = published("llama", num_hidden_layers=2)
    place, tensors = tmp_path_factory.mktemp("fuzz") / "indexed", list(tensors)
    parts = {"a.safetensors": tensors[::2], "b.safetensors": tensors[1::2]}
    for file, part in parts.items():
        headers(place, config, part, file)
    table = {name: file for file, part in parts.items() for name, *_ in part}
    adapter = {"base_model_name_or_path": "org/base", "peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}
    return place, {INDEX: {"metadata": {"total_size": 1}, "weight_map": table}, "adapter_config.json": adapter}


@given(data=st.data())
@cases(200)
def test_indexes_and_adapters(indexed, data):
    place, beside = indexed
    broken = data.draw(st.sampled_from([INDEX, "adapter_config.json"]))
    for name, value in beside.items():
        text = json.dumps(data.draw(damaged(value)) if name == broken else value)
        (place / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    made = bounded(lambda: plan(job(place)), InputError)
    # an adapter beside whole weights is told of, whatever is in its file
    assert isinstance(made, Plan) or (broken == INDEX and isinstance(made, InputError)), made


NUMBERS = st.one_of(
    st.integers(-2, 200),
    st.integers(),
    st.sampled_from(["", "1e3", "0x10", "nan", " 7 ", "9" * 5000, "\uff17", "-0"]),
    st.text(max_size=5),
)


@given(data=st.data())
@cases(500)
def test_options(models, data):
    model, config = models["llama"]
    (model / "config.json").write_text(json.dumps(config))
    chosen = data.draw(
        st.lists(
            st.sampled_from([o for o in OPTIONS if o.name not in ("model_path", "out_dir")]), max_size=5, unique=True
        )
    )
    options = {}
    for option in chosen:
        words = st.sampled_from(option.choices) if option.choices else NUMBERS
        options[option.name] = data.draw(
            words | st.text(max_size=6) if option.kind != "flag" else st.sampled_from(["1", "0", "maybe"])
        )
    assert isinstance(bounded(lambda: plan(job(model, **options)), InputError), (Plan, InputError))
