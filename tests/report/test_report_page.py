"""The page of finished, failed, verified and unfinished builds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys

import pytest
from report_helpers import HOSTILE, Page, verified

from llmconv import report
from llmconv.cli.main import main
from llmconv.report import accuracy, sizes
from llmconv.report.facts import gather

pytestmark = pytest.mark.compiler
SECTIONS = {
    "verdict",
    "provenance",
    "build",
    "gantt",
    "memory",
    "sizes",
    "memory-of-the-device",
    "latency",
    "prefill",
    "decode",
    "nets",
    "files",
}


def nets(page: Page) -> list[str]:
    """The rows of the table of nets, as text."""
    table = page.source[page.source.index('id="nets"') :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</section>")], re.S)[1:]
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in rows]


def test_a_build(checkpoint, convert):
    out = convert(checkpoint("qwen2", num_hidden_layers=4), seq=64, quantize="w4bf16")
    page, manifest = Page.of(out), json.loads((out / "manifest.json").read_text())
    assert page.ids >= SECTIONS and not page.ids & {"verification", "errors"}
    (trace,) = (out / ".llmconv" / "traces").iterdir()
    assert f'href=".llmconv/traces/{trace.name}"' in page.source
    assert f"Built Not verified yet. The chip simulator can prove it right: llmconv verify {out}" in page.text
    for fact in (
        manifest["sha256"],
        manifest["checkpoint"]["sha256"],
        manifest["toolchain"]["digest"],
        manifest["bmodel"],
        "w4bf16",
        "not measurements",
    ):
        assert fact in page.text
    rows = nets(page)
    assert [row.split()[0] for row in rows] == [net["name"] for net in manifest["nets"]]
    for row, net in zip(rows, manifest["nets"]):
        assert f"--task compile:{net['name']}" in row and f"{net['cycles'] / 1e6:.3f} ms" in row
        assert row.split()[1] in (net["how"], "cached")
    assert {link for link in page.links if link.startswith("logs/block")} == {
        f"logs/{row.split()[0]}.log" for row in rows if row.split()[1] == "compiled" and row.startswith("block")
    }
    assert all((out / link).exists() for link in page.links)
    drawn = page.data
    spans = drawn["runs"][0]["spans"]
    last = max(s["end"] for s in spans)  # manifest and sums may end in the same tick
    assert {s["name"] for s in spans} >= {"merge", "manifest"} and any(s["critical"] for s in spans if s["end"] == last)
    cycles = {net["name"]: net["cycles"] for net in manifest["nets"]}
    assert drawn["latency"]["decode"]["names"] == [
        "embedding_cache",
        *(f"block_cache_{n}" for n in range(4)),
        "lm_head",
    ]
    assert drawn["latency"]["prefill"]["ms"] == pytest.approx(
        [cycles[name] / 1e6 for name in drawn["latency"]["prefill"]["names"]], abs=1e-6
    )


def test_the_page_needs_nothing_and_lets_nothing_else_run(checkpoint, convert):
    page = Page.of(convert(checkpoint("qwen2"), seq=64))
    assert not set(page.tags) & {"img", "iframe", "object", "embed", "base"} and page.tags.count("link") == 1
    assert not any(key == "src" or key.startswith("on") for key, _ in page.attributes)
    assert not [link for link in page.links if ":" in link or link.startswith("/")]
    (policy,) = (value for key, value in page.attributes if key == "content" and "default-src" in value)
    running = [content for given, content in page.scripts if "type" not in given]
    assert len(running) == 2 and "uPlot" in running[0]
    for script in running:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy and "unsafe-eval" not in policy


def test_sizes_add_up_to_the_file(checkpoint, convert):
    for model, options in (
        ("qwen2", {"quantize": "w4bf16"}),
        ("qwen2_tied", {"quantize": "w8bf16"}),
        ("llama", {"chip": "bm1688", "quantize": "w4f16"}),
    ):
        facts = gather(convert(checkpoint(model), seq=64, **options))
        stored = sizes.coefficients(facts.layout, facts.nets, facts.bmodel, facts.device)
        assert stored.total == facts.bmodel["coefficients"]["stored"]
        config = json.loads((checkpoint(model) / "config.json").read_text())
        wanted = (
            sum(
                t.nbytes
                for name, t in facts.plan.checkpoint.tensors.items()
                if not (config["tie_word_embeddings"] and name == "lm_head.weight")
            )
            // 2
        )
        assert stored.weights == wanted
        bits = options["quantize"][1]
        if options.get("chip") != "bm1688":  # several cores: itemised where llmconv.coefficients knows the layout
            assert (
                stored.parts["MLP", f"int{bits}"]
                == 2 * 3 * config["hidden_size"] * config["intermediate_size"] * int(bits) // 8
            )
            assert {part for part, _ in stored.parts} >= {"Attention", "MLP", "Norms", "Rotary tables", "Token table"}
        memory = sizes.device_memory(facts.bmodel)
        heads, dim = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
        assert memory["KV cache"] == config["num_hidden_layers"] * 2 * 64 * heads * dim * 2


def test_a_verified_build(checkpoint, convert, capsys):
    out = convert(checkpoint("qwen2", num_hidden_layers=3), seq=64)
    errors = {
        "embedding": 0.0,
        **{f"block_{n}": 0.002 * (n + 1) for n in range(3)},
        "block_cache_0": 0.003,
        "all blocks": 0.01,
    }
    verified(out, errors, [(5, 5, True), (7, 8, True)], {"block_0": 0.07, "block_2": 0.09})
    report.write(out)
    page = Page.of(out)
    assert page.ids >= SECTIONS | {"verification", "errors"} and "Built and verified" in page.text
    assert (
        "closest is block_2 (output_states), 0.0060 of 0.0100" in page.text
        and "1 of 2 are equal, 1 within the noise" in page.text
    )
    prefill, _, decode, _ = page.data["errors"]["series"]
    assert (
        page.data["errors"]["layers"] == [0, 1, 2]
        and prefill["values"] == pytest.approx([0.002, 0.004, 0.006])
        and decode["values"][1:] == [None, None]
    )
    assert page.data["losses"] == {
        "layers": [0, 1, 2], "series": [{"label": "prefill", "values": pytest.approx([0.07, None, 0.09])}],
    }  # fmt: skip
    assert "0.0060" in next(row for row in nets(page) if row.startswith("block_2"))

    verified(out, errors | {"block_1": 0.3, "block_2": float("inf")})
    report.write(out)
    page = Page.of(out)
    assert (
        "Built, but not right" in page.text
        and "Drift starts at block_1, the first layer beyond its tolerance (2 of 4 blocks are)" in page.text
    )
    assert page.data["errors"]["series"][0]["values"][2] is None and "not finite" in page.text
    assert [row.split()[0] for row in nets(page) if " wrong " in row] == ["block_1", "block_2"]

    (out / "verify.json").write_text(
        (out / "verify.json").read_text().replace(json.loads((out / "manifest.json").read_text())["sha256"], "0" * 64)
    )
    report.write(out)
    assert "Not verified yet" in Page.of(out).text, "a verification of another file counts"


def test_a_failed_build(failed_build, capsys):
    out = failed_build("--continue")
    page = Page.of(out)
    assert (
        "Failed: program:" in page.text
        and not page.ids & {"sizes", "latency", "verification"}
        and page.ids >= {"gantt", "memory", "nets", "memory-of-the-device"}
    )
    assert "img" not in page.tags and len(page.scripts) == 3
    assert HOSTILE in page.text, "the end of the log is shown as it is"
    assert f"{out.parent}/{HOSTILE.replace('/', '|')}" in page.text, "the checkpoint's name too"
    found = nets(page)
    states = {row.split()[0]: row.split()[1] for row in found}
    assert (
        states["block_cache_0"] == "failed"
        and states["embedding_cache"] == "blocked"
        and "compiled" not in states.values()
    )
    assert "needs compile:embedding, which failed" in next(row for row in found if row.startswith("embedding_cache"))
    assert "--continue --task compile:block_cache_0" in page.text and "logs/block_cache_0.log" in page.links


def test_a_failure_after_a_good_build_says_what_is_still_there(checkpoint, convert, break_compiler):
    out = convert(checkpoint("qwen2"), seq=64)
    before = json.loads((out / "manifest.json").read_text())
    break_compiler()
    assert main(["convert", "-m", str(checkpoint("qwen2")), "-s", "96", "-o", str(out)]) == 1
    page = Page.of(out)
    assert "Failed: program:" in page.text and "The .bmodel in this directory is of an earlier build." in page.text
    assert ".bmodel (earlier build)" in page.text and before["sha256"] in page.text and "seq_length 96" in page.text
    assert len(page.data["runs"]) == 2 and page.data["main"] == 1
    assert not [row for row in nets(page) if row.split()[1] in ("compiled", "stamped", "cached")], (
        "nets of the earlier build are not of this one"
    )


def test_an_unfinished_build_has_a_page(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))
    assert (
        main(["convert", "-m", str(checkpoint("qwen2")), "-s", "64", "-o", str(tmp_path / "out"), "--only_mlir"]) == 0
    )
    page = Page.of(tmp_path / "out")
    assert (
        "Not a whole build" in page.text
        and len(nets(page)) == 7
        and all(row.split()[1] == "open" for row in nets(page))
    )


def test_one_task_of_other_options_is_no_build(checkpoint, convert):
    out = convert(checkpoint("qwen2"), seq=64)
    assert (
        main(["convert", "-m", str(checkpoint("qwen2")), "-s", "80", "-o", str(out), "--task", "export:block_0"]) == 0
    )
    page = Page.of(out)
    assert (
        "Not a whole build" in page.text
        and "of an earlier build" in page.text
        and {row.split()[1] for row in nets(page)} == {"open"}
    )


def test_a_run_with_nothing_to_do_leaves_the_page(checkpoint, convert):
    out = convert(checkpoint("qwen2"), seq=64)
    argv = ["convert", "-m", str(checkpoint("qwen2")), "-s", "64", "-o", str(out)]
    assert main(argv) == 0
    (out / "report.html").write_text("mine")
    assert main(argv) == 0
    assert (out / "report.html").read_text() == "mine"
    (out / "report.html").unlink()
    assert main(argv) == 0
    assert "Built" in Page.of(out).text


def test_the_page_is_not_imported_before_it_is_written():
    program = "import sys, llmconv.convert, llmconv.report; sys.exit('llmconv.report.page' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_what_is_damaged_is_left_out(checkpoint, convert, capsys):
    out = convert(checkpoint("qwen2"), seq=64)
    bmodel = out / json.loads((out / "manifest.json").read_text())["bmodel"]
    bmodel.write_bytes(b"x")
    (out / "verify.json").write_text("{")
    (out / ".llmconv" / "job.json").unlink()
    (out / ".llmconv" / "events.jsonl").write_bytes(b"\xff\n{")
    report.write(out)
    assert capsys.readouterr().err == ""
    page = Page.of(out)
    assert page.ids >= {"verdict", "provenance", "nets"} and not page.ids & {"gantt", "sizes"}
    (out / "manifest.json").unlink()
    report.write(out)
    assert "Not a whole build" in Page.of(out).text and capsys.readouterr().err == ""


def test_a_page_that_cannot_be_written_is_a_warning(checkpoint, convert, capsys):
    out = convert(checkpoint("qwen2"), seq=64)
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    (out / "report.html" / "x").touch()
    report.write(out)
    assert "report.html is not written" in capsys.readouterr().err
    assert not list(out.glob("*.part.*"))


def test_curves_know_every_kind_of_block():
    def net(name: str, error: float) -> dict:
        output = {"output": "output_states", "relative_l2": error, "relative_l2_limit": 0.01, "torch_half": None}
        return {"name": name, "ok": True, "outputs": [output]}

    made = accuracy.by_layer(
        {"nets": [net("block_cache_3", 0.1), net("block_kv_0", 0.2), net("block_prompt_3", 0.3), net("lm_head", 0.4)]}
    )
    assert made["layers"] == [0, 3] and {s["label"]: s["values"] for s in made["series"]} == {
        "prefill with history": [0.2, None],
        "shared prompt": [None, 0.3],
        "decode": [None, 0.1],
    }
    assert accuracy.by_layer(None) is None and accuracy.by_layer({"nets": [net("lm_head", 0)]}) is None


def test_layouts_that_are_not_known_are_itemised_by_precision(checkpoint, convert, monkeypatch):
    facts = gather(convert(checkpoint("qwen2"), seq=64, quantize="w4bf16"))
    exact = sizes.coefficients(facts.layout, facts.nets, facts.bmodel, facts.device)
    monkeypatch.setattr(sizes, "_pieces", lambda *of: None)
    told = sizes.coefficients(facts.layout, facts.nets, facts.bmodel, facts.device)
    assert (told.total, told.weights) == (exact.total, exact.weights)
    for precision in ("int4", "scales", "zero points"):
        assert (
            told.parts["Layers", precision] == sum(count for (_, p), count in exact.parts.items() if p == precision) > 0
        )
