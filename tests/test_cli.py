"""Both command lines: `llmconv ...` in this process and as a program, `doit ...` as a program."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from xxhash import xxh3_128_hexdigest

from llmconv.cli.main import convert_main, main
from llmconv.queries.dry_run import KEYS
from llmconv.request.options import OPTIONS
from llmconv.toolchain.pinned import FOLDER

ROOT = Path(__file__).parents[1]

MAIN = "import sys; from llmconv.cli.main import main; sys.exit(main())"


def doit(env: dict[str, str], *argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `doit ARGS` on the project's dodo.py."""
    return subprocess.run(
        [sys.executable, "-m", "doit", *argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def files(out: Path) -> dict[str, bytes]:
    """What a conversion gives to its user, but for manifest.json, which holds times."""
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in out.rglob("*")
        if (p.is_file() and p.parts[len(out.parts)] in ("config", "mlir"))
        or (p.suffix == ".bmodel" and ".llmconv" not in p.parts)
    }


@pytest.mark.compiler
def test_doit_and_llmconv_drive_the_same_graph(checkpoint, llmconv_env, tmp_path, capfd):
    model = checkpoint("qwen2")
    made = doit(llmconv_env, "convert", f"model={model}", "seq=64", f"out={tmp_path / 'a'}", "-n", "2")
    assert made.returncode == 0, made.stderr
    assert "qwen2_bf16_seq64_bm1684x_1dev_static.bmodel" in made.stdout
    assert main(["convert", "-m", str(model), "-s", "64", "-o", str(tmp_path / "b")]) == 0
    assert (
        convert_main(
            ["-m", str(model), "-s", "64", "-o", str(tmp_path / "c"), "--quantize", "bf16", "--processor", "bm1684x"]
        )
        == 0
    )
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    again = doit(llmconv_env, "convert", f"model={model}", "seq=64", f"out={tmp_path / 'a'}")
    assert "24 up to date in" in again.stdout and "7 up to date" in again.stdout
    assert not (ROOT / ".doit.db").exists()

    capfd.readouterr()
    assert main(["why", str(tmp_path / "a")]) == 0
    assert "up to date" in capfd.readouterr().out
    assert main(["why", str(tmp_path / "a"), "block_0"]) == 0
    assert "compile:block_0 is up to date" in capfd.readouterr().out
    assert main(["plan", "-m", str(model), "-s", "64", "-q", "w4bf16", "-o", str(tmp_path / "a")]) == 0
    told = capfd.readouterr().out
    assert "flags.mode: BF16 -> W4BF16" in told and "compile:embedding" not in told
    assert main(["plan", "-m", str(model), "-s", "64", "-o", str(tmp_path / "new")]) == 0
    assert "12 to run, 12 from the cache" in capfd.readouterr().out

    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert [n["name"] for n in manifest["nets"]][:3] == ["embedding", "lm_head", "block_cache_0"]
    assert manifest["nets"][2]["inputs"][3] == {"name": "history_k", "shape": [1, 64, 2, 64], "dtype": "bf16"}
    assert all(n["cycles"] and n["coefficient_sha256"] for n in manifest["nets"])
    for made in (n for n in manifest["nets"] if n["coefficients"] == f"{n['name']}.coeff"):
        content = next((tmp_path / "a").rglob(made["coefficients"])).read_bytes()
        assert made["coefficient_sha256"] == hashlib.sha256(content).hexdigest()
        assert made["coefficient_xxh3"] == xxh3_128_hexdigest(content)


@pytest.mark.compiler
def test_only_mlir_exports_every_layer_and_a_full_build_uses_it(checkpoint, llmconv_env, tmp_path, capfd):
    model, out = checkpoint("qwen2", num_hidden_layers=3), tmp_path / "out"
    argv = ["convert", "-m", str(model), "-s", "64", "-o", str(out)]
    assert main([*argv, "--only_mlir"]) == 0
    assert {p.stem for p in (out / "mlir").glob("*.mlir")} == {
        "embedding",
        "embedding_cache",
        "lm_head",
        *(f"block{c}_{i}" for c in ("", "_cache") for i in range(3)),
    }
    assert not list(out.glob("*.bmodel"))
    capfd.readouterr()
    assert main(argv) == 0
    assert "export:" not in capfd.readouterr().out


def test_list_works_without_a_model(llmconv_env):
    told = doit(llmconv_env, "list")
    assert told.returncode == 0 and told.stdout.startswith("convert ")


def test_list_shows_the_graph(checkpoint, llmconv_env, tmp_path):
    told = doit(llmconv_env, "list", "--all", f"model={checkpoint('qwen2')}", "seq=64", f"out={tmp_path / 'o'}")
    names = [line.split()[0] for line in told.stdout.splitlines()]
    for stage in ("export", "compile"):
        assert [n for n in names if n.startswith(f"{stage}:block_cache")] == [
            f"{stage}:block_cache_0",
            f"{stage}:block_cache_1",
        ]
    assert {"toolchain", "checkpoint:model.safetensors", "merge", "config", "manifest", "convert"} <= set(names)
    assert not (tmp_path / "o").exists()


def test_help_tells_every_option_as_a_variable(llmconv_env):
    for task in ("convert", "verify"):
        told = doit(llmconv_env, "help", task).stdout
        assert "\n  model=DIR " in told and "\n  seq=N " in told and "--reporter=ARG" in told
        for option in OPTIONS:
            line = next(line for line in told.splitlines() if line.startswith(f"  {option.variable or option.name}="))
            assert " ".join(option.help.split()[:3]) in line


@pytest.mark.compiler
def test_doit_reports_and_cleans_a_conversion(checkpoint, llmconv_env, tmp_path):
    out = tmp_path / "out"
    given = [f"model={checkpoint('qwen2')}", "seq=64", f"out={out}"]
    done = doit(llmconv_env, "convert", "--reporter", "json", *given)
    told = json.loads(done.stdout)
    assert done.stderr == "" and {task["result"] for task in told["tasks"]} == {"success"}
    assert "qwen2_bf16_seq64" in told["out"], "the summary is in it"
    assert doit(llmconv_env, "info", "compile:block_0", *given).stdout.count("\n") < 40
    (out / "config" / "notes.txt").write_text("")
    assert "freed" in doit(llmconv_env, "clean", *given).stdout
    assert {path.name for path in out.iterdir() if path.name not in (".llmconv", "logs", "mlir")} == {"report.html"}
    assert not [path for path in out.rglob("*") if path.suffix in (".mlir", ".bmodel", ".coeff")]
    again = doit(llmconv_env, "convert", *given)
    assert again.returncode == 0 and list(out.glob("*.bmodel"))


@pytest.mark.parametrize(
    "wrong, says",
    [("sequ=3", "Did you mean seq?"), ("chip=bm1684", "Did you mean bm1684x?"), ("seq=no", "a whole number")],
)
def test_doit_refuses_what_llmconv_refuses(llmconv_env, checkpoint, wrong, says):
    told = doit(
        llmconv_env,
        "convert",
        f"model={checkpoint('qwen2')}",
        *(["seq=64"] if not wrong.startswith("seq=") else []),
        wrong,
    )
    assert told.returncode == 2 and says in told.stderr and "Traceback" not in told.stderr


def test_version_names_everything_that_a_result_depends_on(llmconv_env, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["-V"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["llmconv", "tpu_mlir", "transformers", "torch"]


def test_dry_run_prints_the_vendors_keys_resolved_and_writes_nothing(checkpoint, llmconv_env, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(["convert", "-m", str(checkpoint("qwen2")), "-s", "128", "-c", "bm1688", "-o", str(out), "--dry_run"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "=== llm_convert dry-run ==="
    assert [line.split(" = ")[0].strip() for line in lines[1 : 1 + len(KEYS)]] == KEYS
    values = {k.strip(): v for k, _, v in (line.partition(" = ") for line in lines[1 : 1 + len(KEYS)])}
    assert (values["quantize"], values["max_input_length"], values["num_core"]) == ("bf16", "128", "2")
    assert not out.exists()


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{o.name}" in text for o in OPTIONS)


def test_doctor(llmconv_env, capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("cmake", "make", "c++", "glibc", "compiler", "disk", "memory"))


def test_gc_removes_other_compilers(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path))
    old, present = tmp_path / "tpu_mlir-1.0", tmp_path / FOLDER
    for place in (old, present, tmp_path / "shadow" / "tpu_mlir-1.0-abc"):
        place.mkdir(parents=True)
        (place / "file").write_bytes(bytes(2000))
    assert main(["gc", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"would free 2.0 kB: {old}" in told and str(present) not in told and old.exists()
    assert main(["gc"]) == 0
    assert f"freed 2.0 kB: {old}" in capsys.readouterr().out
    assert not old.exists() and not list((tmp_path / "shadow").iterdir()) and present.exists()


@pytest.mark.parametrize(
    "below, why", [("ftp://host/cache", "http:// or https://"), ("/nowhere/at/all", "no such directory")]
)
def test_caches_that_cannot_be(below, why, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LLMCONV_CACHE_BELOW", below)
    assert main(["doctor"]) == 1
    assert f"LLMCONV_CACHE_BELOW names {below}: " in (told := capsys.readouterr().out) and why in told


def test_gc_keeps_to_the_size(llmconv_env, capsys):
    assert main(["gc", "--max-size", "100T"]) == 0
    assert capsys.readouterr().out.startswith("freed 0 B")
    assert main(["gc", "--max-size", "much"]) == 2


@pytest.mark.parametrize("command", [["--help"], ["doctor"], ["gc", "--dry-run"]], ids=" ".join)
def test_a_closed_stdout_ends_quietly(command):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", MAIN, *command], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_another_broken_pipe_is_an_error(monkeypatch):
    def broken(args):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("llmconv.cli.actions.doctor", broken)
    with pytest.raises(BrokenPipeError):
        main(["doctor"])
