"""Hostile places and names: links, special files, paths, options, signals; nothing is read or written outside its
place, and a terminal is never written to raw."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import edit_tensors
from plans import planned, refused

from llmconv.cli.main import main
from llmconv.engine import files
from llmconv.engine.cache import Cache
from llmconv.engine.lock import Lock
from llmconv.errors import ToolError, shown
from llmconv.request.job import Job

WHOLE, NORM = "model.safetensors", "model.norm.weight"


def test_what_is_no_file(checkpoint, tmp_path):
    """A FIFO would block for ever, /dev/zero never end."""
    shard = "model-00001-of-00002.safetensors"
    for name in (shard, f"{WHOLE}.index.json", "config.json", "tokenizer.json", "generation_config.json"):
        for kind, make in (
            ("a FIFO", os.mkfifo),
            ("a directory", os.mkdir),
            ("a device", lambda path: os.symlink("/dev/zero", path)),
            ("which is not there", lambda path: os.symlink("nowhere", path)),
        ):
            if kind == "a directory" and name.startswith(("tokenizer", "generation")):
                continue  # a folder of files is copied
            model = Path(shutil.copytree(checkpoint("qwen2", shards=2), tmp_path / f"{name} {kind}"))
            (model / name).unlink(missing_ok=True)
            make(model / name)
            line = refused(model, out=tmp_path / "out")
            assert name in line and (kind in line or "is a link out of it" in line), line


def test_links_out_of_the_model_directory_are_not_copied(checkpoint, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    for name, to in (
        ("tokenizer.json", secret / "key"),
        ("folder", secret),
        ("up", "."),
        ("deep/up", ".."),
        ("far", "../secret/key"),
    ):
        model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / f"m {name.replace('/', ' ')}"))
        (model / "deep").mkdir()
        (model / name).symlink_to(to)
        line = refused(model, out=tmp_path / "out")
        assert name in line
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "m"))
    (model / "real.json").write_text("{}")
    (model / "tokenizer.json").symlink_to("real.json")
    assert planned(model).copied == ("config.json", "real.json", "tokenizer.json"), "a link within is a name"


def test_names_that_break_a_terminal(checkpoint, tmp_path, capsys):
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "m"))
    name = "evil\x1b[31m\nERROR: all is well" + "x" * 100000
    edit_tensors(model, lambda t: t.update({name: t[NORM].clone()}))
    line = refused(model)
    assert r"evil\x1b[31m\nERROR" in line and len(line) < 3000
    assert main(["plan", "-m", str(model), "-s", "64", "-q", "\x1b[31mx"]) == 2
    assert r"quantize=\x1b[31mx" in capsys.readouterr().err


@pytest.mark.parametrize("options, word", [
    ({"num_device": 10**9}, "Use distribute_strategy pp and num_device 4."),
    ({"num_device": 10**30}, "a number up to"),
    ({"seq": 10**12}, "a number up to"),
    ({"max_input_length": "1e3"}, "a whole number"),
    ({"batch": "٣"}, "a whole number"),
    ({"max_pixels": "٣,4"}, "two whole numbers"),
    ({"out": " "}, "a path is expected"),
    ({"out": "a\0b"}, "a path is expected"),
    ({"out": "o" * 1320}, "its path has"),
    ({"out": "\udcff"}, "not in UTF-8"),
])  # fmt: skip
def test_options_that_cannot_be(options, word, checkpoint):
    assert word in refused(checkpoint("qwen2"), **options)


def test_blanks_of_a_path_are_its_own(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert planned(checkpoint("qwen2"), out=" x ").job.out_dir == tmp_path / " x "


def test_a_name_that_is_too_long_for_a_file(checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / ("m" * 230)))
    assert "a file's name takes 255" in refused(model)
    model = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / ("m" * 150)))
    assert planned(model).folder.startswith("mmm")


def test_the_demo_on_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_links_in_the_output_directory_are_damage(tmp_path):
    """What a link leads to is neither emptied nor appended to."""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    out = tmp_path / "out"
    for folder in ("nets", "traces"):
        (out / ".llmconv" / folder).mkdir(parents=True)
    (out / "logs").symlink_to(tmp_path / "elsewhere")
    places = ["lock", "workers.lock", "events.jsonl", "state.db", "nets/block_0.json", "traces/run.json"]
    for name in places:
        (out / ".llmconv" / name).symlink_to(kept)
    with Lock(out / ".llmconv"):
        pass
    assert kept.read_text() == "kept" and not (out / "logs").is_symlink()
    assert not [name for name in places if (out / ".llmconv" / name).is_symlink()]
    shutil.rmtree(out / ".llmconv")
    (tmp_path / "elsewhere").mkdir()
    (out / ".llmconv").symlink_to(tmp_path / "elsewhere")
    with Lock(out / ".llmconv"):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["0", "meta.json", ""])
def test_links_in_the_cache_are_damage(name, tmp_path):
    kept = tmp_path / "kept"
    (tmp_path / "made").write_text("content")
    cache, key = Cache(tmp_path / "cache"), "ab" + "0" * 62
    meta = {"values": {}, "seconds": 0, "cpu": 0, "peak_rss": 0}
    cache.store(key, [str(tmp_path / "made")], meta | {"digests": [files.digest(str(tmp_path / "made"))]})
    entry = tmp_path / "cache" / "ab" / key
    shutil.move(entry / name if name else entry, kept)
    (entry / name if name else entry).symlink_to(kept)
    before = kept.stat()
    assert cache.fetch(key, [str(tmp_path / "staged")]) is None
    assert not (tmp_path / "staged").exists()
    assert (kept.stat().st_mode, kept.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    cache.store(key, [str(tmp_path / "made")], meta | {"digests": [files.digest(str(tmp_path / "made"))]})
    assert cache.fetch(key, [str(tmp_path / "staged")]), "a new entry takes its place"


def test_sigterm_ends_as_ctrl_c_does(tmp_path):
    """Also before a build listens."""
    code = (
        "import os, signal, sys; from llmconv.cli import actions, main\n"
        "actions.why = lambda args: os.kill(os.getpid(), signal.SIGTERM) or __import__('time').sleep(5)\n"
        "sys.exit(main.main(['why', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130 and not done.stderr
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_text_for_one_line():
    assert shown("a\nb\x1b\u202e\udcff") == r"a\nb\x1b\u202e\udcff"
    assert shown("日本 ü") == "日本 ü" and shown("x" * 100) == "x" * 77 + "..."


def test_an_error_is_one_line_of_a_bounded_length():
    line = str(ToolError("what\x07", "y" * 10**6, "do\nthat"))
    assert line.isprintable() and len(line) < 7000 and line.endswith(r"do\nthat")


def test_hostile_files_are_found_before_the_hub_is_asked():
    """A name of the hub is no path."""
    assert Job.create({"model": "org/name", "seq": "8"}).origin == "org/name"
