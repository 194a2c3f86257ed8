"""What the tests of the report share: a build whose compiler fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from report_helpers import HOSTILE


@pytest.fixture
def break_compiler(compiler, llmconv_env, tmp_path, monkeypatch) -> Callable[[], None]:
    """Call it, and the compiler prints HOSTILE and fails for every net."""
    root = tmp_path / "toolchain"
    shutil.copytree(compiler.root, root, copy_function=os.symlink)
    broken = root / "bin" / "tpuc-opt"
    real = broken.resolve()
    broken.unlink()
    broken.write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] && exec '{real}' --version\ncat <<'END'\nloc(\"x\"): error: 'tpu.MatMul' op failed: {HOSTILE}\nEND\nexit 1\n"
    )
    broken.chmod(0o755)
    return lambda: monkeypatch.setenv("TPUC_ROOT", str(root))


@pytest.fixture
def failed_build(checkpoint, break_compiler, tmp_path) -> Callable[..., Path]:
    """failed_build("--continue", ...) -> the output directory of a conversion in which every net failed.
    The checkpoint lies in a directory called HOSTILE, as far as a file system takes it."""
    from llmconv.cli.main import main

    def run(*more: str) -> Path:
        break_compiler()
        model = tmp_path / HOSTILE.replace("/", "|")
        shutil.copytree(checkpoint("qwen2"), model)
        assert main(["convert", "-m", str(model), "-s", "64", "-o", str(tmp_path / "out"), *more]) == 1
        return tmp_path / "out"

    return run
