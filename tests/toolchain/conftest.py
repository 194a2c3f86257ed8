"""Fixtures of the toolchain's tests: fake compilers, and the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmconv.toolchain import pinned
from llmconv.toolchain.find import Toolchain
from llmconv.toolchain.pinned import VERSION


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """No test touches the user's cache, and only tests of the real compiler see it."""
    place = tmp_path / "cache"
    if "compiler" not in request.keywords:
        monkeypatch.setattr(pinned, "TREE_SHA256", "")  # the compilers of these tests are no real ones
        monkeypatch.setenv("LLMCONV_CACHE", str(place))
        monkeypatch.delenv("TPUC_ROOT", raising=False)
    return place


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Toolchain]:
    """Makes a toolchain whose tpuc-opt is a shell script: fake(text, name) -> Toolchain."""

    def make(script: str = "exit 0", name: str = "fake") -> Toolchain:
        root = tmp_path / name
        for part in (
            "bin/tpuc-opt",
            "bin/model_tool",
            "cross_toolchains/ppl_compile/bin/ppl-compile",
            "lib/libppl_host.so",
        ):
            path = root / part
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#!/bin/sh\n" + (script if part == "bin/tpuc-opt" else "exit 0") + "\n")
            path.chmod(0o755)
        return Toolchain(root, VERSION, "0" * 64)

    return make
