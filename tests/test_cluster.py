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


@pytest.mark.compiler
@pytest.mark.simulator
def test_a_verification_on_workers_has_the_record_of_one_here(machines, checkpoint, convert, tmp_path, capfd):
    """Of a net of every kind, with an adapter too. One worker shares the files of this machine, the other has none."""
    out = convert(checkpoint("qwen2", num_hidden_layers=1), seq=64, quantize="w4bf16", chip="cv186x", lora_max_rank=4)
    assert main(["verify", str(out), "--tokens", "4"]) == 0
    here = untimed(out)
    hide = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(out)]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    machines.worker("apart", threads=1, before=hide)
    machines.worker("beside", threads=1)
    assert main(["verify", str(out), "--tokens", "4", "--again", "--scheduler", machines.address]) == 0
    assert untimed(out) == here
    assert "it shares no files with this machine" in capfd.readouterr().out
    told = [json.loads(line) for line in (out / ".llmconv" / "events.jsonl").read_text().splitlines()]
    ended = [event for event in told if event["event"] == "PartEnded"]
    assert len({event["worker"] for event in ended}) == 2 and all(event["ok"] for event in ended)
    alone = {event["label"].partition(",")[0] for event in ended}
    assert alone == {net["name"] for net in here["nets"] if net["name"] != "all blocks"}
    assert not list((out / ".llmconv").glob("parts/*"))
