"""The loops of llmconv.coefficients.loops in machine code: loops.c, which the machine's C compiler compiles once.

The library is kept in the user's cache. It is used only where it gives the bits of NumPy's loops on a sample; one that
is damaged is made anew. Where none can be had, NumPy's are used, which takes seven times as long.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llmconv.coefficients import loops
from llmconv.user_cache import cache_dir, per_user

SOURCE = Path(__file__).with_name("loops.c")
FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 60  # for the compiler
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int


@dataclass(frozen=True)
class Loops:
    """The functions of llmconv.coefficients.loops."""

    extremes: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]] = loops.extremes
    codes: Callable[[np.ndarray, np.ndarray, np.ndarray, int, int, int], np.ndarray] = loops.codes


@cache
def fastest() -> Loops:
    """The fastest loops that this machine has; looked for once in a process."""
    name = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16] + ".so"
    kept = (place / "native" / name for place in dict.fromkeys((cache_dir(), per_user())))
    found = next(filter(None, (checked(library) for library in kept if library.is_file())), None)
    try:
        return found or _made(cache_dir() / "native" / name) or Loops()
    except (OSError, subprocess.SubprocessError):  # no compiler, one that fails, a cache that cannot be written
        return Loops()


def _made(library: Path) -> Loops | None:
    """Compile the library, and keep it if it is right. OSError where there is no compiler, CalledProcessError where it
    fails."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if not compiler:
        raise FileNotFoundError("no C compiler")
    library.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix="part.", suffix=".so", dir=library.parent)
    os.close(handle)  # the linker makes another file of that name
    try:
        subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", part],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=SECONDS,
        )
        found = checked(Path(part))
        if found:
            with open(part, "rb") as made:
                os.fsync(made.fileno())
            os.replace(part, library)
        return found
    finally:
        Path(part).unlink(missing_ok=True)


def checked(library: Path) -> Loops | None:
    """The loops of a library; None where it cannot be loaded, or where they differ from NumPy's on a sample."""
    try:
        found = _bound(ctypes.CDLL(str(library)))
    except (OSError, AttributeError):  # no library; one without these functions
        return None
    return found if all(_same(found, values, n) for values, n in _sample()) else None


def _sample() -> list[tuple[np.ndarray, int]]:
    """Weights [8, 96] of both types, and the inputs of a group: ties, zeros, large and small ones."""
    values = np.random.default_rng(0).standard_normal((8, 96), np.float32)
    values[1] = np.arange(96, dtype=np.float32) / 2 - 23
    values[2] *= np.float32(2.0**90)
    values[3, ::3], values[4] = 0, -(values[4] ** 2)
    return [(one, n) for one in (values, (values.view(np.uint32) >> 16).astype(np.uint16)) for n in (32, 48, 96)]


def _same(found: Loops, values: np.ndarray, n: int) -> bool:
    high, low = loops.extremes(values, 96 // n)
    step = np.maximum(high - low, np.float32(2.0**-60)) / np.float32(30)
    zero = np.arange(step.size, dtype=np.uint8).reshape(step.shape)
    return all(map(np.array_equal, found.extremes(values, 96 // n), (high, low))) and all(
        np.array_equal(found.codes(values, step, zero, *way), loops.codes(values, step, zero, *way))
        for way in ((4, 0, 15), (8, 0, 255), (8, -128, 127))
    )


def _bound(library: ctypes.CDLL) -> Loops:
    """The library's functions behind the signatures of NumPy's."""
    kinds = {np.dtype(np.uint16): "bf16", np.dtype(np.float32): "f32"}
    extremes_of = {kind: _found(library, f"extremes_{name}") for kind, name in kinds.items()}
    codes_of = {kind: _found(library, f"codes_{name}") for kind, name in kinds.items()}
    for function in extremes_of.values():
        function.argtypes, function.restype = (_POINTER, _LONG, _LONG, _POINTER, _POINTER), None
    for function in codes_of.values():
        function.argtypes, function.restype = (_POINTER, _LONG, _LONG, *(_POINTER,) * 2, *(_INT,) * 3, _POINTER), None

    def extremes(values: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.ascontiguousarray(values)
        high, low = (np.empty((len(values), groups), np.float32) for _ in range(2))
        extremes_of[values.dtype](
            values.ctypes.data, high.size, values.size // high.size, high.ctypes.data, low.ctypes.data
        )
        return high, low

    def codes(values: np.ndarray, step: np.ndarray, zero: np.ndarray, bits: int, least: int, most: int) -> np.ndarray:
        values, step, zero = map(np.ascontiguousarray, (values, step, zero))
        packed = np.empty((len(values), values.shape[1] * bits // 8), np.uint8)
        sizes = step.size, values.size // step.size
        given = step.ctypes.data, zero.ctypes.data, bits, least, most
        codes_of[values.dtype](values.ctypes.data, *sizes, *given, packed.ctypes.data)
        return packed

    return Loops(extremes, codes)


def _found(library: ctypes.CDLL, name: str) -> Any:
    """A function of a library. AttributeError when it has none of that name."""
    try:
        return getattr(library, name)
    except AttributeError:  # what clang 14 calls one that has a version for each kind of processor
        return getattr(library, f"{name}.ifunc")
