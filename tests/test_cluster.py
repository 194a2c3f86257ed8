"""`--scheduler` and `--cluster`: a conversion on Dask workers gives the same bytes, and says who made what."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dask_machines import Machines
from family_checkpoints import make as make_family

from llmconv.cli.main import main
from llmconv.errors import InputError
from llmconv.request.workers import asked

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("scheduler", "cluster"),
    [
        ("host:8786", ""),
        ("tcp://host", ""),
        ("http://host:8786", ""),
        ("tcp://host:8786/x", ""),
        ("", "4"),
        ("", "local:0"),
        ("", "local:999"),
        ("", "slurm:4"),
        ("tcp://host:8786", "local:2"),
    ],
)
def test_what_the_options_cannot_be(scheduler, cluster):
    with pytest.raises(InputError):
        asked(scheduler, cluster)


def bytes_of(out: Path) -> bytes:
    (found,) = out.glob("*.bmodel")
    return found.read_bytes()


@pytest.fixture
def machines(tmp_path, llmconv_env):
    pytest.importorskip("distributed")
    made = Machines(tmp_path, {"TPUC_ROOT": llmconv_env["TPUC_ROOT"], "PYTHONPATH": str(ROOT)})
    made.scheduler()
    yield made
    made.stop()


@pytest.mark.compiler
def test_workers_with_and_without_shared_files_make_the_same_file(machines, checkpoint, convert, tmp_path, capsys):
    """Stamped and compiled nets, and checks of linears, all on other "machines"."""
    model, out = checkpoint("qwen2"), tmp_path / "out"
    options = {"seq": 64, "quantize": "w4bf16", "chip": "bm1688", "no_cache": 1}
    wanted = bytes_of(convert(model, **options))
    hide = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(model)]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    machines.worker("apart", threads=1, before=hide)
    variables = [f"{name}={value}" for name, value in options.items()]
    doit = [sys.executable, "-m", "doit", "convert", f"model={model}", f"out={out}", *variables]
    done = subprocess.run([*doit, f"scheduler={machines.address}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it shares no files with this machine" in done.stdout
    assert bytes_of(out) == wanted
    told = [json.loads(line) for line in (out / ".llmconv" / "events.jsonl").read_text().splitlines()]
    where = {event["name"]: event["worker"] for event in told if event["event"] == "TaskStarted"}
    assert {bool(worker) for name, worker in where.items() if name.startswith(("compile:", "check:"))} == {True}
    assert not where["merge"]
    assert main(["why", str(out), "block_1"]) == 0
    assert f"on worker {where['compile:block_1']}" in capsys.readouterr().out
    assert (out / "logs" / "block_0.log").read_text()
    assert not list(tmp_path.rglob("*.part.*")), "nothing half-made stays"


@pytest.mark.compiler
def test_a_cluster_on_this_machine_makes_the_same_file(checkpoint, convert, llmconv_env):
    pytest.importorskip("distributed")
    model, options = checkpoint("qwen2"), {"seq": 64, "quantize": "bf16", "chip": "bm1688", "no_cache": 1}
    assert bytes_of(convert(model, **options, cluster="local:2")) == bytes_of(convert(model, **options))


def test_a_run_without_a_cluster_does_not_import_it():
    code = "import sys, llmconv.cli.main, llmconv.engine.build, llmconv.convert; print('distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def untimed(out: Path) -> dict:
    """verify.json without times."""
    told = json.loads((out / "verify.json").read_text())
    for net in told["nets"]:
        assert net.pop("seconds") >= 0
    text = json.dumps(told)
    return json.loads(re.sub(r"\([0-9]+ s on the simulator\)", "", text))


def verified(out: Path, *words: str) -> dict:
    assert main(["verify", str(out), "--tokens", "4", "--again", *words]) == 0
    return untimed(out)


def parts_of(out: Path) -> list[dict]:
    """What the workers have done."""
    told = [json.loads(line) for line in (out / ".llmconv" / "events.jsonl").read_text().splitlines()]
    return [event for event in told if event["event"] == "PartEnded"]


@pytest.mark.compiler
@pytest.mark.simulator
def test_a_verification_on_workers_has_the_record_of_one_here(machines, checkpoint, convert, capfd):
    """The worker shares no files with this machine."""
    out = convert(checkpoint("qwen2", num_hidden_layers=1), seq=64, quantize="w4bf16", chip="cv186x")
    hide = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(out)]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    machines.worker("apart", before=hide)
    here = verified(out)
    assert verified(out, "--scheduler", machines.address) == here
    said = capfd.readouterr().out
    assert "it shares no files with this machine" in said
    assert all(event["ok"] and f"worker {event['worker']} has 2 cores" in said for event in parts_of(out))
    done = {event["label"].partition(",")[0] for event in parts_of(out)}
    assert done == {net["name"] for net in here["nets"]} - {"all blocks"}
    assert not (out / ".llmconv" / "parts").exists()


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize(
    ("name", "options"),
    [("qwen2", {"lora_max_rank": 4}), ("qwen2_moe", {}), ("qwen3_vl", {}), ("qwen2", {"batch": 2})],
    ids=["adapter", "experts", "tower", "batch"],
)
def test_records_of_other_models(name, options, checkpoint, vision_checkpoint, convert, tmp_path):
    """What launches draw, and in which order they are judged, differs most with these."""
    pytest.importorskip("distributed")
    if name == "qwen2_moe":
        model = make_family(tmp_path, name)
    else:
        model = (vision_checkpoint if name == "qwen3_vl" else checkpoint)(name)
    out = convert(model, seq=64, quantize="w4bf16", chip="cv186x", **options)
    here = verified(out)
    assert verified(out, "--cluster", "local:2") == here
    assert parts_of(out) and all(event["ok"] for event in parts_of(out))
