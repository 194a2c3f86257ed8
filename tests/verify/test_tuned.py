"""--tune with the real compiler: what is chosen has the fewest cycles, is remembered, resumed, and right on the chip."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from verify_helpers import verified

import llmconv
from llmconv import tasks
from llmconv.blocks.drawing import GATE_UP, KV, LEFT, QKV, RIGHT, TABLE, VENDOR, Drawing
from llmconv.cli.main import main
from llmconv.compile.net import compile_net
from llmconv.compile.records import NetFiles, NetTask, Workplace
from llmconv.convert import run
from llmconv.plan.exported import Exported
from llmconv.plan.forms import exported
from llmconv.plan.plan import Plan, plan
from llmconv.plan.record import Record
from llmconv.request.job import Job
from llmconv.request.request import Request
from llmconv.runtime import manifest
from llmconv.tuning import tuning

ROOT = Path(__file__).parents[2]
SIZES = {"intermediate_size": 1024, "num_hidden_layers": 3}
CHOICE = {"seq": 64, "chip": "cv186x", "quantize": "w4bf16"}

pytestmark = pytest.mark.compiler


def cycles(made: Plan, name: str, place: Path) -> int:
    """The compiler's count for one net, compiled by itself."""
    net = next(net for net in made.nets if net.name == name)
    place.mkdir(parents=True, exist_ok=True)
    (place / "net.mlir").write_text(net.mlir)
    (place / "net.weights").write_text(json.dumps(exported(net, stamp=False).to_json()))
    assert Exported.read(place / "net.weights").weights
    files = NetFiles(*(place / f"{name}.{part}" for part in ("bmodel", "coeff", "json", "run.json")))
    work = NetTask(
        name, net.module, made.job.model_path, place / "net.mlir", place / "net.weights", net.flags,
        Workplace(place / "scratch", place / "log"),
    )  # fmt: skip
    found = compile_net(work, files)[0].cycles
    assert found
    return found


def every_cost(model: Path, place: Path) -> dict[Drawing, tuple[int, int]]:
    """Cycles of a token and of a prefill of three layers and a head, for all that the drawing of this model can be."""
    groups = [(), (GATE_UP,), (KV,), (QKV,), (KV, GATE_UP), (QKV, GATE_UP)]
    drawings = [VENDOR, *(Drawing(True, pieces, LEFT, joined) for pieces, joined in product((1, 2), groups))]
    given = {name: str(value) for name, value in CHOICE.items()} | {"model": str(model), "out": str(place / "out")}

    def made(drawing: Drawing) -> Plan:
        return plan(replace(Job.create(given), drawing=drawing.text))

    heads = {side: cycles(made(replace(VENDOR, head=side)), "lm_head", place / "head") for side in (LEFT, TABLE, RIGHT)}
    found = {}
    for one in drawings:
        decode, prefill = (cycles(made(one), name, place / "blocks") for name in ("block_cache_0", "block_0"))
        for side, head in heads.items():
            found[replace(one, head=side)] = (3 * decode + head, 3 * prefill + head)
    return found


def is_cheapest(drawing: Drawing, costs: dict[Drawing, tuple[int, int]]) -> bool:
    """Whether neither a token nor a prefill has more cycles than in the vendor's graphs, and no other such drawing
    saves more of both together."""
    plain = costs[VENDOR]
    good = {one: sum(mine / theirs for mine, theirs in zip(cost, plain)) for one, cost in costs.items()
            if all(mine <= theirs for mine, theirs in zip(cost, plain))}  # fmt: skip
    return drawing in good and good[drawing] == min(good.values())


def built(model: Path, out: Path, **more: Any) -> Path:
    llmconv.convert(model, out=out, tune=True, **{**CHOICE, **more})
    return out


def drawing_of(out: Path) -> Drawing:
    return Drawing.of(json.loads((out / "manifest.json").read_text())["job"]["drawing"])


def events_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / ".llmconv" / "events.jsonl").read_text().splitlines()]


@pytest.mark.simulator
@pytest.mark.slow
def test_the_fewest_cycles(checkpoint, llmconv_env, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))
    model = checkpoint("qwen2", **SIZES)
    out = built(model, tmp_path / "out")
    costs = every_cost(model, tmp_path / "alone")
    assert is_cheapest(drawing_of(out), costs)
    assert not is_cheapest(VENDOR, costs) and not is_cheapest(Drawing(True, 2), costs), "the comparison can fail"

    # the nets that were compiled for the choice come from the cache
    how = {one["name"]: one["how"] for one in events_of(out) if one["event"] == "TaskFinished"}
    assert {how[task] for task in ("program:block_0", "program:block_cache_0", "compile:lm_head")} == {"cached"}
    assert not (out / ".llmconv" / "tune").exists()

    # another checkpoint of this structure compiles no candidate
    monkeypatch.setattr(tuning, "tune", lambda *_: pytest.fail("candidates are compiled again"))
    other = built(checkpoint("qwen2", seed=5, **SIZES), tmp_path / "other")
    assert drawing_of(other) == drawing_of(out) and Record.read(other / ".llmconv" / "tuned.json")

    # what is planned again has these graphs, without the cache and without the record too
    os.rename(tmp_path / "cache", tmp_path / "gone")
    (out / ".llmconv" / "tuned.json").unlink()
    assert manifest.read(out).plan.spec.drawing == drawing_of(out)
    ok, found, printed = verified(out, tokens=4)
    assert ok and all(net["ok"] for net in found["nets"]), printed


