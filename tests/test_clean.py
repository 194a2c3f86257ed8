"""`llmconv clean OUT`: what conversions have made goes, and nothing else, through no link."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from llmconv.cli.main import main
from llmconv.queries.clean import clean
from llmconv.request.output import Layout


def listed(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it, but for what SQLite keeps beside its own while it reads."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("state.db-"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def exported(checkpoint, llmconv_env, tmp_path) -> Path:
    """An output directory in which MLIR was written, and no more."""
    out = tmp_path / "out"
    assert main(["convert", "-m", str(checkpoint("qwen2")), "-s", "64", "-o", str(out), "--only_mlir"]) == 0
    assert (out / "mlir").is_dir()
    return out


@pytest.mark.compiler
def test_a_conversion_is_removed_whole(convert, checkpoint, tmp_path, capsys):
    out = convert(checkpoint("qwen2"), seq=64)
    before = listed(out)
    bmodel = next(out.glob("*.bmodel"))
    told = clean(out, dry=True)
    assert listed(out) == before, "nothing is removed by a look"
    names = {path.name for path in out.iterdir()}
    assert names >= {"SHA256SUMS", "config", "manifest.json", "mlir", "report.html", ".llmconv", bmodel.name}
    for name in names:
        assert f"would remove {out / name} (" in told
    assert "would free" in told and "in the cache" in told and "left" not in told
    assert main(["clean", str(out)]) == 0
    assert "freed " in capsys.readouterr().out and not out.exists()


@pytest.mark.compiler
def test_what_others_have_put_there_stays(convert, checkpoint, tmp_path):
    out = convert(checkpoint("qwen2"), seq=64)
    own = {"notes.txt": b"mine", "config/notes.txt": b"mine", "old.bmodel": b"mine", "empty": None}
    for name, text in own.items():
        (out / name).mkdir() if text is None else (out / name).write_bytes(text)
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "a.mlir").write_bytes(b"mine")
    (out / "link").symlink_to(tmp_path / "place")
    (out / "report.html").unlink()
    (out / "report.html").symlink_to(tmp_path / "place" / "a.mlir")
    told = clean(out, dry=False)
    assert "left, because no conversion is known to have made it: config/notes.txt, link, notes.txt, old.bmodel" in told
    assert listed(out) == {name: text for name, text in own.items() if text is not None} | {"report.html": b"mine"}
    assert (out / "empty").is_dir() and (out / "link").is_symlink() and (out / "report.html").is_symlink()
    assert listed(tmp_path / "place") == {"a.mlir": b"mine"}


def test_an_unfinished_build_is_removed_too(exported):
    (exported / "mlir" / "block_0.mlir.part.0123abcd").write_bytes(b"staged by a run that was killed")
    clean(exported, dry=False)
    assert not exported.exists()


def test_links_in_its_own_directories_are_not_followed(exported, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "block_0.mlir").write_bytes(b"mine")
    for path in (exported / "mlir").iterdir():
        path.unlink()
    (exported / "mlir").rmdir()
    (exported / "mlir").symlink_to(place)
    (exported / ".llmconv" / "nets").symlink_to(place)
    clean(exported, dry=True)
    clean(exported, dry=False)
    assert listed(place) == {"block_0.mlir": b"mine"} and not exported.exists()


@pytest.mark.parametrize("kind", ["absent", "other", "file", "link", "state is a link", "no job"])
def test_what_is_no_output_directory_is_refused(kind, exported, tmp_path, capsys):
    given = tmp_path / "given"
    if kind == "other":
        given.mkdir()
        (given / "manifest.json").write_text("{}")
    elif kind == "file":
        given.write_text("mine")
    elif kind == "link":
        given.symlink_to(exported)
    elif kind == "state is a link":
        given.mkdir()
        (given / ".llmconv").symlink_to(exported / ".llmconv")
    elif kind == "no job":
        given = exported
        Layout(exported).job.write_text("[]")
    before = listed(tmp_path)
    assert main(["clean", str(given)]) == 2
    told = capsys.readouterr().err
    assert (told.startswith("ERROR: ") and told.count("\n") == 1 and "given" in told) or "out" in told
    assert listed(tmp_path) == before


def test_a_running_build_is_left_alone(exported, capsys):
    before = listed(exported)
    with open(exported / ".llmconv" / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["clean", str(exported)]) == 1
        assert "is being built" in capsys.readouterr().err
        assert main(["clean", "-n", str(exported)]) == 0
    assert listed(exported) == before


def test_what_cannot_be_removed_is_told(exported, monkeypatch, capsys):
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("llmconv.engine.outputs.remove", refuse)
    assert main(["clean", str(exported)]) == 1
    told = capsys.readouterr().err
    assert f"{exported / 'mlir'}" in told and "cannot be removed: Permission denied" in told and told.count("\n") == 1


def test_the_model_may_be_gone(exported):
    """Neither the checkpoint nor a valid option is needed to clean."""
    Layout(exported).job.write_text('{"model_path": "/nowhere", "chip": "of another version"}')
    clean(exported, dry=False)
    assert not exported.exists()
