"""`llmconv bench`: estimates whose every cycle the test has made, and those of a real build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmconv.cli.main import main
from llmconv.report.bench import bench

CLOCK = 0.9e9


def net(name: str, cycles: int | None, layer: int | None = None, kind: str = "", rows: int = 16, past: int = 0, **more):
    history = [{"name": f"history_{x}", "shape": [1, past, 2, 64]} for x in "kv"] if past else []
    inputs = [{"name": "input_states", "shape": [1, rows, 64]}, *history]
    return {
        "name": name,
        "kind": kind or name,
        "layer": layer,
        "cycles": cycles,
        "inputs": inputs,
        "stage_of": None,
    } | more


HEADS = [
    net("embedding", 100),
    net("lm_head", 4000, rows=0),
    net("embedding_cache", 10, rows=1),
]


def told(out: Path, *nets: dict, device: dict | None = None, **job: Any) -> Path:
    out.mkdir(exist_ok=True)
    about = {"chip": "bm1688", "quantize": "w4bf16", "seq_length": 64, "batch": 1} | job
    manifest = {"bmodel": "x.bmodel", "job": about, "nets": [*HEADS, *nets], "device": device or {}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def cycles(out: Path) -> list[tuple[str, int, int | None]]:
    return [(s.step, s.tokens, None if s.seconds is None else round(s.seconds * CLOCK)) for s in bench(out).steps]


def caches(past: int, each: int, **more: Any) -> list[dict]:
    return [net(f"block_cache_{n}", each, n, "block_cache", 1, past, **more) for n in range(2)]


def test_prefill_and_decode_with_stages(tmp_path):
    blocks = [net(f"block_{n}", 5000, n, "block") for n in range(2)]
    stages = [net(f"block_cache_{n}_1", 600, n, "block_cache", 1, 16, stage_of=f"block_cache_{n}") for n in range(2)]
    out = told(tmp_path / "out", *blocks, *caches(64, 900), *stages)
    assert cycles(out) == [("prefill", 16, 14100), ("decode", 64, 5810), ("decode", 16, 5210)]
    first, decode, _ = bench(out).steps
    assert first.tokens_per_second == pytest.approx(16 * CLOCK / 14100)
    assert decode.tokens_per_second == pytest.approx(CLOCK / 5810)
    assert decode.shares == pytest.approx({"output head": 4000 / 5810, "layers": 1800 / 5810, "token table": 10 / 5810})


def test_prefill_behind_a_history_and_layers_without_one(tmp_path):
    """Layer 1 keeps a state that does not grow: it reads on with its one net."""
    nets = [
        net("block_0", 5000, 0, "block"),
        net("block_1", 3000, 1, "block"),
        net("block_kv_0", 7000, 0, "block_kv", past=32),
        net("block_cache_0", 900, 0, "block_cache", 1, 64),
        net("block_cache_1", 50, 1, "block_cache", 1),
    ]
    out = told(tmp_path / "out", *nets)
    once, again = 100 + 8000, 100 + 10000
    expected = [("prefill", 16, once + 4000), ("prefill", 32, once + again + 4000)]
    expected += [("prefill", 48, once + 2 * again + 4000), ("decode", 64, 10 + 950 + 4000)]
    assert cycles(out) == expected
    assert [step.launches for step in bench(out).steps] == [1, 2, 3, 1]


def test_several_sequences_share_the_blocks(tmp_path):
    out = told(tmp_path / "out", *caches(64, 900), batch=4)
    (step,) = bench(out).steps
    assert round(step.seconds * CLOCK) == 4 * 4010 + 1800
    assert step.tokens_per_second == pytest.approx(4 * CLOCK / (4 * 4010 + 1800))


def test_what_the_compiler_does_not_estimate(tmp_path, capsys):
    blocks = [net(f"block_{n}", None, n, "block") for n in range(2)]
    out = told(tmp_path / "out", *blocks, *caches(64, 900), net("greedy_head", None, rows=0))
    assert cycles(out) == [("prefill", 16, None), ("decode", 64, 5810)]
    assert main(["bench", str(out)]) == 0
    shown = capsys.readouterr().out
    assert (
        "not estimated: dynamic nets" in shown
        and "no estimate from the compiler: block_0, block_1, greedy_head" in shown
    )
    assert "not a measurement" in shown and "time of a prefill is that to the first token" in shown


def test_a_tower(tmp_path):
    out = told(tmp_path / "out", net("vit", 90000), device={"image": {"tokens": 256}})
    assert cycles(out) == [("image", 256, 90000)]


@pytest.mark.parametrize(
    "content", [None, "", "[]", '{"job": {"chip": "z80"}}', '{"job": {"chip": "bm1688"}, "nets": [1]}']
)
def test_what_is_no_build_is_wrong_input(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert main(["bench", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.compiler
def test_builds_of_several_chips(checkpoint, convert, capsys):
    outs = [convert(checkpoint("qwen2"), seq=64, chip=chip) for chip in ("cv186x", "bm1684x")]
    capsys.readouterr()
    assert main(["bench", *map(str, outs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["chip"] for one in found] == ["cv186x", "bm1684x"] and "not a measurement" in found[0]["estimate"]
    for one, out in zip(found, outs):
        nets = json.loads((out / "manifest.json").read_text())["nets"]
        taken = {net["name"]: net["cycles"] / one["clock"] for net in nets}
        decode = ["embedding_cache", "lm_head", *(name for name in taken if name.startswith("block_cache_"))]
        prefill = [
            "embedding",
            "lm_head",
            *(name for name in taken if name.startswith("block_") and name not in decode),
        ]
        expected = [pytest.approx(sum(taken[name] for name in names)) for names in (prefill, decode)]
        assert [step["seconds"] for step in one["steps"]] == expected
        assert all(sum(step["shares"].values()) == pytest.approx(1) for step in one["steps"])
