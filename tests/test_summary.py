"""What is told at the end of a conversion, and before it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llmconv.cli.main import main
from llmconv.engine import events
from llmconv.report.summary import Summary
from llmconv.request.output import Layout
from llmconv.words import count, program


def net(name: str, cycles: int | None, coefficients: str = "", size: int = 0, layer: int | None = None) -> dict:
    """A net of a manifest."""
    kind = name if layer is None else name.removesuffix(f"_{layer}")
    shape = [1, 64, 256] if kind in ("block", "embedding") else [1, 1, 256]
    history = [{"name": "history_k", "shape": [1, 128, 2, 64]}] if kind == "block_cache" else []
    inputs = [{"name": "input", "shape": shape}, *history]
    return {
        "name": name, "kind": kind, "layer": layer, "cycles": cycles, "inputs": inputs,
        "stage_of": None, "coefficients": coefficients, "coefficient_bytes": size,
    }  # fmt: skip


MANIFEST = {
    "job": {"chip": "bm1688", "max_input_length": 64, "max_pixels": "", "seq_length": 128, "batch": 1},
    "bmodel": "x.bmodel",
    "bytes": 12_000_000,
    "sha256": "abc",
    "weights": 4_000_000,
    "nets": [
        net("embedding", 900, "embedding.coeff", 2_000_000),
        net("embedding_cache", 900, "embedding.coeff", 2_000_000),
        net("block_cache_0", 900_000, "block_cache_0.coeff", 1_000_000, 0),
        net("block_0", 9_000_000, "block_cache_0.coeff", 1_000_000, 0),
        net("lm_head", 899_100),
    ],
}
END = events.RunFinished(0, 2, 1, 1, 0, 0, 75.0, "", 42.0, 1_500_000_000, 90_000_000, "")


def finished(name: str, event: str, **values) -> events.TaskFinished:
    return events.TaskFinished(name, event, "", 1.0, 1.0, 0, values, False)


@pytest.fixture
def layout(tmp_path) -> Layout:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    return Layout(tmp_path)


def tell(layout: Layout, progress: str = "plain") -> Summary:
    summary = Summary(layout, progress)
    for event in (
        finished("compile:embedding", "built", how="compiled"), finished("compile:block_0", "built", how="stamped"),
        finished("compile:block_cache_0", "cached", how="compiled"), events.TaskUnchanged("compile:lm_head"), finished("manifest", "built"),
    ):  # fmt: skip
        summary(event)
    summary(END)
    return summary


def test_the_end_tells_what_came_of_it(layout, capsys):
    tell(layout)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(layout.out / "x.bmodel")
    assert lines[1:-1] == [
        "  size      12.0 MB; 6.00 bits per weight (3.0 MB for 4.0 M weights)",
        "  nets      4: 1 compiled, 1 from the cache, 1 stamped, 1 up to date",
        "  took      1 min 15 s, 42 s of CPU; peak 1.5 GB of memory, 90.0 MB of disk",
        "  estimate  prefill of 64 tokens in 11.00 ms, then 500 tokens/s (2.00 ms each)",
        "            by the compiler's count of cycles for bm1688; not measured",
        "  verified  not yet",
    ]
    assert lines[-1].endswith(f"llmconv verify {layout.out}") and all(len(line) <= 80 for line in lines[1:-1])


def test_the_end_estimates_an_image(layout, capsys):
    """At its largest size; the language model's nets may be dynamic and have none."""
    blocks = [one | {"cycles": None} for one in MANIFEST["nets"]]
    made = MANIFEST | {
        "job": MANIFEST["job"] | {"max_pixels": "672,448"},
        "device": {"image": {"width": 672, "height": 448, "patches": 1536, "tokens": 384}},
        "nets": [net("vit", 1_800_000), *blocks],
    }
    layout.manifest.write_text(json.dumps(made))
    tell(layout)
    lines = capsys.readouterr().out.splitlines()
    assert lines[4:6] == [
        "  estimate  an image of 672 x 448 pixels in 2.00 ms",
        "            by the compiler's count of cycles for bm1688; not measured",
    ]


