"""The variables of the compiler's processes."""

from __future__ import annotations

import os
from pathlib import Path

from llmconv.toolchain.environment import environment
from llmconv.toolchain.find import Toolchain

TC = Toolchain(Path("/opt/tc"), "1.30.2", "0")


def test_what_is_set() -> None:
    env = environment(TC, Path("/k"), 3, {"PATH": "/usr/bin", "HOME": "/h", "CC": "gcc-12"})
    ppl = "/opt/tc/cross_toolchains/ppl_compile"
    assert env["TPUC_ROOT"] == "/opt/tc" and env["PPL_CACHE_PATH"] == "/k" and env["OMP_NUM_THREADS"] == "3"
    assert env["PATH"] == f"/opt/tc/bin:{ppl}/bin:/usr/bin"
    assert (env["PPL_PROJECT_ROOT"], env["PPL_RUNTIME_PATH"]) == (ppl, f"{ppl}/deps")
    assert (env["LC_ALL"], env["HOME"], env["CC"]) == ("C", "/h", "gcc-12")


def test_what_is_dropped() -> None:
    harmful = (
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LD_BIND_NOW",
        "MAKEFLAGS",
        "DESTDIR",
        "CMAKE_GENERATOR",
        "CFLAGS",
        "PPL_WORK_PATH",
        "TPU_RT_CORE_NUM",
        "OMP_PLACES",
        "LC_NUMERIC",
        "LANG",
        "CMODEL_GLOBAL_MEM_SIZE",
    )
    assert not set(harmful) & set(environment(TC, Path("/k"), 1, dict.fromkeys(harmful, "1")))


def test_our_own_environment_is_not_touched() -> None:
    before = dict(os.environ)
    environment(TC, Path("/k"), 0)
    assert dict(os.environ) == before


def test_an_empty_path() -> None:
    assert environment(TC, Path("/k"), 1, {})["PATH"].endswith(os.defpath)
