"""Broken and hostile content: one sentence that names the file and the field, before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import family_checkpoints
import pytest
from checkpoints import edit_config, edit_tensors
from plans import refused

from llmconv.checkpoint.files import read_header
from llmconv.errors import InputError

WHOLE, HUGE = "model.safetensors", 10**400


def nested(depth: int) -> list:
    made: list = []
    for _ in range(depth):
        made = [made]
    return made


# family -> fields that it cannot have, each for its kind: numbers, lists, names, objects
NAN, INFINITE = float("nan"), float("inf")
ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.0] * 32}
FIELDS: dict[str, list[dict]] = {
    "qwen2": [
        *({name: value} for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
          for value in (0, -1, True, "256", 256.0, NAN, [256], {}, HUGE, 10**9)),
        *({"rms_norm_eps": value} for value in (NAN, INFINITE, -1, 2, HUGE, "small", [1e-6])),
        *({"rope_theta": value} for value in (NAN, 0, -5, INFINITE, HUGE, "1e6", {})),
        *({"partial_rotary_factor": value} for value in (INFINITE, NAN, "x", [1], 0, -0.5, 2)),
        *({"hidden_act": value} for value in ([], {}, 0, 7, True, ["silu"], "silu\n", "x" * 100000)),
        *({"rope_scaling": value} for value in (3, [1], "yarn", nested(40))),
        *({"rope_scaling": {**ROPE, "rope_type": value}} for value in (["a"], {}, 5, nested(20), "spiral")),
        *({"rope_scaling": {**ROPE, name: value}}
          for name in ("factor", "attention_factor", "beta_fast", "original_max_position_embeddings", "rope_theta")
          for value in (NAN, 0, -1, INFINITE, HUGE, "4", [4])),
        {"rope_scaling": {"type": "linear", "factor": 0}},
        *({"rope_scaling": {**LONG, "long_factor": value}} for value in ([NAN] * 32, [0] * 32, [1.0] * 31, {}, 5, [nested(30)] * 32, "x" * 32)),
        *({"layer_types": value} for value in ({"a": 1}, ["x"], ["x", "y"], 3, "full_attention", [["full_attention"]] * 2, ["full_attention"] * 3)),
        *({"quantization_config": {"quant_method": value}} for value in (["gptq"], {}, 4, "x" * 10000)),
        *({"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": group}}
          for bits, group in ((4.0, 64), (HUGE, 64), (True, 64), (4, HUGE), (4, 64.0), (4, NAN), ([4], 64))),
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": [1]}},
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [True, HUGE]}},
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"targets": 3, "weights": {"num_bits": 4, "group_size": 64}}}}},
        {"num_hidden_layers": 1000},
        {"tie_word_embeddings": "yes"},
        {"sliding_window": NAN, "use_sliding_window": True},
        {"architectures": [nested(70)]},
        {"model_type": ["qwen2"], "architectures": 5},
        {"anything": nested(200)},
    ],
    "gemma3": [
        {"text_config": {"layer_types": ["x"]}},
        {"text_config": {"query_pre_attn_scalar": 0}},
        {"text_config": {"hidden_size": 1}},
        {"text_config": {"sliding_window_pattern": 10**6}},
        {"text_config": nested(70)},
    ],
    "minicpm": [{name: value} for name in ("dim_model_base", "scale_emb", "scale_depth") for value in (NAN, 0.0, 1e400, -INFINITE, HUGE, "1")],
    "qwen2_moe": [
        *({"mlp_only_layers": value} for value in (3, "1", [1.5], [-1], [[1]], {"1": 1})),
        *({name: value} for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size") for value in (0, 10**6, HUGE, NAN, "8")),
        {"num_experts": 60000},
    ],
    "qwen3_5_moe": [
        *({"text_config": {name: value}} for name in ("num_experts", "num_experts_per_tok") for value in (0, 9000, HUGE, NAN, "8")),
        *({"text_config": {"mlp_only_layers": value}} for value in (3, [0], {"1": 1})),
    ],
    "smollm3": [{"no_rope_layers": value} for value in (3, [1], [1, 2], ["1", "0"], {})],
    "chatglm": [{name: value} for name in ("layernorm_epsilon", "rope_ratio", "kv_channels", "num_layers") for value in (NAN, -1, HUGE, "x")],
}  # fmt: skip
SIGHTS: list[dict] = [
    *({name: value} for name in ("hidden_size", "depth", "num_heads", "patch_size") for value in (0, HUGE, NAN, "x", -3)),
    {"depth": 10**6},
    {"tokens_per_second": NAN},
    {"hidden_act": ["silu"]},
    {"fullatt_block_indexes": nested(30)},
    {"fullatt_block_indexes": "07"},
]  # fmt: skip


@pytest.mark.parametrize("family", FIELDS)
def test_fields_that_cannot_be(family, checkpoint, tmp_path):
    make = family_checkpoints.make
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "m")) if family == "qwen2" else make(tmp_path, family)
    config = (model / "config.json").read_text()
    for change in FIELDS[family]:
        data = json.loads(config)
        for name, value in change.items():
            old = data.get(name)
            data[name] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
        (model / "config.json").write_text(json.dumps(data))
        line = refused(model)
        assert "config.json" in line, (change, line)


def test_fields_of_a_tower_that_cannot_be(vision_checkpoint, tmp_path):
    model = Path(shutil.copytree(vision_checkpoint("qwen2_5_vl"), tmp_path / "m"))
    sight = json.loads((model / "config.json").read_text())["vision_config"]
    for change in SIGHTS:
        edit_config(model, vision_config=sight | change)
        line = refused(model)
        assert "config.json" in line, (change, line)
    edit_config(model, vision_config=sight, rope_scaling={"type": "mrope", "mrope_section": [NAN, 1, 2]})
    assert "mrope_section" in refused(model)


@pytest.mark.parametrize("text, word", [
    ("[" * 100000, "nested"),
    ('{"model_type": ' + "[" * 900 + "]" * 900 + "}", "nested"),
    ("{" + ", ".join(f'"{n}": {n}' for n in range(600000)) + "}", "more than the"),
    ("\ufeff{}", "not valid JSON"),
    (b"\xff\xfe{}", "not valid JSON"),
    ('{"model_type": ' + "9" * 5000 + "}", "not valid JSON"),
    ("null", "names no model_type"),
    ("", "not valid JSON"),
], ids=range(8))  # fmt: skip
def test_a_config_that_is_none(text, word, checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "m"))
    (model / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused(model)
    assert word in line and "config.json" in line


def header(file: Path, change: Callable[[dict], object], more: bytes = b"") -> None:
    """Write a safetensors file again with its header changed (in place, or to what is returned), and bytes behind."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + size])
    table = change(table) or table
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :] + more)


