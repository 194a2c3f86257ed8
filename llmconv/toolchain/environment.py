"""The environment of the compiler's processes. llmconv's own environment stays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llmconv.toolchain.find import Toolchain

# Variables of a user's shell that would change the work of the compiler or its JIT (ppl-compile, cmake, make, c++).
# LD_LIBRARY_PATH beats the RUNPATH by which the compiler finds its own libraries, and it needs none: measured.
_DROPPED = frozenset(
    {
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LD_AUDIT",
        "LD_BIND_NOW",
        "MAKEFLAGS",
        "MFLAGS",
        "GNUMAKEFLAGS",
        "MAKELEVEL",
        "MAKEFILES",
        "DESTDIR",
        "CFLAGS",
        "CXXFLAGS",
        "CPPFLAGS",
        "LDFLAGS",
        "CACHE_ITEMS",
        "LANG",
        "LANGUAGE",
        "BASH_ENV",
        "ENV",
        "DEBUG",
        "VERBOSE",
    }
)
_DROPPED_PREFIXES = (
    "PPL_",
    "TPU",
    "CMODEL_",
    "STAS_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "LC_",
    "CMAKE_",
    "CUSTOM_LAYER_",
    "BMRT",
    "BMLIB",
)
_NO_EVICTION = str(10**6)


def environment(tc: Toolchain, ppl_cache: Path, threads: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a child of `tc`; `ppl_cache` is the folder where the attention JIT finds and puts its kernels.

    base: the variables to start from (ours by default). threads: OpenMP threads of one compiler (the result is the same
    with any number).
    """
    source = os.environ if base is None else base
    env = {k: v for k, v in source.items() if k not in _DROPPED and not k.startswith(_DROPPED_PREFIXES)}
    root, ppl = tc.root, tc.root / "cross_toolchains" / "ppl_compile"
    env.update(
        TPUC_ROOT=str(root),
        PATH=os.pathsep.join([str(root / "bin"), str(ppl / "bin"), env.get("PATH") or os.defpath]),
        PPL_PROJECT_ROOT=str(ppl),
        PPL_BUILD_PATH=str(root / "build" / "ppl"),
        PPL_RUNTIME_PATH=str(ppl / "deps"),
        PPL_CACHE_PATH=str(ppl_cache),
        CACHE_ITEMS=_NO_EVICTION,  # the JIT runs `rm -rf` on its oldest entry beyond 100
        TPUKERNEL_CUSTOM_FIRMWARE_PATH=str(root / "lib" / "libcmodel_custom.so"),
        CUSTOM_LAYER_UNITTEST_DIR=str(root / "customlayer" / "test_if" / "unittest"),
        OMP_NUM_THREADS=str(max(1, threads)),
        LC_ALL="C",
        # large pages for large arrays, where the system has them on request: 13 % less time for a 7B's linears
        GLIBC_TUNABLES=env.get("GLIBC_TUNABLES") or "glibc.malloc.hugetlb=1",
    )
    return env
