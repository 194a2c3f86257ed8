"""model=org/name: from a hub on loopback, over a bad line, gated, offline."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import hub_server
import pytest
from checkpoints import edit_tensors
from downloads import FIRST, PIECE, REPO, SECOND, SHARDS, SMALL, convert
from hub_server import etag
from processes import wait_for

from llmconv import words
from llmconv.hub import Name
from llmconv.request.job import Job


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Name.parse("org/name") == Name("org/name") and Name.parse("org/name@v1.2") == Name("org/name", "v1.2")
    assert Name.parse("org/name@refs/pr/1") == Name("org/name", "refs/pr/1")
    assert [
        Name.parse(text) for text in ("/models/x", "./org/name", "../org/name", "~/x", "models", "a/b/c", "org/")
    ] == [None] * 7
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert Name.parse("org/name") is None, "a directory that is there is meant"


@pytest.mark.compiler
def test_a_model_of_the_hub_is_converted_as_its_directory_is(user, hub, model, checkpoint, tmp_path):
    told = user.run("convert", "-m", REPO, "-s", "64", "-o", str(tmp_path / "out"))
    assert told.returncode == 0, told.stderr
    assert f"downloading {REPO}@{hub.commit(REPO)[:12]}: 35.1 MB" in told.stdout and "downloaded tiny/" in told.stdout
    assert user.files() == SMALL | SHARDS, "what is needed, and no more"
    assert len(hub.gets(".safetensors")) == 4, "each shard's header, and each shard once"
    assert {p.name for p in (tmp_path / "out" / "config").iterdir()} == SMALL - {"model.safetensors.index.json"}
    (made,) = (tmp_path / "out").glob("*.bmodel")
    assert made.name == "qwen2-tiny_bf16_seq64_bm1684x_1dev_static.bmodel"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["job"]["origin"] == f"{REPO}@{hub.commit(REPO)}"
    beside = user.run(
        "convert", "-m", str(checkpoint("qwen2", shards=2, vocab_size=32000)), "-s", "64", "-o", str(tmp_path / "local")
    )
    assert beside.returncode == 0, beside.stderr
    (local,) = (tmp_path / "local").glob("*.bmodel")
    assert _nets(local) == _nets(made)

    asked = len(hub.asked)
    again = user.run("convert", "-m", REPO, "-s", "64", "-o", str(tmp_path / "out"))
    assert "27 up to date in" in again.stdout and not [
        a for a in hub.asked[asked:] if a[0] == "GET" and a[1].endswith("safetensors")
    ]
    why = user.run("why", str(tmp_path / "out"), HF_HUB_OFFLINE="1")
    assert "up to date" in why.stdout, why.stderr


def _nets(file: Path) -> list[tuple]:
    from llmconv.bmodel.read import BModel

    return [(net.name, [stage.coeff_sha256 for stage in net.stages]) for net in BModel.read(file).nets]


def test_digests_are_those_of_the_same_directory(user, hub, checkpoint, tmp_path):
    from llmconv.checkpoint.digest import tensor_digests

    assert user.run(*convert(tmp_path / "out")).returncode == 0
    for shard in SHARDS:
        table = json.loads((tmp_path / "out" / ".llmconv" / "checkpoint" / f"{shard}.json").read_text())
        assert table == tensor_digests(checkpoint("qwen2", shards=2, vocab_size=32000) / shard)


def test_config_is_checked_before_anything_else_is_asked_for(user, hub, tmp_path):
    told = user.run(*convert(tmp_path / "out", "tiny/odd"))
    assert told.returncode == 2 and "'qwen22' is not supported: llmconv knows chatglm" in told.stderr
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
    assert (
        told.returncode == 0
        and len(list((tmp_path / "out" / "mlir").glob("*.mlir"))) == 7
        and not user.files() & SHARDS
    )


def test_a_dropped_connection_goes_on_where_it_was(user, hub, model, tmp_path):
    hub.drops = 2
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 0, told.stderr
    ranges = [asked[2] for asked in hub.gets(".safetensors") if asked[2] and asked[2].endswith("-")]
    assert len(ranges) == 2, "each broken one was resumed"
    starts = sorted(int(text[6:-1]) for text in ranges)
    assert all(start % PIECE == 0 and start > 0 for start in starts), "whole pieces are kept"
    assert not user.parts()


def weights(asked: list[tuple]) -> list[tuple[str, int]]:
    """(shard, bytes) of the downloads in what a hub was asked; headers alone are none."""
    return [(a[1], a[3]) for a in asked if a[0] == "GET" and a[1] in SHARDS and a[2] != "bytes=0-100000"]


def interrupted(user, hub, out: Path, how: signal.Signals) -> tuple[int, str]:
    """A conversion gets a signal when one shard is whole and the other is under way; its exit code and stderr."""
    hub.slow, hub.slow_file = 0.02, SECOND
    process = user.start(*convert(out))
    wait_for(lambda: FIRST in user.files() and sum(user.parts()) >= PIECE)
    os.killpg(process.pid, how)
    time.sleep(0.5)  # it is heard; then the library's next piece comes soon
    hub.slow = 0.0
    _, err = process.communicate(timeout=60)
    assert user.files() & SHARDS == {FIRST}
    hub.asked.clear()
    return process.returncode, err


def test_a_killed_download_keeps_whole_files(user, hub, model, tmp_path):
    interrupted(user, hub, tmp_path / "out", signal.SIGKILL)
    left = sum(user.parts())
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 0, told.stderr
    assert weights(hub.asked) == [(SECOND, len(model[SECOND]))]
    assert (
        f"{words.size(left)} of unfinished downloads lie in the cache" in told.stdout
        and "blobs/*.incomplete` removes them" in told.stdout
    )
    for shard in SHARDS:
        (path,) = user.home.glob(f"hub/*/snapshots/*/{shard}")
        assert path.read_bytes() == model[shard]


def test_ctrl_c_keeps_whole_files_and_removes_parts(user, hub, model, tmp_path):
    code, err = interrupted(user, hub, tmp_path / "out", signal.SIGINT)
    assert code == 130 and "files that have arrived whole are kept" in err and "Traceback" not in err
    assert not user.parts()
    told = user.run(*convert(tmp_path / "out"))
    assert (
        told.returncode == 0
        and weights(hub.asked) == [(SECOND, len(model[SECOND]))]
        and "unfinished" not in told.stdout
    )


def test_a_server_that_cannot_resume_begins_anew(user, hub, tmp_path, model):
    hub.drops, hub.ranges = 1, False
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    for shard in SHARDS:
        (path,) = user.home.glob(f"hub/*/snapshots/*/{shard}")
        assert path.read_bytes() == model[shard]


@pytest.mark.parametrize("at", [-1, 9], ids=["tensor", "header"])
def test_a_damaged_shard_is_removed_and_downloaded_anew(user, hub, model, tmp_path, at):
    hub.corrupt, hub.corrupt_at = SECOND, at
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 1 and f"{SECOND} is damaged: its sha256 is" in told.stdout, told.stdout
    assert (
        etag(SECOND, model[SECOND]) in told.stdout
        and "removed from the cache: run the same command again" in told.stdout
    )
    assert user.files() & SHARDS == {FIRST}
    hub.corrupt, hub.asked[:] = "", []
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    assert weights(hub.asked) == [(SECOND, len(model[SECOND]))]


def test_weights_that_became_bad_in_the_cache_are_found_without_the_hub(user, hub, model, tmp_path):
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    (path,) = user.home.glob(f"hub/*/snapshots/*/{FIRST}")
    path.resolve().write_bytes(model[FIRST][:-1] + b"~")
    told = user.run(*convert(tmp_path / "other"), HF_HUB_OFFLINE="1")
    assert told.returncode == 1 and f"{FIRST} is damaged" in told.stdout and user.files() & SHARDS == {SECOND}


def test_a_header_that_became_bad_in_the_cache(user, hub, model, tmp_path):
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    (path,) = user.home.glob(f"hub/*/snapshots/*/{FIRST}")
    path.resolve().write_bytes(model[FIRST][:100])
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 2 and f"{FIRST} is not a whole safetensors file" in told.stderr
    assert f"`hf cache rm model/{REPO}` removes the model" in told.stderr


def test_a_file_that_the_hub_lost(user, hub, tmp_path):
    hub.lost = (SECOND,)
    told = user.run(*convert(tmp_path / "out"))
    assert told.returncode == 1 and f"the hub has no {SECOND} of {REPO}@" in told.stderr and not user.files() & SHARDS


def test_a_file_that_the_index_names_alone(user, hub, model, tmp_path):
    del hub.models[REPO][SECOND]
    told = user.run(*convert(tmp_path / "out"))
    assert (
        told.returncode == 1
        and f"the hub has no {SECOND} of {REPO}@" in told.stderr
        and f"{hub.url}/{REPO}/tree/" in told.stderr
    )


def test_a_full_disk_is_seen_before_the_download(user, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    told = user.run(*convert(tmp_path / "out"))
    assert (
        told.returncode == 1 and f"the weights of {REPO}@" in told.stderr and "MB more: 1.0 MB are free" in told.stderr
    )
    assert not user.files() & SHARDS and not user.parts()


def test_a_disk_that_takes_no_more(user, hub, tmp_path):
    """The limit of a file's size stands for the disk: writes fail in the midst of a shard."""
    process = user.start(*convert(tmp_path / "out"))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (PIECE, PIECE))
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1 and "cannot be downloaded: File too large" in err and "model-0000" in err
    assert len(err.strip().splitlines()) == 1 and not user.parts()


