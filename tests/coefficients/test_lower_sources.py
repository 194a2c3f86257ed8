"""Rows of matrices that are made of many tensors, such as those of all experts: read as they are needed, whatever their
size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lower_samples import bf16, save

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.recipe import evaluate
from llmconv.coefficients import sources
from llmconv.coefficients.rounding import to_float
from llmconv.coefficients.sources import Source

SIZES = (5, 3, 8)  # rows of each tensor
BELOW = ("concat", *(("tensor", f"t{i}") for i in range(3)))  # [16, 6]
BESIDE = ("transpose", ("concat", *(("transpose", ("tensor", f"s{i}")) for i in range(3))))  # [4, 16]
MIXED = ("concat", ("tensor", "t0"), ("rows", ("tensor", "wide"), 2, 5))  # [8, 6]
# one tensor [3, 4, 6] with two matrices of two rows each three times: the second of each
ALL = ("reshape", ("tensor", "all"), (12, 6))
SECOND = ("concat", *(("rows", ALL, first, first + 2, 12) for first in (2, 6, 10)))  # [6, 6]
ACROSS = (
    "transpose",
    ("concat", *(("transpose", ("rows", ALL, first, first + 4, 12)) for first in (0, 4, 8))),
)  # [4, 18]
RANGES = ((0, 16), (0, 1), (4, 6), (5, 8), (7, 16), (15, 16), (3, 9))


@pytest.fixture
def found(tmp_path: Path) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """A checkpoint and its tensors, exact in bf16."""
    rng = np.random.default_rng(0)
    shapes = (
        {f"t{i}": (n, 6) for i, n in enumerate(SIZES)}
        | {f"s{i}": (4, n) for i, n in enumerate(SIZES)}
        | {"wide": (9, 6), "all": (3, 4, 6)}
    )
    values = {name: rng.integers(-99, 99, shape).astype(np.float32) for name, shape in shapes.items()}
    stored = {name: ("F32", x) if name == "wide" else ("BF16", bf16(x)) for name, x in values.items()}
    return save(tmp_path, stored), values


@pytest.mark.parametrize("ahead", [1, 40, 1 << 22])
@pytest.mark.parametrize(
    "recipe",
    [BELOW, BESIDE, MIXED, ("rows", BELOW, 2, 15), SECOND, ACROSS],
    ids=["below", "beside", "mixed", "rows", "second", "across"],
)
def test_rows_of_several_tensors(recipe, ahead, found, monkeypatch):
    checkpoint, tensors = found
    monkeypatch.setattr(sources, "WHOLE", 0)  # nothing is small enough to be evaluated as a whole
    monkeypatch.setattr(sources, "AHEAD", ahead)
    below = np.concatenate([tensors[f"t{i}"] for i in range(3)])
    wholes = {
        BELOW: below,
        BESIDE: np.concatenate([tensors[f"s{i}"] for i in range(3)], 1),
        MIXED: np.concatenate([tensors["t0"], tensors["wide"][2:5]]),
        SECOND: tensors["all"][:, 2:].reshape(6, 6),
        ACROSS: np.concatenate(list(tensors["all"]), 1),
    }
    whole = wholes.get(recipe, below[2:15])
    source, linear = Source(recipe, checkpoint), Source(("transpose", recipe), checkpoint, transposed=True)
    assert source.shape == linear.shape == whole.shape and source.width == whole.shape[1]
    for first, last in RANGES:
        last = min(last, len(whole))
        if first < last:
            for one in (source, linear):
                values, stored = one.read(first, last)
                assert (stored == "BF16") == ("wide" not in str(recipe) or last <= 5) and np.array_equal(
                    to_float(values, stored), whole[first:last]
                )
            assert np.array_equal(evaluate(("rows", recipe, first, last), checkpoint), whole[first:last])
            assert np.array_equal(
                evaluate(("rows", ("transpose", ("transpose", recipe)), first, last), checkpoint), whole[first:last]
            )


def test_rows_of_a_constant(found, monkeypatch):
    monkeypatch.setattr(sources, "WHOLE", 0)
    source = Source(("fill", (9, 2, 3), 7.0), found[0])
    values, stored = source.read(4, 6)
    assert (source.shape, stored, values.shape) == ((9, 2, 3), "F32", (2, 2, 3)) and np.all(values == 7)


def test_rows_read_no_other_tensors(found, monkeypatch):
    checkpoint, _ = found
    read = []
    float32 = Checkpoint.float32

    def noted(self, name, rows=None, shape=None):
        read.append((name, rows))
        return float32(self, name, rows, shape)

    monkeypatch.setattr(Checkpoint, "float32", noted)
    evaluate(("rows", BELOW, 6, 8), checkpoint)
    assert read == [("t1", slice(1, 3))]
    read.clear()
    evaluate(("rows", BESIDE, 1, 2), checkpoint)
    assert read == [(f"s{i}", slice(1, 2)) for i in range(3)]
    read.clear()
    evaluate(("rows", ACROSS, 1, 2), checkpoint)
    assert read == [("all", slice(first + 1, first + 2)) for first in (0, 4, 8)]
