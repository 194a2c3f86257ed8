"""The machine code of the loops: what it is held against, and what happens where it cannot be had."""

import os
import subprocess
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from llmconv.coefficients import loops, native
from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.quantize import Scheme, quantize


@pytest.fixture(autouse=True)
def anew(monkeypatch, tmp_path):
    """A cache of its own, and nothing remembered before and after."""
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))
    native.fastest.cache_clear()
    yield
    native.fastest.cache_clear()


def kept(tmp_path) -> list[str]:
    return sorted(os.listdir(tmp_path / "cache" / "native"))


def test_it_is_made_once_and_kept(tmp_path, monkeypatch):
    assert native.fastest().codes is not loops.codes
    (library,) = kept(tmp_path)
    native.fastest.cache_clear()
    monkeypatch.setenv("PATH", "")  # no compiler is needed any more
    assert native.fastest().codes is not loops.codes
    assert kept(tmp_path) == [library]


@pytest.mark.parametrize("half, n", list(product((False, True), (2, 6, 32, 64, 128, 510, 1000))))
def test_it_gives_the_bits_of_numpys_loops(half, n):
    """Random bit patterns of all sizes, groups longer than what is packed at a time, and odd numbers of rows."""
    fast, random = native.fastest(), np.random.default_rng(n)
    assert fast.codes is not loops.codes
    for rows, groups in ((1, 1), (7, 3), (64, 2)):
        values = random.standard_normal((rows, groups * n), np.float32) * np.float32(2.0) ** random.integers(
            -120, 120, (rows, 1)
        ).astype(np.float32)
        values[random.random(values.shape) < 0.1] = 0
        if half:
            values = (values.view(np.uint32) >> 16).astype(np.uint16)
        found, right = fast.extremes(values, groups), loops.extremes(values, groups)
        assert all(map(np.array_equal, found, right))
        high, low = right
        step = np.maximum(high - low, np.float32(2.0**-90)) / np.float32(random.integers(2, 600))
        zero = random.integers(0, 256, step.shape).astype(np.uint8)
        for way in ((4, 0, 15), (8, 0, 255), (8, -128, 127)):
            assert np.array_equal(fast.codes(values, step, zero, *way), loops.codes(values, step, zero, *way))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("half", [False, True])
def test_what_is_not_finite_shows_in_the_extremes(value, half):
    values = np.ones((2, 64), np.float32)
    values[1, 9] = value
    if half:
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    for one in (native.fastest(), native.Loops()):
        high, low = one.extremes(values, 2)
        with np.errstate(invalid="ignore"):
            assert np.isfinite(high - low).tolist() == [[True, True], [False, True]]


def test_quantising_is_the_same_without_it(monkeypatch):
    values = np.random.default_rng(1).standard_normal((32, 256), np.float32)
    values[3] = 0
    schemes = [
        Scheme(4, 64, False, "bf16"),
        Scheme(4, 32, True, "f16"),
        Scheme(8, 64, False, "f16"),
        Scheme(8, 0, False, "bf16"),
    ]
    fast = [quantize(values, scheme) for scheme in schemes]
    monkeypatch.setattr("llmconv.coefficients.quantize.fastest", native.Loops)
    for one, scheme in zip(fast, schemes, strict=True):
        assert all(map(np.array_equal, one, quantize(values, scheme)))


@pytest.mark.parametrize("group, width", [(0, 33), (3, 96)])
@pytest.mark.parametrize("half", [False, True])
def test_groups_of_odd_numbers_are_refused(group, width, half):
    values = np.ones((2, width), np.uint16 if half else np.float32)
    with pytest.raises(NotCovered, match="odd"):
        quantize(values, Scheme(8, group, False, "bf16"))


def other(right: str, wrong: str):
    """Puts a library with the right names and other results where it is told."""

    def put(path) -> None:
        source = native.SOURCE.read_text().replace(right, wrong)
        assert source != native.SOURCE.read_text()
        file = path.with_suffix(".c")
        file.write_text(source)
        subprocess.run(["cc", *native.FLAGS, str(file), "-o", str(path)], check=True)
        file.unlink()

    return put


SPOILS = {
    "rounds otherwise": other("found + 1 + (found >> 31)", "found + 2 + (found >> 31)"),
    "pairs that are left over": other("(int)(end - pair), step[g], zero[g]", "(int)(end - pair), step[g], zero[g] + 1"),
    "no library": lambda path: path.write_bytes(b"no library"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
@pytest.mark.parametrize("compiler", [True, False])
def test_a_library_that_is_not_right_is_not_used(spoil, compiler, tmp_path, monkeypatch):
    """It is made anew where that is possible."""
    native.fastest()
    (library,) = kept(tmp_path)
    native.fastest.cache_clear()
    monkeypatch.setenv(
        "LLMCONV_CACHE", str(tmp_path / "other")
    )  # what a process has opened once it does not open again
    (tmp_path / "other" / "native").mkdir(parents=True)
    spoil(spoilt := tmp_path / "other" / "native" / library)
    before = spoilt.read_bytes()
    if not compiler:
        monkeypatch.setenv("PATH", "")
    fast = native.fastest()
    assert (fast.codes is not loops.codes) == (spoilt.read_bytes() != before) == compiler
    assert all(native._same(fast, *one) for one in native._sample())
    assert os.listdir(spoilt.parent) == [library]


@pytest.mark.parametrize("how", ["no compiler", "a compiler that fails", "no cache"])
def test_where_it_cannot_be_made_numpys_loops_are_used(how, tmp_path, monkeypatch):
    if how == "no compiler":
        monkeypatch.setenv("PATH", "")
    elif how == "a compiler that fails":
        (tmp_path / "cc").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "cc").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    else:
        (tmp_path / "cache").write_text("a file")
    assert native.fastest() == native.Loops()
    assert how == "no cache" or not (tmp_path / "cache" / "native").exists() or kept(tmp_path) == []


def test_the_names_that_clang_14_gives_are_found():
    assert native._found(SimpleNamespace(**{"codes_f32.ifunc": 1}), "codes_f32") == 1
    with pytest.raises(AttributeError):
        native._found(SimpleNamespace(), "codes_f32")