def test_a_gated_model(user, hub, tmp_path):
    hub.gated, hub.token = (REPO,), "hf_right"
    told = user.run(*convert(tmp_path / "out"))
    assert (
        told.returncode == 2
        and f"the model {REPO} is gated" in told.stderr
        and f"{hub.url}/{REPO}" in told.stderr
        and "HF_TOKEN" in told.stderr
    )
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
    assert (
        told.returncode == 0
        and "its files in the cache are used, as of commit" in told.stdout
        and len(hub.asked) == asked
    )


def test_a_hub_that_is_not_there(user, hub, tmp_path):
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    nowhere = "http://127.0.0.1:9"
    told = user.run(*convert(tmp_path / "other"), HF_ENDPOINT=nowhere)
    assert told.returncode == 0 and nowhere in told.stdout and "its files in the cache are used" in told.stdout
    told = user.run(*convert(tmp_path / "third", "tiny/unknown"), HF_ENDPOINT=nowhere)
    assert told.returncode == 1 and "the hub cannot be reached" in told.stderr and nowhere in told.stderr


def test_doit_takes_the_same_names(user, hub, tmp_path):
    dodo = str(Path(__file__).parents[2] / "dodo.py")
    process = user.start(
        "run",
        "-f",
        dodo,
        "-d",
        str(tmp_path),
        "export",
        f"model={REPO}",
        "seq=64",
        f"out={tmp_path / 'out'}",
        program="doit",
    )
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "export:block_0" in out, err
    assert user.files() >= SMALL


