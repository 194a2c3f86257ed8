"""model=org/name: from a hub on loopback, over a bad line, gated, offline."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from hub_server import etag
from processes import wait_for

from llmconv.hub import Name
from llmconv.request.job import Job

REPO = "tiny/Qwen2-Tiny"
SMALL = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt", "model.safetensors.index.json"}
PIECE = 10 << 20  # bytes that the library writes at a time
SHARDS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


def convert(out: Path, model: str = REPO, *more: str) -> list[str]:
    """As far as the digests of the weights."""
    return ["convert", "-m", model, "-s", "64", "-o", str(out), "--task", "checkpoint", *more]


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Name.parse("org/name") == Name("org/name") and Name.parse("org/name@v1.2") == Name("org/name", "v1.2")
    assert Name.parse("org/name@refs/pr/1") == Name("org/name", "refs/pr/1")
    assert [Name.parse(text) for text in ("/models/x", "./org/name", "../org/name", "~/x", "models", "a/b/c", "org/")] == [None] * 7
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert Name.parse("org/name") is None, "a directory that is there is meant"


@pytest.mark.compiler
def test_a_model_of_the_hub_is_converted_as_its_directory_is(user, hub, model, checkpoint, tmp_path):
    told = user.run("convert", "-m", REPO, "-s", "64", "-o", str(tmp_path / "out"))
    assert told.returncode == 0, told.stderr
    assert f"downloading {REPO}@{hub.commit(REPO)[:12]}: 0.04 GB" in told.stdout and "downloaded tiny/" in told.stdout
    assert user.files() == SMALL | SHARDS, "what is needed, and no more"
    assert len(hub.gets(".safetensors")) == 4, "each shard's header, and each shard once"
    assert {p.name for p in (tmp_path / "out" / "config").iterdir()} == SMALL - {"model.safetensors.index.json"}
    (made,) = (tmp_path / "out").glob("*.bmodel")
    assert made.name == "qwen2-tiny_bf16_seq64_bm1684x_1dev_static.bmodel"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["job"]["origin"] == f"{REPO}@{hub.commit(REPO)}"
    beside = user.run("convert", "-m", str(checkpoint("qwen2", shards=2, vocab_size=32000)), "-s", "64", "-o", str(tmp_path / "local"))
    assert beside.returncode == 0, beside.stderr
    (local,) = (tmp_path / "local").glob("*.bmodel")
    assert _nets(local) == _nets(made)

    asked = len(hub.asked)
    again = user.run("convert", "-m", REPO, "-s", "64", "-o", str(tmp_path / "out"))
    assert "21 up to date in" in again.stdout and not [a for a in hub.asked[asked:] if a[0] == "GET" and a[1].endswith("safetensors")]
    why = user.run("why", str(tmp_path / "out"), HF_HUB_OFFLINE="1")
    assert "up to date" in why.stdout, why.stderr


def _nets(file: Path) -> list[tuple]:
    from llmconv.bmodel.read import BModel

    return [(net.name, [stage.coeff_sha256 for stage in net.stages]) for net in BModel.read(file).nets]


def test_digests_are_the_blobs_names_and_no_weight_is_read(user, hub, model, tmp_path):
    from llmconv.checkpoint.digest import blob_digests, tensor_digests

    assert user.run(*convert(tmp_path / "out")).returncode == 0
    for shard in SHARDS:
        (path,) = user.home.glob(f"hub/*/snapshots/*/{shard}")
        blob = path.resolve()
        assert blob.name == etag(shard, model[shard])
        table = json.loads((tmp_path / "out" / ".llmconv" / "checkpoint" / f"{shard}.json").read_text())
        assert table == blob_digests(path) and set(table) == set(tensor_digests(path)) and table != tensor_digests(path)
        header = int.from_bytes(model[shard][:8], "little") + 8
        blob.write_bytes(model[shard][:header] + bytes(len(model[shard]) - header))
        assert blob_digests(path) == table, "only the header is looked at"


def test_config_is_checked_before_anything_else_is_asked_for(user, hub, tmp_path):
    told = user.run(*convert(tmp_path / "out", "tiny/odd"))
    assert told.returncode == 2 and "'qwen22' is not supported" in told.stderr and "Did you mean qwen2" in told.stderr
    assert {asked[1] for asked in hub.asked} == {"config.json"}
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_found_before_the_weights_are_there(user, hub, tmp_path):
    told = user.run(*convert(tmp_path / "out", REPO, "-q", "w4bf16", "-g", "96"))
    assert told.returncode == 2 and "q_group_size 96 does not divide" in told.stderr
    assert not user.files() & SHARDS


def test_a_plan_needs_headers_alone(user, hub, tmp_path):
    told = user.run("plan", "-m", f"{REPO}@v1", "-s", "64", "-q", "w4bf16")
    assert told.returncode == 0, told.stderr
    assert "qwen2, 2 layers" in told.stdout and "after the download" in told.stdout and "device memory" in told.stdout
    assert not user.files() & SHARDS
    assert sum(asked[3] for asked in hub.gets(".safetensors")) <= 2 * 100_001
    told = user.run(*convert(tmp_path / "out"), "--dry_run")
    assert told.returncode == 0 and "=== llm_convert dry-run ===" in told.stdout and not user.files() & SHARDS
    told = user.run("convert", "-m", REPO, "-s", "64", "-o", str(tmp_path / "out"), "--only_mlir")
    assert told.returncode == 0 and len(list((tmp_path / "out" / "mlir").glob("*.mlir"))) == 7 and not user.files() & SHARDS


def test_a_dropped_connection_goes_on_where_it_was(user, hub, model, tmp_path):
    hub.drops = 2
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 0, told.stderr
    ranges = [asked[2] for asked in hub.gets(".safetensors") if asked[2] and asked[2].endswith("-")]
    assert len(ranges) == 2, "each broken one was resumed"
    starts = sorted(int(text[6:-1]) for text in ranges)
    assert all(start % PIECE == 0 and start > 0 for start in starts), "whole pieces are kept"
    assert not user.parts()


def test_a_killed_download_goes_on_where_it_was(user, hub, model, tmp_path):
    hub.slow = 0.02
    process = user.start(*convert(tmp_path / "out"))
    wait_for(lambda: sum(user.parts()) >= PIECE)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept, hub.slow, asked = sum(user.parts()), 0.0, len(hub.asked)
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 0, told.stderr
    arrived = sum(a[3] for a in hub.asked[asked:] if a[0] == "GET" and a[1] in SHARDS and a[2] != "bytes=0-100000")
    assert arrived == sum(len(model[s]) for s in SHARDS) - kept
    for shard in SHARDS:
        (path,) = user.home.glob(f"hub/*/snapshots/*/{shard}")
        assert path.read_bytes() == model[shard]


def test_ctrl_c_keeps_what_has_arrived(user, hub, tmp_path):
    hub.slow = 0.02
    process = user.start(*convert(tmp_path / "out"))
    wait_for(lambda: sum(user.parts()) >= PIECE)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "what has arrived is kept" in err and "Traceback" not in err
    assert sum(user.parts()) >= PIECE


def test_a_server_that_cannot_resume_begins_anew(user, hub, tmp_path, model):
    hub.drops, hub.ranges = 1, False
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    for shard in SHARDS:
        (path,) = user.home.glob(f"hub/*/snapshots/*/{shard}")
        assert path.read_bytes() == model[shard]


def test_damaged_weights_are_not_taken(user, hub, tmp_path):
    hub.corrupt = True
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 1 and "arrived damaged: its sha256 is not the one that the hub announced" in told.stderr
    assert not user.files() & SHARDS
    hub.corrupt = False
    assert user.run(*convert(tmp_path / "out")).returncode == 0


def test_a_gated_model(user, hub, tmp_path):
    hub.gated, hub.token = (REPO,), "hf_right"
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 2 and f"the model {REPO} is gated" in told.stderr and f"{hub.url}/{REPO}" in told.stderr and "HF_TOKEN" in told.stderr
    assert "is gated" in user.run(*convert(tmp_path / "out"), HF_TOKEN="hf_wrong").stderr
    told = user.run(*convert(tmp_path / "out"), HF_TOKEN="hf_right")
    assert told.returncode == 0, told.stderr
    assert all(asked[4] == "Bearer hf_right" for asked in hub.asked[-3:])


@pytest.mark.parametrize("name, says", [
    ("tiny/nothing", "tiny/nothing is neither a directory here nor a model on the hub"),
    (f"{REPO}@v9", f"the model {REPO} has no revision v9"),
    ("tiny/pickled", "the model tiny/pickled@"),
])  # fmt: skip
def test_what_the_hub_does_not_have(user, tmp_path, name, says):
    told = user.run(*convert(tmp_path / "out", name))
    assert told.returncode == 2 and says in told.stderr and len(told.stderr.strip().splitlines()) == 1


def test_offline(user, hub, tmp_path):
    told = user.run(*convert(tmp_path / "out"), HF_HUB_OFFLINE="1")
    assert told.returncode == 1 and "HF_HUB_OFFLINE is set; nothing of tiny/Qwen2-Tiny is in the cache" in told.stderr
    assert not hub.asked
    assert user.run("plan", "-m", REPO, "-s", "64").returncode == 0
    told = user.run(*convert(tmp_path / "out"), HF_HUB_OFFLINE="1")
    assert told.returncode == 1 and "only a part is in the cache" in told.stderr
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    asked = len(hub.asked)
    told = user.run(*convert(tmp_path / "other"), HF_HUB_OFFLINE="1")
    assert told.returncode == 0 and "its files in the cache are used, as of commit" in told.stdout and len(hub.asked) == asked


def test_a_hub_that_is_not_there(user, hub, tmp_path):
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    nowhere = "http://127.0.0.1:9"
    told = user.run(*convert(tmp_path / "other"), HF_ENDPOINT=nowhere)
    assert told.returncode == 0 and nowhere in told.stdout and "its files in the cache are used" in told.stdout
    told = user.run(*convert(tmp_path / "third", "tiny/unknown"), HF_ENDPOINT=nowhere)
    assert told.returncode == 1 and "the hub cannot be reached" in told.stderr and nowhere in told.stderr


def test_doit_takes_the_same_names(user, hub, tmp_path):
    dodo = str(Path(__file__).parents[2] / "dodo.py")
    process = user.start("run", "-f", dodo, "-d", str(tmp_path), "export", f"model={REPO}", "seq=64", f"out={tmp_path / 'out'}", program="doit")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "export:block_0" in out, err
    assert user.files() >= SMALL


def test_jobs_remember_the_commit(user, hub, tmp_path, monkeypatch):
    commit = "0123456789" * 4
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    job = Job.create({"model": f"tiny/x@{commit}", "seq": 64})
    assert job.origin == f"tiny/x@{commit}" and job.model_name == "x" and job.model_path.name == commit
    assert job.out_dir.name == "x_bm1684x_auto"


def test_json_progress(user, tmp_path):
    told = user.run(*convert(tmp_path / "out"), "--progress", "json")
    events = [json.loads(line) for line in told.stdout.splitlines()]
    assert [e["event"] for e in events[:3]] == ["Download", "Download", "RunStarted"]
    assert events[1]["bytes"] == events[1]["total"] > 1_000_000