@pytest.mark.slow
def test_a_candidate_that_the_compiler_does_not_take_is_left_out(
    checkpoint, llmconv_env, tmp_path, monkeypatch, capsys
):
    """Also of a kind that would be chosen; a model of which no graph compiles fails."""
    made, broken = tasks.tuning, {f"whole-{one}" for one in ("gate_up", "k_v-gate_up", "q_k_v-gate_up")}

    def graph(*given: Any) -> Any:
        for task in made(*given):
            if (task["basename"].split(".")[0] in broken) and task["basename"].endswith(".export") and task["name"]:
                action = task["meta"]["action"]
                files = {
                    file: text.replace("top.MatMul", "top.Nonsense") for file, text in action.args["files"].items()
                }
                wrong = replace(action, args={"files": files}, foretold=(), key={"broken": True})
                task = {**task, "actions": [wrong], "meta": {"action": wrong}}
            yield task

    monkeypatch.setattr(tasks, "tuning", graph)
    model = checkpoint("qwen2", num_hidden_layers=2, intermediate_size=192)  # of which there are no pieces
    out = built(model, tmp_path / "out", show="plain")
    told = capsys.readouterr().out
    assert "whole-gate_up is left out" in told and "FAILED" not in told
    assert GATE_UP not in drawing_of(out).joined
    graphs = json.loads((out / "manifest.json").read_text())["graphs"]
    assert graphs[-1] == "left out, because the compiler fails: whole-gate_up, whole-k_v-gate_up, whole-q_k_v-gate_up"
    record = Record.read(out / ".llmconv" / "tuned.json")
    assert record and set(record.measured.failed) == broken

    broken |= {"vendor", "whole"}
    with pytest.raises(llmconv.ConvertError, match="the compiler takes none of vendor, whole"):
        built(model, tmp_path / "none", no_cache=True)


@pytest.mark.slow
def test_a_kill_is_resumed(checkpoint, llmconv_env, tmp_path):
    """Ctrl-C ends it in order with 130; the same command measures what is missing."""
    model, out = checkpoint("qwen2", **SIZES), tmp_path / "out"
    words = [f"model={model}", f"out={out}", "tune=1", "progress=plain", *(f"{k}={v}" for k, v in CHOICE.items())]
    command = [sys.executable, "-m", "doit", "convert", *words]
    env = llmconv_env | {"LLMCONV_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with log.open("w") as file:
        first = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
    end = time.monotonic() + 120
    while log.read_text().count(" compiled, ") < 3 and time.monotonic() < end:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130, log.read_text()
    assert not (out / ".llmconv" / "tuned.json").exists() and not (out / "manifest.json").exists()
    done = re.findall(r"\] (\S+)  compiled, ", log.read_text())
    (tmp_path / "cache" / "actions").rename(tmp_path / "no actions")  # what is known is in the output directory
    second = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    again = re.findall(r"\] (\S+)  compiled, ", second.stdout)
    assert len(done) >= 3 and len(again) > 5 and not set(done) & set(again)
    assert drawing_of(out).up_first


def test_a_job_file_measures_each_structure_once(checkpoint, llmconv_env, tmp_path, monkeypatch, capsys):
    """Before the run of all; a job without --tune has the tables' graphs."""
    real, measured = tuning.tune, []

    def tune(asked: Any, *given: Any) -> int:
        measured.append(asked.job.out_dir.name)
        return real(asked, *given)

    monkeypatch.setattr(tuning, "tune", tune)
    models = [checkpoint("qwen2", num_hidden_layers=1, intermediate_size=192, seed=seed) for seed in (0, 3)]
    jobs = "\n".join(
        f'[[job]]\nname = "{name}"\nmodel = "{model}"\ntune = {on}\n'
        for name, model, on in zip("abc", (*models, models[0]), ("true", "true", "false"))
    )
    file = tmp_path / "jobs.toml"
    file.write_text('[defaults]\nseq_length = 32\nchip = "cv186x"\nquantize = "w8bf16"\n' + jobs)
    assert main(["build", str(file), "--progress", "plain"]) == 0, capsys.readouterr()
    outs = [tmp_path / "built" / name for name in "abc"]
    assert measured == ["a"]
    assert drawing_of(outs[0]) == drawing_of(outs[1])
    told = [json.loads((out / "manifest.json").read_text()) for out in outs]
    assert [one["graphs"][0].startswith("chosen by --tune") for one in told] == [True, True, False]
    assert told[0]["graphs"] == told[1]["graphs"] and not told[2]["job"]["drawing"]
    assert "chosen by --tune" in (outs[0] / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["build", str(file), "--progress", "plain"]) == 0 and measured == ["a"]
    assert main(["why", str(outs[1])]) == 0 and "up to date" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["bm1688", "cv186x"])
@pytest.mark.parametrize("head", [TABLE, RIGHT])
def test_heads_that_the_tables_never_take_are_right(chip, head, checkpoint, llmconv_env, tmp_path):
    given = {"model": str(checkpoint("qwen2")), "out": str(tmp_path / "out"), "seq": "64", "quantize": "w4bf16"}
    asked = Request.create(given | {"chip": chip})
    drawn = replace(asked, job=replace(asked.job, drawing=Drawing(True, head=head).text))
    assert run(drawn) == 0
    assert main(["verify", str(tmp_path / "out"), "--tokens", "4"]) == 0