def test_jobs_remember_the_commit(user, hub, tmp_path, monkeypatch):
    commit = "0123456789" * 4
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    job = Job.create({"model": f"tiny/x@{commit}", "seq": 64})
    assert job.origin == f"tiny/x@{commit}" and job.model_name == "x" and job.model_path.name == commit
    assert job.out_dir.name == "x_bm1684x_auto"


def test_ctrl_c_while_the_hub_is_silent(user, hub, tmp_path):
    hub.slow, hub.slow_file = 30.0, SECOND
    process = user.start(*convert(tmp_path / "out"))
    wait_for(lambda: FIRST in user.files() and user.parts())
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and time.monotonic() - begin < 12


def test_weights_that_git_keeps_have_no_sha256(user, hub, model, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_server, "LARGE", ())
    hub.etags |= {(REPO, shard): etag(shard, model[shard]) for shard in SHARDS}
    assert user.run(*convert(tmp_path / "out")).returncode == 0
    asked = len(hub.asked)
    assert user.run(*convert(tmp_path / "other", f"{REPO}@{hub.commit(REPO)}")).returncode == 0
    assert len(hub.asked) == asked, "what is in the cache needs no hub"


def _publish(hub, repo: str, files: dict[str, bytes]) -> None:
    hub.models[repo] = files
    hub.etags |= {(repo, name): etag(name, content) for name, content in files.items()}


def test_the_whole_file_goes_before_an_index(user, hub, checkpoint, tmp_path):
    """As in transformers, which asks for model.safetensors first."""
    index = {"metadata": {}, "weight_map": {"lm_head.weight": FIRST}}
    files = hub_server.folder(checkpoint("qwen2")) | {"model.safetensors.index.json": json.dumps(index).encode()}
    _publish(hub, "tiny/both", files)
    told = user.run(*convert(tmp_path / "out", "tiny/both"))
    assert told.returncode == 0, told.stderr
    assert user.files() == {"config.json", "model.safetensors"}


def test_a_head_that_is_not_the_token_table_shows_when_it_is_there(user, hub, checkpoint, tmp_path):
    """A plan from headers takes config.json's word for it that they are the same."""
    model = Path(shutil.copytree(checkpoint("qwen2_tied"), tmp_path / "model"))
    table = "model.embed_tokens.weight"
    edit_tensors(model, lambda t: t.update({"lm_head.weight": t[table].flip(0)}))
    _publish(hub, "tiny/head", hub_server.folder(model))
    told = user.run(*convert(tmp_path / "out", "tiny/head"))
    assert told.returncode == 1 and "the head of tiny/head is not its token table" in told.stderr + told.stdout
    assert "Run the same command again." in told.stderr + told.stdout
    told = user.run(*convert(tmp_path / "out", "tiny/head"))
    assert told.returncode == 0, told.stderr
    assert f"lm_head.weight is not equal to {table}: it is the head" in told.stdout