def test_what_was_verified_is_told_if_it_was_this_file(layout, capsys):
    output = {"output": "k_cache", "relative_l2": 0.0031, "relative_l2_limit": 0.01}
    states = output | {"output": "states", "relative_l2": 0.0088}
    # of a quantised net, against the checkpoint's own weights
    original = states | {"relative_l2": 0.24, "relative_l2_limit": None}
    # farther from its limit
    chain = {"name": "all blocks", "outputs": [output | {"relative_l2": 0.0148, "relative_l2_limit": 0.03}]}
    nets = [{"name": "block_0", "outputs": [output, states, original]}, {"name": "lm_head", "outputs": []}, chain]
    layout.verified.write_text(json.dumps({"ok": True, "sha256": "abc", "nets": nets}))
    tell(layout)
    out = capsys.readouterr().out
    assert (
        "verified  right, worst relative L2 0.0088 (block_0 states, limit 0.0100)" in out
        and "SHA256SUMS to the device" in out
    )
    layout.verified.write_text(json.dumps({"ok": False, "sha256": "abc", "nets": nets}))
    tell(layout)
    assert "verified  WRONG, worst" in capsys.readouterr().out
    lost = {"name": "block_1", "outputs": [output | {"relative_l2": None}]}  # not a number
    layout.verified.write_text(json.dumps({"ok": False, "sha256": "abc", "nets": [*nets, lost]}))
    tell(layout)
    assert "verified  WRONG, worst relative L2 not finite (block_1 k_cache, limit 0.0100)" in capsys.readouterr().out
    layout.verified.write_text(json.dumps({"ok": True, "sha256": "of another file", "nets": nets}))
    tell(layout)
    assert "verified  not yet" in capsys.readouterr().out


def test_json_and_quiet(layout, capsys):
    tell(layout, "json")
    told = json.loads(capsys.readouterr().out)
    assert (
        told["event"] == "Summary"
        and told["bits_per_weight"] == 6.0
        and told["estimated_seconds"] == {"image": None, "sound": None, "prefill": 0.011, "decode": 0.002}
    )
    tell(layout, "quiet")
    assert capsys.readouterr().out == ""


def test_numbers_and_programs(monkeypatch):
    assert [count(n) for n in (999, 4_100_000, 494_000_000, 7_600_000_000)] == ["999", "4.1 M", "494 M", "7.6 B"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert Path(program("llmconv")).name == "llmconv" and program("llmconv") != "llmconv", (
        "not on the path: by its place"
    )
    assert program("no-such-program") == "no-such-program"


def plan(capsys, *argv: str) -> str:
    assert main(["plan", *argv]) == 0
    return capsys.readouterr().out


def test_a_plan_can_be_read(checkpoint, llmconv_env, tmp_path, capsys):
    told = plan(
        capsys,
        "-m",
        str(checkpoint("qwen2", num_hidden_layers=3, seed=23)),
        "-s",
        "64",
        "-q",
        "w4bf16",
        "-o",
        str(tmp_path / "out"),
    )
    rows = {line.split("  ")[0]: " ".join(line.split()) for line in told.splitlines()}
    assert (
        rows["model"].startswith("model qwen2, 3 layers, 2.")
        and "w4bf16: layers in 4 bits, groups of 64; the rest bf16" in rows["quantisation"]
    )
    assert "block 3 2 compiled, 1 stamped shared" in " ".join(told.split()) and "together 9 " in " ".join(told.split())
    assert (
        sum(map(int, re.findall(r"\d+", rows["tasks"]))) == 28  # to run, and programs that the cache may have
        and "MB of 17.2 GB (estimate)" in rows["device memory"]
        and "WARNING" not in told
    )
    assert {"time", "disk", "RAM"} <= rows.keys() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("chip, more, says", [
    ("cv186x", ("-s", "65536", "-b", "128"), "WARNING: this cannot fit: boards with a cv186x have up to 8.6 GB (sold as 8 GB). It fits with -s"),
    ("bm1684x", ("-s", "65536", "-b", "218"), "WARNING: this hardly fits"),
    ("bm1684x", ("-s", "65536", "-b", "128"), ""),
])  # fmt: skip
def test_a_plan_warns_when_the_device_is_too_small(checkpoint, llmconv_env, tmp_path, capsys, chip, more, says):
    """A KV cache of 2 x 65536 x 128 x 2 bytes for each layer and sequence: 64 MiB for both layers of one."""
    told = plan(
        capsys,
        "-m",
        str(checkpoint("qwen2", max_position_embeddings=65536)),
        "-c",
        chip,
        *more,
        "-o",
        str(tmp_path / "out"),
        "--max_input_length",
        "64",
    )
    warned = [line for line in told.splitlines() if line.startswith("WARNING")]
    assert (len(warned) == 1 and says in warned[0]) if says else not warned, told


def test_rates_are_of_all_sequences(layout, capsys):
    """Blocks decode a token of each at once, the other nets one after another."""
    layout.manifest.write_text(json.dumps(MANIFEST | {"job": MANIFEST["job"] | {"batch": 2}}))
    tell(layout)
    # 3 ms for two tokens: 900000 cycles and twice 900000 of the table and the head, at 0.9 GHz
    assert "then 667 tokens/s (3.00 ms for 2)" in capsys.readouterr().out