NORM = "model.norm.weight"


def entry(**fields: object) -> Callable[[dict], None]:
    return lambda table: table[NORM].update(fields)


def overlapping(table: dict) -> None:
    """One tensor lies where another one does."""
    other = table["model.layers.0.input_layernorm.weight"]
    table[NORM]["data_offsets"] = other["data_offsets"]


def gap(table: dict) -> None:
    last = max(table.values(), key=lambda one: one.get("data_offsets", [0, 0])[1])
    del table[next(name for name, one in table.items() if one is last)]


HEADERS: dict[str, Callable[[dict], object]] = {
    **{f"offsets {value!r:.20}": entry(data_offsets=value) for value in (None, ["0", "512"], {}, [0], [0, 512, 1], [0.0, 512.0], [512, 0], [-512, 0], [0, HUGE], [True, 512], 7)},
    **{f"dtype {value!r:.20}": entry(dtype=value) for value in ([], {}, None, "F7", 3, "F32", "BF16\n")},
    **{f"shape {value!r:.20}": entry(shape=value) for value in (None, [INFINITE], [256.0], [-256], [HUGE], ["256"], [2, 128.5], 256, [1] * 5000 + [256], [True] * 256)},
    "an entry of another kind": lambda table: table.update({NORM: [1, 2]}),
    "overlapping": overlapping,
    "a gap": gap,
    "a list": lambda table: b"[]",
    "nested": lambda table: b"[" * 5000,
    "nested within": lambda table: json.dumps({"a": nested(500)}).encode(),
    "no JSON": lambda table: b"{]",
    "not UTF-8": lambda table: b'{"\xff": 1}',
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_cannot_be(case, checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "m"))
    header(model / WHOLE, HEADERS[case])
    assert f"{WHOLE} is not a whole safetensors file" in refused(model)


def test_bytes_behind_the_last_tensor(checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "m"))
    header(model / WHOLE, lambda table: None, b"more")
    assert "4 bytes behind the last tensor" in refused(model)


def test_headers_are_as_strict_as_the_librarys(checkpoint, tmp_path):
    """safetensors itself opens no file that is refused here for its layout."""
    from safetensors import SafetensorError, safe_open

    for case in ("overlapping", "a gap", "offsets [512, 0]"):
        file = tmp_path / "f.safetensors"
        shutil.copy(checkpoint("qwen2") / WHOLE, file)
        header(file, HEADERS[case])
        with pytest.raises(SafetensorError):
            safe_open(file, "pt")
        with pytest.raises(InputError):
            list(read_header(file))


def test_a_matrix_with_one_dimension(checkpoint, tmp_path):
    for name in (
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "lm_head.weight",
        "model.embed_tokens.weight",
    ):
        model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / name))
        edit_tensors(model, lambda t, name=name: t.update({name: t[name].flatten()}))
        assert name in refused(model)


@pytest.mark.parametrize("index, word", [
    ({"weight_map": {"a": "../model.safetensors"}}, "names the shard '../model.safetensors'"),
    ({"weight_map": {"a": "/etc/passwd"}}, "names the shard"),
    ({"weight_map": {"a": "x" * 5000}}, "names the shard"),
    ({"weight_map": {"a": "a\0b"}}, "names the shard"),
    ({"weight_map": {"a": "\x1b[2Jx.safetensors"}}, r"names the shard '\\x1b[2J"),
    ({"weight_map": {"a": 7}}, "no table of file names"),
    ({"weight_map": {}}, "no table of file names"),
    ({"weight_map": nested(100)}, "nested"),
    ([], "no table of file names"),
])  # fmt: skip
def test_indexes_that_cannot_be(index, word, checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint("qwen2", shards=2), tmp_path / "m"))
    (model / f"{WHOLE}.index.json").write_text(json.dumps(index))
    line = refused(model)
    assert word in line and f"{WHOLE}.index.json" in line


def test_patterns_that_never_end(checkpoint, tmp_path):
    """A regular expression of config.json is not run for ever."""
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "m"))
    edit_tensors(model, lambda t: t.update({"model.layers.0.mlp.up_proj.qweight": t[NORM].int().reshape(16, 16)}))
    for pattern in ("(.+)+x", "((.*)*)*y", "(m+|o*)+z", ".*.*.*.*.*.*x", "(a|b){2,}" + "x*" * 9, "(?:.{1,}){5,}z"):
        section = {"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": {pattern: {"bits": 8}}}
        edit_config(model, quantization_config=section)
        assert "may take for ever" in refused(model), pattern
